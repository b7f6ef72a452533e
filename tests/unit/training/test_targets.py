"""Whom a client believes on which sample, and how much: laws, and small cases by hand."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.fusion import soften
from fedkd.training.targets import gate_by_confidence, margin_weights, teacher_is_surer


@st.composite
def soft_labels(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Soft labels [N, C] of a teacher and a client, tied in half of the cases, and a permutation of
    samples."""
    samples, classes = draw(st.integers(1, 8)), draw(st.integers(2, 6))
    stream = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    logits = torch.randn(2, samples, classes, generator=stream) * 3
    if draw(st.booleans()):
        logits = (logits / 3).round() * 3
    teacher, own = soften(logits)
    return teacher, own, torch.randperm(samples, generator=stream)


# The gate.


@given(case=soft_labels())
def test_the_gate_takes_each_sample_whole_from_whoever_is_surer(
    case: tuple[Tensor, Tensor, Tensor],
):
    teacher, own, _ = case
    target = gate_by_confidence(teacher, own)
    for t, s, found in zip(teacher.tolist(), own.tolist(), target.tolist(), strict=True):
        assert found == (t if max(t) > max(s) else s)
    assert torch.equal(
        target.max(dim=-1).values, torch.maximum(teacher.max(dim=-1).values, own.max(dim=-1).values)
    )


@given(case=soft_labels())
def test_the_gate_does_not_see_the_order_of_samples_nor_of_classes(
    case: tuple[Tensor, Tensor, Tensor],
):
    teacher, own, order = case
    target = gate_by_confidence(teacher, own)
    assert torch.equal(gate_by_confidence(teacher[order], own[order]), target[order])
    assert torch.equal(gate_by_confidence(teacher.flip(-1), own.flip(-1)), target.flip(-1))


@given(case=soft_labels())
def test_a_client_that_teaches_itself_and_a_teacher_without_opinion_change_nothing(
    case: tuple[Tensor, Tensor, Tensor],
):
    _, own, _ = case
    before = own.clone()
    assert torch.equal(gate_by_confidence(own, own), own)
    assert not teacher_is_surer(own, own).any()
    assert torch.equal(gate_by_confidence(torch.full_like(own, 1 / own.shape[1]), own), own)
    assert torch.equal(own, before)


@given(case=soft_labels())
def test_a_client_without_opinion_believes_all_others(case: tuple[Tensor, Tensor, Tensor]):
    teacher, own, _ = case
    surer = teacher_is_surer(teacher, torch.full_like(own, 1 / own.shape[1]))
    assert surer[teacher.max(dim=-1).values > 1 / own.shape[1] + 1e-6].all()


def test_the_gate_by_hand():
    teacher = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.3, 0.7]])
    own = torch.tensor([[0.2, 0.8], [0.4, 0.6], [0.7, 0.3]])
    assert teacher_is_surer(teacher, own).tolist() == [True, False, False]
    assert torch.equal(gate_by_confidence(teacher, own), torch.stack([teacher[0], own[1], own[2]]))


# Margins.


@given(case=soft_labels())
def test_weights_are_margins_in_their_order_with_mean_one(case: tuple[Tensor, Tensor, Tensor]):
    teacher, _, order = case
    weights = margin_weights(teacher)
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0))
    assert (weights >= 0).all()
    assert (weights <= len(teacher) + 1e-4).all()
    margins = [sorted(row)[-1] - sorted(row)[-2] for row in teacher.tolist()]
    if sum(margins) > 1e-3:
        expected = torch.tensor([m * len(margins) / sum(margins) for m in margins])
        torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(margin_weights(teacher[order]), weights[order])
        torch.testing.assert_close(margin_weights(teacher.flip(-1)), weights)


def test_an_undecided_teacher_and_an_equally_sure_one_weigh_all_samples_alike():
    for row in ([0.25] * 4, [0.4, 0.4, 0.1, 0.1], [1.0, 0.0, 0.0, 0.0]):
        assert margin_weights(torch.tensor([row] * 3)).tolist() == [1.0, 1.0, 1.0]


def test_margins_by_hand():
    """Margins 0.6, 0.1 and 0.2 have the mean 0.3: weights 2, 1/3 and 2/3."""
    teacher = torch.tensor([[0.75, 0.15, 0.1], [0.45, 0.2, 0.35], [0.5, 0.3, 0.2]])
    torch.testing.assert_close(margin_weights(teacher), torch.tensor([2.0, 1 / 3, 2 / 3]))
