"""Random problems on which the laws of fedkd.fusion are tried."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
"""Float32 over sums of at most 8 terms, of logarithms down to ln(1e-7)."""


@dataclass(frozen=True)
class Problem:
    """Random inputs: logits [K, N, C], scores [K, K] with some -inf, and a permutation of each
    axis."""

    logits: Tensor
    scores: Tensor
    order: dict[str, Tensor]

    @property
    def probs(self) -> Tensor:
        return torch.softmax(self.logits, dim=-1)

    @property
    def distributions(self) -> Tensor:
        return self.probs.mean(dim=1)

    @property
    def weights(self) -> Tensor:
        return torch.softmax(self.scores.clamp(min=-8), dim=1)

    @property
    def apart(self) -> Tensor:
        """Divergences [K, K]: zero on the diagonal, with ties wherever the logits tie."""
        return (self.distributions[:, None] - self.distributions[None]).abs().sum(dim=-1)

    def permuted(self, tensor: Tensor, axes: str) -> Tensor:
        """Return the tensor with each of its axes relabeled."""
        for dim, axis in enumerate(axes):
            tensor = tensor.index_select(dim, self.order[axis])
        return tensor


@st.composite
def problems(draw: st.DrawFn, fewest_clients: int = 1) -> Problem:
    """K up to 6, N up to 8, C from 2 to 6; logits in [-8, 8], so that soft labels stay above 1e-8.

    Numbers come from a seed, since drawing each of them is slow; every other problem has whole
    numbers and so ties.
    """
    clients, samples, classes = (
        draw(st.integers(fewest_clients, 6)),
        draw(st.integers(1, 8)),
        draw(st.integers(2, 6)),
    )
    stream = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    logits = torch.rand(clients, samples, classes, generator=stream) * 16 - 8
    scores = torch.rand(clients, clients, generator=stream) * 16 - 8
    never = torch.rand(clients, clients, generator=stream) < draw(st.sampled_from([0.0, 0.5]))
    if draw(st.booleans()):
        logits, scores = (logits / 4).round() * 4, scores.round()
    sizes = {"K": clients, "N": samples, "C": classes}
    order = {axis: torch.randperm(size, generator=stream) for axis, size in sizes.items()}
    return Problem(logits, scores.masked_fill(never, -torch.inf), order)


def law(*functions: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Say of which functions a test is a law; test_laws.py looks for one of each."""
    assert all(map(callable, functions))
    return lambda test: test


def entropy(probs: Tensor) -> Tensor:
    return -torch.xlogy(probs, probs).sum(dim=-1)


def assert_rows_are_distributions(rows: Tensor) -> None:
    assert (rows >= 0).all()
    torch.testing.assert_close(rows.sum(dim=-1), torch.ones(rows.shape[:-1]), **CLOSE)


def assert_in_hull(mixed: Tensor, values: Tensor) -> None:
    """Each entry lies between the smallest and the largest of the clients' entries."""
    assert (mixed >= values.min(dim=0).values - 1e-5).all()
    assert (mixed <= values.max(dim=0).values + 1e-5).all()
