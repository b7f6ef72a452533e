"""Relational losses against loops over pairs, and what they can and cannot see."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.fusion import soften
from fedkd.training.losses import kl
from fedkd.training.relational_losses import match_similarities, similarities


def rows(seed: int, samples: int, classes: int) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(samples, classes, generator=stream, dtype=torch.float64) * 2


@st.composite
def sides(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """A student's logits [N, C] and a teacher's [N, D]: their classes may differ in number."""
    samples, seed = draw(st.integers(1, 6)), draw(st.integers(0, 2**20))
    return rows(2 * seed, samples, draw(st.integers(2, 6))), rows(
        2 * seed + 1, samples, draw(st.integers(2, 6))
    )


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def naive_similarities(probs: Tensor, anchors: Tensor) -> list[list[float]]:
    return [[cosine(p, a) for a in anchors.tolist()] for p in probs.tolist()]


def naive_match_similarities(student: Tensor, target: Tensor, temperature: float) -> float:
    probs = soften(student, temperature)
    pairs = zip(naive_similarities(probs, probs), naive_similarities(target, target), strict=True)
    squares = [(s - t) ** 2 for mine, theirs in pairs for s, t in zip(mine, theirs, strict=True)]
    return sum(squares) / len(squares)


@given(pair=sides(), temperature=st.sampled_from([0.5, 1.0, 4.0]))
def test_matching_similarities_equals_its_formula(pair: tuple[Tensor, Tensor], temperature: float):
    student, target = pair[0], soften(pair[1])
    found = match_similarities(student, target, temperature)
    assert found.shape == ()
    assert found.item() == pytest.approx(
        naive_match_similarities(student, target, temperature), rel=1e-9, abs=1e-15
    )
    assert 0 <= found <= 1


def test_by_hand():
    """The student separates two samples (cosine 0 up to e^-40), the teacher takes them for one
    (cosine 1).

    Similarities differ by 1 off the diagonal and by 0 on it: a mean of 2 / 4.
    """
    student, target = (
        torch.tensor([[40.0, 0.0], [0.0, 40.0]]),
        torch.tensor([[0.5, 0.5], [0.5, 0.5]]),
    )
    assert match_similarities(student, target).item() == pytest.approx(0.5, abs=1e-6)


@given(pair=sides())
def test_a_student_that_equals_the_teacher_is_at_the_minimum(pair: tuple[Tensor, Tensor]):
    logits = pair[0].clone().requires_grad_()
    target = soften(pair[0])
    loss = match_similarities(logits, target)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    (found,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-10)


@given(pair=sides())
def test_the_names_of_classes_are_not_seen_and_kl_sees_them(pair: tuple[Tensor, Tensor]):
    """So it cannot stand alone: with the classes in another order the loss is 0, and the student is
    wrong."""
    logits = pair[0]
    target = soften(logits).flip(-1)
    assert match_similarities(logits, target).item() == pytest.approx(0, abs=1e-12)
    if (logits - logits.flip(-1)).abs().max() > 0.1:
        assert kl(logits, target) > 1e-4


@given(pair=sides(), seed=st.integers(0, 100))
def test_the_order_of_samples_does_not_matter(pair: tuple[Tensor, Tensor], seed: int):
    student, target = pair[0], soften(pair[1])
    permutation = torch.randperm(len(student), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        match_similarities(student[permutation], target[permutation]),
        match_similarities(student, target),
    )


@given(pair=sides())
def test_matching_similarities_is_no_mean_over_samples(pair: tuple[Tensor, Tensor]):
    student, target = pair[0], soften(pair[1])
    for s, t in zip(student, target, strict=True):
        assert match_similarities(s[None], t[None]).item() == pytest.approx(0, abs=1e-12)


@given(pair=sides())
def test_a_small_step_against_the_gradient_lowers_the_loss(pair: tuple[Tensor, Tensor]):
    student, target = pair[0], soften(pair[1])
    logits = student.clone().requires_grad_()
    before = match_similarities(logits, target)
    (step,) = torch.autograd.grad(before, logits)
    if step.norm() > 1e-4:
        assert match_similarities(student - 1e-4 * step, target) < before


def test_similarities_are_one_between_equals_and_zero_where_no_class_is_shared():
    probs = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    torch.testing.assert_close(similarities(probs, probs), torch.eye(2))
