"""From uploads to logits and back, so that an attack is written once for both scales.

What comes back passes the server's check.

Not for: what attackers want, which is in the modules beside this one.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedkd.fusion import soften
from fedkd.training.losses import Scale

Values = Float[Tensor, "K N C"]
Mask = Bool[Tensor, "K"]

LARGEST = 1e6
"""The largest magnitude of a logit that the server accepts."""
SMALLEST = 1e-12
"""Floor of a soft label before its logarithm is taken."""


def as_logits(values: Values, scale: Scale) -> Values:
    """Return logits that soften to the values at temperature 1.

    Logits stay as they are; soft labels become their logarithms.
    """
    return values if scale == "logits" else values.clamp(min=SMALLEST).log()


def replace(
    values: Values, attackers: Mask, logits: Float[Tensor, "... N C"], scale: Scale
) -> Values:
    """Return ``values`` with the attackers' rows replaced, the others' the same to the bit.

    Args:
        values: The honest uploads [K, N, C].
        attackers: Which clients [K] attack.
        logits: What attackers send, [N, C] or [K, N, C], before it is softened; cut to the
            magnitude that the server accepts.
        scale: Whether uploads are logits or soft labels.
    """
    forged = logits.clamp(-LARGEST, LARGEST) if scale == "logits" else soften(logits)
    return torch.where(attackers[:, None, None], forged, values)


def contrast(logits: Values) -> Float[Tensor, "K 1 1"]:
    """Return each client's root mean square of logits about their row's mean.

    It is over samples and classes.

    It is how sure of itself a client is, the same for logits as for the logarithms of their soft
    labels.

    >>> contrast(torch.tensor([[[3.0, -1.0]]])).item()
    2.0
    """
    centered = logits - logits.mean(dim=-1, keepdim=True)
    return centered.square().mean(dim=(1, 2), keepdim=True).sqrt()


def onto_simplex(rows: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
    """Return the distributions nearest to the rows in Euclidean distance (Duchi et al. 2008).

    All entries of a row are lowered, or raised, by the same amount, and those that become negative
    are 0.

    >>> onto_simplex(torch.tensor([[1.5, 0.5], [0.25, 0.25]])).tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    ordered = rows.sort(dim=-1, descending=True).values
    counts = torch.arange(1, rows.shape[-1] + 1, device=rows.device)
    # Lowering by excess / count makes the count largest entries sum to 1; the right count is the
    # last that leaves all of them positive.
    lower_by = (ordered.cumsum(dim=-1) - 1) / counts
    last = (ordered > lower_by).sum(dim=-1, keepdim=True) - 1
    return (rows - lower_by.gather(-1, last)).clamp(min=0)
