"""Pairwise divergences of label distributions: ``[K, C] -> [K, K]``, zero on the diagonal.

Row i, column j is the divergence of client i's distribution from client j's. All are finite:
``pairwise_kl`` and ``pairwise_js`` take distributions without zeros, which ``smooth`` makes.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Distributions = Float[Tensor, "K C"]
Pairwise = Float[Tensor, "K K"]


def smooth(distributions: Distributions, amount: float) -> Distributions:
    """Return distributions without zeros, ``(P + amount) / (1 + C * amount)``; rows sum to 1."""
    return (distributions + amount) / (1.0 + distributions.shape[-1] * amount)


def pairwise_kl(distributions: Distributions) -> Pairwise:
    """Return the Kullback-Leibler divergences ``KL(P_i || P_j)`` in nats, >= 0, not symmetric.

    ``sum_c P_i(c) (ln P_i(c) - ln P_j(c))``, computed from differences of logarithms, so that equal
    rows give exactly 0. Entries must be > 0.
    """
    logs = distributions.log()
    return (
        (distributions[:, None, :] * (logs[:, None, :] - logs[None, :, :])).sum(dim=-1).clamp(min=0)
    )


def pairwise_js(distributions: Distributions) -> Pairwise:
    """Return the Jensen-Shannon divergences in nats: symmetric, between 0 and ln 2.

    ``(KL(P_i || M) + KL(P_j || M)) / 2`` with M the midpoint. Entries must be > 0.
    """
    logs = distributions.log()
    log_middle = ((distributions[:, None, :] + distributions[None, :, :]) / 2).log()
    to_middle = (distributions[:, None, :] * (logs[:, None, :] - log_middle)).sum(dim=-1)
    return ((to_middle + to_middle.T) / 2).clamp(min=0)


def pairwise_tv(distributions: Distributions) -> Pairwise:
    """Return the total variation distances, half the L1 distance: symmetric, between 0 and 1.

    >>> import torch
    >>> pairwise_tv(torch.tensor([[1.0, 0.0], [0.25, 0.75]])).tolist()
    [[0.0, 0.75], [0.75, 0.0]]
    """
    return (distributions[:, None, :] - distributions[None, :, :]).abs().sum(dim=-1) / 2


def pairwise_cosine(distributions: Distributions) -> Pairwise:
    """Return the cosine distances, one minus the cosine: symmetric, between 0 and 1."""
    unit = F.normalize(distributions, dim=-1)
    # Half the squared chord between unit vectors: exactly 0 for equal rows, which 1 - dot is not.
    return (unit[:, None, :] - unit[None, :, :]).square().sum(dim=-1) / 2


def pairwise_l2(distributions: Distributions) -> Pairwise:
    """Return the Euclidean distances: symmetric, between 0 and sqrt(2)."""
    return (distributions[:, None, :] - distributions[None, :, :]).square().sum(dim=-1).sqrt()


def by_largest(divergences: Pairwise) -> Pairwise:
    """Return the divergences over the largest of them, between 0 and 1; unchanged if all are 0.

    >>> import torch
    >>> by_largest(torch.tensor([[0.0, 2.0], [1.0, 0.0]])).tolist()
    [[0.0, 1.0], [0.5, 0.0]]
    """
    largest = divergences.max()
    return divergences / torch.where(largest > 0, largest, torch.ones_like(largest))


def by_largest_of_row(divergences: Pairwise) -> Pairwise:
    """Return each client's divergences over the largest of its row; a row of zeros is unchanged.

    >>> import torch
    >>> by_largest_of_row(torch.tensor([[0.0, 2.0], [1.0, 0.0]])).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    largest = divergences.amax(dim=-1, keepdim=True)
    return divergences / torch.where(largest > 0, largest, torch.ones_like(largest))


def _unscaled(divergences: Pairwise) -> Pairwise:
    """Return the divergences as they are."""
    return divergences


DIVERGENCES: dict[str, Callable[[Distributions], Pairwise]] = {
    "kl": pairwise_kl,
    "js": pairwise_js,
    "tv": pairwise_tv,
    "cosine": pairwise_cosine,
    "l2": pairwise_l2,
}

SCALES: dict[str, Callable[[Pairwise], Pairwise]] = {
    "none": _unscaled,
    "largest": by_largest,
    "row": by_largest_of_row,
}
"""Ways to bring divergences to a range that does not depend on the clients."""
