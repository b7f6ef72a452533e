"""The range of released rows, and with it a row's sensitivity.

That is how far one record can move a row.

One record can move a model that was not trained privately anywhere, and so its prediction from any
point of the range to any other: the sensitivity is the range's diameter. It is derived here and is
no setting. Everything that depends on data comes before; noise comes after.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.settings.validators import positive
from fedkd.training.losses import Scale

Rows = Float[Tensor, "N C"]
Norm = Literal[1, 2]
"""L1, which Laplace noise needs, or L2, which Gaussian noise needs."""


def bound_rows(values: Rows, scale: Scale, clip_norm: float | None, norm: Norm) -> Rows:
    """Return rows of diameter ``diameter(scale, clip_norm, norm)``, in float64.

    Any values may come in.

    Logits are centred, which a softmax does not see, and shortened to ``clip_norm``; soft labels
    are clamped to be >= 0 and divided by their sum. Values that are not finite become zeros, in
    soft labels the whole row uniform.

    >>> bound_rows(torch.tensor([[4.0, -2.0]]), "logits", 2.0, 1).tolist()
    [[1.0, -1.0]]

    Args:
        values: Rows of any finite or other values.
        scale: What they are, logits or soft labels.
        clip_norm: The norm that logits are shortened to; None for soft labels.
        norm: 1 or 2.
    """
    rows = values.to(torch.float64)
    finite = torch.isfinite(rows)
    rows = torch.where(finite, rows, 0.0)
    if scale == "probs":
        rows = rows.clamp(min=0.0, max=1.0)
        total = rows.sum(dim=-1, keepdim=True)
        broken = ~finite.all(dim=-1, keepdim=True) | (total <= 0)
        return torch.where(broken, 1 / rows.shape[-1], rows / torch.where(broken, 1.0, total))
    assert clip_norm is not None, "checked against the plan"
    rows = rows - rows.mean(dim=-1, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(rows, ord=norm, dim=-1, keepdim=True)
    return rows * (clip_norm / length.clamp(min=clip_norm))


def diameter(scale: Scale, clip_norm: float | None, norm: Norm) -> float:
    """Return how far two bounded rows can be apart.

    Twice the clip norm, or sqrt(2) (in L1: 2) for soft labels.

    >>> diameter("logits", 1.0, 2), round(diameter("probs", None, 2), 4), diameter("probs", None, 1)
    (2.0, 1.4142, 2.0)
    """
    if scale == "probs":
        return math.sqrt(2) if norm == 2 else 2.0
    assert clip_norm is not None, "checked against the plan"
    return 2.0 * clip_norm


def check_clip(scale: Scale, clip_norm: float | None) -> None:
    """Raise unless logits, and only they, have a clip norm."""
    if clip_norm is not None:
        positive(clip_norm=clip_norm)
    if scale == "logits" and clip_norm is None:
        raise SettingError(
            "clip_norm must be given: this strategy's clients upload logits, which have no bound"
        )
    if scale == "probs" and clip_norm is not None:
        raise SettingError(
            f"clip_norm={clip_norm} would do nothing: soft labels, which are uploaded here, are"
            " bounded"
        )


def onto_simplex(rows: Rows) -> Rows:
    """Return the soft labels nearest to noisy rows (Euclidean).

    Costs no privacy: it looks at the noisy rows alone.

    The projection of Duchi et al. 2008: ``max(v - t, 0)`` with the t that makes it sum to 1.

    >>> onto_simplex(torch.tensor([[0.75, 0.75, -3.0], [0.2, 0.3, 0.5]])).tolist()
    [[0.5, 0.5, 0.0], [0.20000000298023224, 0.30000001192092896, 0.5]]
    """
    ordered, _ = rows.sort(dim=-1, descending=True)
    excess = ordered.cumsum(dim=-1) - 1
    counts = torch.arange(1, rows.shape[-1] + 1, dtype=rows.dtype, device=rows.device)
    last = (ordered * counts > excess).sum(dim=-1, keepdim=True).clamp(min=1)
    threshold = excess.gather(-1, last - 1) / last
    return (rows - threshold).clamp(min=0.0)


def finish(noisy: Rows, scale: Scale, like: Rows) -> Rows:
    """Return noisy rows as an upload, in the dtype that the client had.

    Soft labels become soft labels again.
    """
    return (onto_simplex(noisy) if scale == "probs" else noisy).to(like.dtype)
