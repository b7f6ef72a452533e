"""Effectiveness weights ``[K, K]``: how much each client teaches each other.

Scores are any real numbers, larger is better, ``-inf`` means never. ``row_softmax`` turns them into
weights.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Pairwise = Float[Tensor, "K K"]

TIE = 1e-5
"""Divergences closer than this are equal: float32 sums of the same numbers in another order differ
by less."""


def uniform_weights(clients: int, dtype: torch.dtype = torch.float32) -> Pairwise:
    """Return the weights of the unweighted mean: 1/K everywhere."""
    return torch.full((clients, clients), 1.0 / clients, dtype=dtype)


def row_softmax(scores: Pairwise) -> Pairwise:
    """Return the weights ``exp(s_ij) / sum_k exp(s_ik)`` of scores.

    A client whose scores are all ``-inf`` teaches itself: its own weight is 1.

    >>> row_softmax(torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]])).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    own = torch.eye(scores.shape[0], dtype=torch.bool, device=scores.device)
    alone = torch.isinf(scores).all(dim=1, keepdim=True)
    return torch.softmax(torch.where(alone & own, torch.zeros_like(scores), scores), dim=1)


def without_self(scores: Pairwise) -> Pairwise:
    """Return the scores with the diagonal at ``-inf``: no client teaches itself."""
    own = torch.eye(scores.shape[0], dtype=torch.bool, device=scores.device)
    return scores.masked_fill(own, -torch.inf)


def keep_nearest(scores: Pairwise, divergences: Pairwise, count: int) -> Pairwise:
    """Return the scores of each row's ``count`` nearest clients, the rest at ``-inf``.

    Nearest is by divergence among the clients whose score is finite; all that tie with the last one
    (within 1e-5) stay, so that relabeling clients or classes relabels the result.
    """
    distance = divergences.masked_fill(torch.isinf(scores), torch.inf)
    last = distance.sort(dim=1).values[:, min(count, scores.shape[1]) - 1]
    return scores.masked_fill(distance > last[:, None] + TIE, -torch.inf)


def keep_within(scores: Pairwise, divergences: Pairwise, radius: float) -> Pairwise:
    """Return the scores of the clients no farther than ``radius``, the rest at ``-inf``."""
    return scores.masked_fill(divergences > radius, -torch.inf)


def effective_neighbors(weights: Float[Tensor, "I J"]) -> Float[Tensor, "I"]:
    """Return each recipient's effective number of teachers, ``1 / sum_j W_ij^2``.

    1 when one client teaches, K when all teach equally.

    >>> effective_neighbors(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).tolist()
    [2.0, 1.0]
    """
    return 1.0 / weights.square().sum(dim=1)
