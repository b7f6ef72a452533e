"""Relational losses against loops over pairs, and what they can and cannot see."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.fusion import soften
from fedkd.training.losses import kl
from fedkd.training.relational_losses import match_anchors, match_similarities, similarities


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


def softmax(row: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(x / temperature) for x in row]
    return [e / sum(exponentials) for e in exponentials]


def naive_match_similarities(student: Tensor, target: Tensor, temperature: float) -> float:
    probs = soften(student, temperature)
    pairs = zip(naive_similarities(probs, probs), naive_similarities(target, target), strict=True)
    squares = [(s - t) ** 2 for mine, theirs in pairs for s, t in zip(mine, theirs, strict=True)]
    return sum(squares) / len(squares)


def naive_match_anchors(
    student: Tensor, target: Tensor, mine: Tensor, theirs: Tensor, temperature: float
) -> float:
    places = zip(
        naive_similarities(soften(student, temperature), mine),
        naive_similarities(target, theirs),
        strict=True,
    )
    terms = []
    for s, r in ((softmax(s, 0.1), softmax(r, 0.1)) for s, r in places):
        terms.append(sum(b * math.log(b / a) for a, b in zip(s, r, strict=True)))
    return sum(terms) / len(terms)


@given(pair=sides(), temperature=st.sampled_from([0.5, 1.0, 4.0]))
def test_matching_similarities_equals_its_formula(pair: tuple[Tensor, Tensor], temperature: float):
    student, target = pair[0], soften(pair[1])
    found = match_similarities(student, target, temperature)
    assert found.shape == ()
    assert found.item() == pytest.approx(
        naive_match_similarities(student, target, temperature), rel=1e-9, abs=1e-15
    )
    assert 0 <= found <= 1


@given(pair=sides(), anchors=st.integers(1, 5), temperature=st.sampled_from([0.5, 1.0, 4.0]))
def test_matching_anchors_equals_its_formula(
    pair: tuple[Tensor, Tensor], anchors: int, temperature: float
):
    student, target = pair[0], soften(pair[1])
    mine, theirs = (soften(rows(seed, anchors, x.shape[1])) for seed, x in enumerate(pair))
    found = match_anchors(student, target, mine, theirs, temperature)
    assert found.item() == pytest.approx(
        naive_match_anchors(student, target, mine, theirs, temperature), rel=1e-9, abs=1e-12
    )
    assert found >= -1e-12
    if anchors == 1:
        assert found.item() == pytest.approx(0, abs=1e-12)


def test_by_hand():
    """The student separates two samples (cosine 0 up to e^-40), the teacher takes them for one
    (cosine 1).

    Similarities differ by 1 off the diagonal and by 0 on it: a mean of 2 / 4. With the two as
    anchors and temperature 1 instead of 0.1, sample 0 is at softmax(1, 0) = (0.7310586, 0.2689414)
    for the student, and at (1/2, 1/2) for the teacher: KL = 0.5 ln(0.5 / 0.7310586) + 0.5 ln(0.5 /
    0.2689414) = 0.1201145; sample 1 alike.
    """
    student, target = (
        torch.tensor([[40.0, 0.0], [0.0, 40.0]]),
        torch.tensor([[0.5, 0.5], [0.5, 0.5]]),
    )
    assert match_similarities(student, target).item() == pytest.approx(0.5, abs=1e-6)
    found = match_anchors(student, target, torch.eye(2), target, anchor_temperature=1.0)
    assert found.item() == pytest.approx(0.1201145, abs=1e-6)


@given(pair=sides())
def test_a_student_that_equals_the_teacher_is_at_the_minimum(pair: tuple[Tensor, Tensor]):
    logits = pair[0].clone().requires_grad_()
    target = soften(pair[0])
    for loss in (match_similarities(logits, target), match_anchors(logits, target, target, target)):
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
def test_the_order_of_samples_and_of_anchors_does_not_matter(
    pair: tuple[Tensor, Tensor], seed: int
):
    student, target = pair[0], soften(pair[1])
    order = torch.randperm(len(student), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        match_similarities(student[order], target[order]), match_similarities(student, target)
    )
    mine = soften(student)
    torch.testing.assert_close(
        match_anchors(student[order], target[order], mine[order], target[order]),
        match_anchors(student, target, mine, target),
    )


@given(pair=sides())
def test_matching_anchors_is_a_mean_over_samples_and_matching_similarities_is_not(
    pair: tuple[Tensor, Tensor],
):
    student, target = pair[0], soften(pair[1])
    mine = soften(student) ** 2
    each = [
        match_anchors(s[None], t[None], mine, target) for s, t in zip(student, target, strict=True)
    ]
    torch.testing.assert_close(
        match_anchors(student, target, mine, target), torch.stack(each).mean()
    )
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
