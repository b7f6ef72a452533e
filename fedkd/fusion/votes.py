"""Votes of clients for a class: counts, shares, and the class with most of them.

A vote is the first of a row's largest values. Not for noise on votes (``fedkd.privacy``).
"""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

ROUNDING = 1e-6
"""How far apart two shares may be that count as equal: shares are sums of 1 / K."""


def hard_labels(values: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
    """Return each row's first largest value as a one-hot row.

    >>> import torch
    >>> hard_labels(torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]])).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    return F.one_hot(values.argmax(dim=-1), values.shape[-1]).to(values.dtype)


def count_votes(
    values: Float[Tensor, "K N C"], answered: Bool[Tensor, "K N"] | None = None
) -> Float[Tensor, "N C"]:
    """Return how many clients vote for each class of each sample.

    Clients that did not answer abstain; None stands for all answers. Counts are whole numbers.
    """
    votes = hard_labels(values)
    return votes.sum(dim=0) if answered is None else (votes * answered[..., None]).sum(dim=0)


def most_voted(shares: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
    """Return the class of the largest share, one-hot; classes that tie have equal parts of the row.

    A row of equal shares, as of a sample without any vote, is uniform.

    >>> import torch
    >>> most_voted(torch.tensor([[0.6, 0.4, 0.0], [0.5, 0.5, 0.0]])).tolist()
    [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
    """
    first = shares >= shares.amax(dim=-1, keepdim=True) - ROUNDING
    return first.to(shares.dtype) / first.sum(dim=-1, keepdim=True)


def are_tied(shares: Float[Tensor, "N C"]) -> Bool[Tensor, "N"]:
    """Return flags of the samples whose largest share is that of several classes."""
    return (shares >= shares.amax(dim=-1, keepdim=True) - ROUNDING).sum(dim=-1) > 1


def reach_majority(shares: Float[Tensor, "N C"], majority: float) -> Bool[Tensor, "N"]:
    """Return flags of the samples of which one class has at least this share.

    >>> import torch
    >>> reach_majority(torch.tensor([[0.8, 0.2], [0.75, 0.25]]), 0.8).tolist()
    [True, False]
    """
    return shares.amax(dim=-1) >= majority - ROUNDING
