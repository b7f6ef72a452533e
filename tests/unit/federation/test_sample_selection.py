"""Choices of public samples and views: against brute force on small problems, and by hand."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.federation.sample_selection import disagreement, hardest_views
from fedkd.fusion import core_set, soften


def predictions(seed: int, *shape: int) -> Tensor:
    return soften(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2)


def naive_kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / max(b, 1e-12)) for a, b in zip(p, q, strict=True) if a > 0)


# Disagreement.


@given(seed=st.integers(0, 2**20))
def test_disagreement_is_kl_by_sample_zero_between_equals_and_finite(seed: int):
    teacher, student = predictions(seed, 2, 3, 4), predictions(seed + 1, 2, 3, 4)
    found = disagreement(teacher, student)
    assert found.shape == (2, 3)
    expected = [
        [naive_kl(teacher[i, n].tolist(), student[i, n].tolist()) for n in range(3)]
        for i in range(2)
    ]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert (disagreement(teacher, teacher) == 0).all()
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert disagreement(one, other).item() == pytest.approx(12 * math.log(10), rel=1e-5)


# Views.


@given(seed=st.integers(0, 2**20), views=st.integers(1, 5))
def test_the_hardest_view_of_each_sample_is_found_without_regard_to_the_others(
    seed: int, views: int
):
    teacher, student = predictions(seed, views, 6, 3), predictions(seed + 1, views, 6, 3)
    found = hardest_views(teacher, student)
    for n in range(6):
        far = [naive_kl(teacher[v, n].tolist(), student[v, n].tolist()) for v in range(views)]
        assert far[found[n]] == pytest.approx(max(far), abs=1e-5)
        assert hardest_views(teacher[:, n : n + 1], student[:, n : n + 1]).item() == found[n]


def test_equal_views_give_the_first():
    teacher = predictions(0, 1, 4, 3).repeat(3, 1, 1)
    assert hardest_views(teacher, predictions(1, 1, 4, 3).repeat(3, 1, 1)).tolist() == [0] * 4


# Core sets.


def radius(probs: Tensor, centres: list[int]) -> float:
    """The farthest that any sample is from its nearest centre."""
    return max(min(math.dist(p, probs[c].tolist()) for c in centres) for p in probs.tolist())


@given(seed=st.integers(0, 2**20), count=st.integers(1, 4))
def test_the_core_set_covers_at_most_twice_as_far_as_the_best_would(seed: int, count: int):
    """Gonzalez 1985. The best is found by trying all sets of centres among 8 samples."""
    probs = predictions(seed, 8, 3)
    best = min(radius(probs, list(centres)) for centres in itertools.combinations(range(8), count))
    assert radius(probs, core_set(probs, count).tolist()) <= 2 * best + 1e-6


@given(seed=st.integers(0, 2**20), count=st.integers(0, 5), before=st.integers(1, 3))
def test_each_choice_is_the_farthest_from_all_before_it(seed: int, count: int, before: int):
    probs = predictions(seed, 8, 4)
    chosen = torch.randperm(8, generator=torch.Generator().manual_seed(seed))[:before]
    found = core_set(probs, count, chosen).tolist()
    have = chosen.tolist()
    for sample in found:
        assert sample not in have
        distances = [min(math.dist(p, probs[c].tolist()) for c in have) for p in probs.tolist()]
        assert distances[sample] == pytest.approx(max(distances), abs=1e-5)
        have.append(sample)


@given(seed=st.integers(0, 2**20))
def test_more_samples_continue_the_same_choice(seed: int):
    probs = predictions(seed, 9, 3)
    all_of_them = core_set(probs, 9)
    assert sorted(all_of_them.tolist()) == list(range(9))
    assert torch.equal(core_set(probs, 4), all_of_them[:4])
    assert torch.equal(core_set(probs, 3, all_of_them[:4]), all_of_them[4:7])


@given(seed=st.integers(0, 2**20))
def test_relabeling_samples_relabels_the_core_set_and_classes_do_not_matter(seed: int):
    probs = predictions(seed, 8, 4)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    found = core_set(probs, 4)
    assert torch.equal(order[core_set(probs[order], 4)], found)
    assert torch.equal(core_set(probs.flip(-1), 4), found)


def test_one_of_each_class_is_chosen_before_any_class_twice():
    """Twelve certain predictions of four classes, of unequal frequency, and what random choice
    would often miss."""
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 3])
    probs = soften(torch.nn.functional.one_hot(labels, 4).float() * 5)
    assert sorted(labels[core_set(probs, 4)].tolist()) == [0, 1, 2, 3]


def test_repeated_predictions_fall_back_on_the_lowest_ids():
    assert core_set(torch.full((4, 2), 0.5), 3, torch.tensor([1])).tolist() == [0, 2, 3]
    assert core_set(torch.full((4, 2), 0.5), 0).tolist() == []


def test_no_sample_is_chosen_that_is_not_there():
    with pytest.raises(AssertionError, match="4 of 4 samples, 1 chosen before"):
        core_set(torch.full((4, 2), 0.5), 4, torch.tensor([1]))
