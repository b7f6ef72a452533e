"""Softening of logits into soft labels, which no other module does."""

import torch
from jaxtyping import Float
from torch import Tensor


def soften(
    logits: Float[Tensor, "*batch C"], temperature: float = 1.0, *, out: Tensor | None = None
) -> Float[Tensor, "*batch C"]:
    """Return soft labels, ``softmax(logits / temperature)`` over the classes.

    Hinton et al. 2015, arXiv 1503.02531. A temperature above 1 flattens, below 1 sharpens; it must
    be > 0. The argmax never changes. ``out`` takes the result where no gradient is needed.

    >>> soften(torch.tensor([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    scaled = logits if temperature == 1 else logits / temperature
    return torch.softmax(scaled, dim=-1, out=out)
