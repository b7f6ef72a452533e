"""DS-FL by hand, in its limiting cases, and the settings it refuses."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.messages import Cohort
from fedkd.strategies.dsfl import DSFL

TWO_CLIENTS = torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.3, 0.7], [0.1, 0.9]]])
"""Soft labels on two samples, with the means (0.6, 0.4) and (0.3, 0.7)."""


def cohort_of(probs: Tensor) -> Cohort:
    return Cohort(
        round=1,
        client_ids=tuple(range(len(probs))),
        public_ids=torch.arange(probs.shape[1]),
        values=probs,
        scale="probs",
    )


def teachers(probs: Tensor, **settings: Any) -> Tensor:
    return DSFL(**settings).fuse(cohort_of(probs), None).teachers


def entropy(probs: Tensor) -> Tensor:
    return -torch.xlogy(probs, probs).sum(dim=-1)


@st.composite
def uploads(draw: st.DrawFn) -> Tensor:
    clients, samples, classes = (
        draw(st.integers(1, 6)),
        draw(st.integers(1, 8)),
        draw(st.integers(2, 6)),
    )
    stream = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    return torch.softmax(3 * torch.randn(clients, samples, classes, generator=stream), dim=-1)


def test_simple_averaging_by_hand():
    """(0.9 + 0.3) / 2 = 0.6 and (0.5 + 0.1) / 2 = 0.3."""
    expected = torch.tensor([[0.6, 0.4], [0.3, 0.7]])
    torch.testing.assert_close(teachers(TWO_CLIENTS, aggregation="mean"), expected)


def test_entropy_reduction_by_hand():
    """T = 0.1: softmax(6, 4) = 1 / (1 + e^-2) = 0.88079708; softmax(3, 7) = 1 / (1 + e^4) =
    0.01798621."""
    expected = torch.tensor([[0.88079708, 0.11920292], [0.01798621, 0.98201379]])
    torch.testing.assert_close(teachers(TWO_CLIENTS), expected, rtol=0, atol=1e-6)


def test_entropy_reduction_at_another_temperature_by_hand():
    """T = 0.2: softmax(3, 2) = 1 / (1 + e^-1) = 0.73105858; softmax(1.5, 3.5) = 1 / (1 + e^2) =
    0.11920292."""
    expected = torch.tensor([[0.73105858, 0.26894142], [0.11920292, 0.88079708]])
    torch.testing.assert_close(
        teachers(TWO_CLIENTS, era_temperature=0.2), expected, rtol=0, atol=1e-6
    )


def test_entropy_is_reduced_after_the_mean_not_before():
    """Before, client 0 would be softmax(9, 1) and client 1 softmax(3, 7): their mean on x_0 is near
    1/2, not 0.88."""
    before = torch.softmax(TWO_CLIENTS / 0.1, dim=-1).mean(dim=0)
    assert (teachers(TWO_CLIENTS) - before).abs().max() > 0.3


def test_the_papers_temperature_is_the_default():
    assert torch.equal(teachers(TWO_CLIENTS), teachers(TWO_CLIENTS, era_temperature=0.1))


@given(probs=uploads(), aggregation=st.sampled_from(["era", "mean"]))
def test_the_teacher_is_common_and_all_weigh_the_same(probs: Tensor, aggregation: Any):
    fusion = DSFL(aggregation=aggregation).fuse(cohort_of(probs), None)
    assert fusion.teachers.shape == probs.shape[1:]
    torch.testing.assert_close(fusion.weights, torch.full((len(probs), len(probs)), 1 / len(probs)))
    assert fusion.state is None


@given(probs=uploads(), temperature=st.sampled_from([0.01, 0.1, 1.0]))
def test_entropy_reduction_keeps_the_order_of_classes(probs: Tensor, temperature: float):
    """The argmax among them; a softmax that rounds to a tie keeps the order all the same."""
    mean = probs.mean(dim=0)
    found = teachers(probs, era_temperature=temperature).gather(-1, mean.argsort(dim=-1))
    assert (found.diff(dim=-1) >= 0).all()


@given(probs=uploads())
def test_a_small_temperature_gives_less_entropy_than_the_mean(probs: Tensor):
    """Where no class has less than T: e.g. at T = 0.1 with every mean soft label at least 0.1."""
    classes = probs.shape[-1]
    raised = 0.1 + (1 - 0.1 * classes) * probs
    assert (entropy(teachers(raised)) <= entropy(teachers(raised, aggregation="mean")) + 1e-5).all()


def test_a_very_small_temperature_gives_a_one_hot():
    assert torch.equal(
        teachers(TWO_CLIENTS, era_temperature=1e-3), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    )


def test_a_very_large_temperature_gives_uniform_labels():
    torch.testing.assert_close(teachers(TWO_CLIENTS, era_temperature=1e6), torch.full((2, 2), 0.5))


@pytest.mark.parametrize("temperature", [1e-10, 1e-30, 1e-39, 1e-300])
def test_every_temperature_that_is_accepted_gives_teachers_without_nan(temperature: float):
    """Float32 ends at 3.4e38: a temperature that the arithmetic does not take must be refused as a
    setting."""
    try:
        found = teachers(TWO_CLIENTS, era_temperature=temperature)
    except SettingError:
        return
    assert torch.equal(found, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))


def test_clients_upload_soft_labels_and_teachers_are_soft_labels():
    assert DSFL().knowledge == "probs"
    assert getattr(DSFL(), "teaches", "probs") == "probs"


def test_soft_labels_count_as_they_came_whatever_the_distillation_temperature():
    one, warm = (
        cohort_of(TWO_CLIENTS),
        Cohort(**{**vars(cohort_of(TWO_CLIENTS)), "temperature": 5.0}),
    )
    assert torch.equal(DSFL().fuse(one, None).teachers, DSFL().fuse(warm, None).teachers)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aggregation": "median"}, "aggregation must be one of era, mean, got 'median'"),
        (
            {"aggregation": "mean", "era_temperature": 0.1},
            r"era_temperature=0\.1 would do nothing: aggregation=mean",
        ),
        ({"era_temperature": 0.0}, r"era_temperature must be > 0, got 0\.0"),
        ({"era_temperature": -0.1}, r"era_temperature must be > 0, got -0\.1"),
        ({"era_temperature": math.nan}, "era_temperature must be a finite number, got nan"),
        ({"era_temperature": math.inf}, "era_temperature must be a finite number, got inf"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        DSFL(**settings)
