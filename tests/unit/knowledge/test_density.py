"""Density scores against what they minimize, by hand, and as laws."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.knowledge.density import class_gaussians, kulsif, nearness


def rows(seed: int, count: int, width: int, around: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return around + torch.randn(count, width, generator=generator, dtype=torch.float64)


@given(seed=st.integers(0, 10_000), known=st.integers(3, 12), auxiliary=st.integers(3, 12))
def test_kulsif_is_the_minimum_of_its_loss(seed: int, known: int, auxiliary: int):
    """The loss over functions ``sum_i c_i k(., z_i)`` of all points z, solved for c as one linear
    system.

    ``1/(2a) sum w(aux)^2 - 1/n sum w(known) + lambda/2 |w|^2``, whose minimum has this form.
    """
    mine, others, asked = (
        rows(seed, known, 2),
        rows(seed + 1, auxiliary, 2, 0.5),
        rows(seed + 2, 4, 2),
    )
    penalty = min(known, auxiliary) ** -0.5

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.tensor(
            [[math.exp(-float((x - y).square().sum()) / (2 * 1.5**2)) for y in b] for x in a],
            dtype=torch.float64,
        )

    points = torch.cat([others, mine])
    gram, at_others, at_mine = kernel(points, points), kernel(others, points), kernel(mine, points)
    left = at_others.T @ at_others / auxiliary + penalty * gram
    weights = torch.linalg.lstsq(left, at_mine.T.mean(dim=1, keepdim=True), driver="gelsd").solution
    expected = (kernel(asked, points) @ weights).squeeze(1)
    torch.testing.assert_close(
        kulsif(mine, others, asked, width=1.5), expected, rtol=1e-5, atol=1e-7
    )


def test_kulsif_of_one_known_and_one_auxiliary_sample_by_hand():
    """n = a = 1, lambda = 1: alpha = -k / 2 with k = exp(-1/2), so w(aux) = -k/2 + k = k/2 and
    w(known) = 1 - k^2/2."""
    known, auxiliary = torch.zeros(1, 1), torch.ones(1, 1)
    found = kulsif(known, auxiliary, torch.tensor([[1.0], [0.0]]), width=1.0)
    k = math.exp(-0.5)
    torch.testing.assert_close(found, torch.tensor([k / 2, 1 - k * k / 2], dtype=torch.float64))


def test_nearness_of_two_heaps_by_hand():
    """Centroids at 0.5 and 10: the distances from 1, 10 and 20 are 0.5, 0 and 10."""
    known = torch.tensor([[0.0], [1.0], [10.0]])
    found = nearness(known, torch.tensor([[1.0], [10.0], [20.0]]), clusters=2, seed=0)
    torch.testing.assert_close(found, torch.tensor([-0.5, 0.0, -10.0], dtype=torch.float64))


def test_nearness_with_fewer_samples_than_clusters_is_to_the_nearest_sample():
    known, asked = rows(0, 3, 4), rows(1, 5, 4)
    expected = -torch.stack([(known - row).norm(dim=1).min() for row in asked])
    torch.testing.assert_close(nearness(known, asked, clusters=9, seed=0), expected)


def test_class_gaussians_by_hand():
    """Classes at 0 and 4 with one pooled variance of 1: at 1 the nearest is one deviation off, at 7
    three."""
    known = torch.tensor([[-1.0], [1.0], [3.0], [5.0]])
    found = class_gaussians(known, torch.tensor([2, 2, 7, 7]), torch.tensor([[1.0], [4.0], [7.0]]))
    torch.testing.assert_close(found, torch.tensor([-0.5, 0.0, -4.5], dtype=torch.float64))


@given(seed=st.integers(0, 10_000), factor=st.floats(0.1, 10))
def test_class_gaussians_do_not_depend_on_units(seed: int, factor: float):
    known, asked = rows(seed, 12, 3), rows(seed + 1, 5, 3)
    labels = torch.arange(12) % 3
    scale = torch.tensor([factor, 1.0, 1 / factor], dtype=torch.float64)
    once = class_gaussians(known, labels, asked)
    torch.testing.assert_close(
        class_gaussians(known * scale, labels, asked * scale), once, rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("score", ["kulsif", "nearness", "class_gaussians"])
def test_what_is_known_scores_above_what_is_far(score: str):
    known, far = rows(3, 40, 5), rows(4, 40, 5, around=6.0)
    both = torch.cat([known, far])
    generator = torch.Generator().manual_seed(5)
    auxiliary = 12 * torch.rand(200, 5, generator=generator, dtype=torch.float64) - 3
    scores = {
        "kulsif": lambda: kulsif(known, auxiliary, both, width=2.0),
        "nearness": lambda: nearness(known, both, clusters=4, seed=0),
        "class_gaussians": lambda: class_gaussians(known, torch.arange(40) % 2, both),
    }[score]()
    assert scores[:40].min() > scores[40:].max()


def test_a_feature_that_never_varies_decides_nothing_and_breaks_nothing():
    known = torch.cat([rows(0, 10, 2), torch.zeros(10, 1, dtype=torch.float64)], dim=1)
    assert torch.isfinite(class_gaussians(known, torch.arange(10) % 2, known)).all()
