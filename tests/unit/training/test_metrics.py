"""Calibration: laws, numbers worked out by hand, and a slow second implementation."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from naive_metrics import slow_ece

from fedkd.fusion import soften
from fedkd.training.loop import accuracy
from fedkd.training.metrics import (
    accuracy_by_class,
    expected_calibration_error,
    negative_log_likelihood,
    teacher_quality,
)

shapes = st.tuples(st.integers(1, 40), st.integers(2, 6), st.integers(0, 2**31))


def drawn(shape: tuple[int, int, int], spread: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return soft labels [n, C] in float64, so that sums in another order agree, and labels [n]."""
    n, classes, seed = shape
    stream = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(n, classes, generator=stream, dtype=torch.float64)
    return soften(logits), torch.randint(classes, (n,), generator=stream)


@given(shapes)
def test_the_error_is_that_of_the_definition(shape: tuple[int, int, int]) -> None:
    probs, labels = drawn(shape)
    assert expected_calibration_error(probs, labels) == pytest.approx(
        slow_ece(probs, labels), abs=1e-12
    )


def test_the_error_of_five_predictions_by_hand() -> None:
    """Bins of 0.2. In (0.8, 1]: 1.0 right, 0.9 wrong: gaps 0 and -0.9. In (0.6, 0.8]: 0.8 right,
    0.7 right: 0.2, 0.3.

    In (0.4, 0.6]: 0.6 wrong: -0.6. So (|0 - 0.9| + |0.2 + 0.3| + |-0.6|) / 5 = 0.4. The edges 0.8
    and 0.6 belong below.
    """
    first = torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 0, 1])
    assert expected_calibration_error(
        torch.stack([first, 1 - first], dim=1), labels, bins=5
    ) == pytest.approx(0.4)


def test_overconfidence_and_underconfidence_in_one_bin_cancel_and_in_two_do_not() -> None:
    one_bin = torch.tensor([[0.95, 0.05], [0.95, 0.05]])
    assert expected_calibration_error(one_bin, torch.tensor([0, 1])) == pytest.approx(0.45)
    two_bins = torch.tensor([[0.6, 0.4], [0.9, 0.1]])
    assert expected_calibration_error(two_bins, torch.tensor([0, 1])) == pytest.approx(
        (0.4 + 0.9) / 2
    )


@given(shapes)
def test_sure_predictions_err_by_their_share_of_mistakes(shape: tuple[int, int, int]) -> None:
    probs, labels = drawn(shape)
    sure = F.one_hot(probs.argmax(dim=-1), probs.shape[-1]).float()
    assert expected_calibration_error(sure, labels) == pytest.approx(1 - accuracy(probs, labels))


@given(shapes)
def test_one_bin_compares_accuracy_with_mean_confidence_and_more_bins_are_never_less(
    shape: tuple[int, int, int],
) -> None:
    probs, labels = drawn(shape)
    single = expected_calibration_error(probs, labels, bins=1)
    assert single == pytest.approx(
        abs(accuracy(probs, labels) - probs.max(dim=-1).values.mean().item())
    )
    assert single - 1e-12 <= expected_calibration_error(probs, labels) <= 1


def test_predictions_that_are_right_as_often_as_they_say_have_no_error() -> None:
    probs = torch.tensor([[0.75, 0.25]] * 4 + [[0.5, 0.5]] * 2)
    assert expected_calibration_error(probs, torch.tensor([0, 0, 0, 1, 0, 1])) == pytest.approx(0)


@given(shapes)
def test_neither_the_order_of_samples_nor_of_classes_matters(shape: tuple[int, int, int]) -> None:
    probs, labels = drawn(shape)
    stream = torch.Generator().manual_seed(shape[2])
    rows, classes = (torch.randperm(size, generator=stream) for size in probs.shape)
    moved, renamed = probs[rows][:, classes], classes.argsort()[labels[rows]]
    assert expected_calibration_error(moved, renamed) == pytest.approx(
        expected_calibration_error(probs, labels)
    )
    assert negative_log_likelihood(moved, renamed) == pytest.approx(
        negative_log_likelihood(probs, labels)
    )
    by_class = accuracy_by_class(probs, labels)
    expected = [by_class[c] for c in classes.tolist()]
    assert accuracy_by_class(moved, renamed) == pytest.approx(expected, nan_ok=True)


@given(shapes)
def test_the_likelihood_is_the_cross_entropy_with_the_labels(shape: tuple[int, int, int]) -> None:
    probs, labels = drawn(shape)
    assert negative_log_likelihood(probs, labels) == pytest.approx(
        F.cross_entropy(probs.log(), labels).item()
    )


def test_the_likelihood_of_uniform_sure_and_surely_wrong_predictions() -> None:
    assert negative_log_likelihood(
        torch.full((3, 4), 0.25), torch.tensor([0, 1, 3])
    ) == pytest.approx(math.log(4))
    sure = torch.tensor([[1.0, 0.0]])
    assert negative_log_likelihood(sure, torch.tensor([0])) == 0
    assert negative_log_likelihood(sure, torch.tensor([1])) == pytest.approx(-math.log(1e-12))


@given(shapes)
def test_accuracy_by_class_weighted_by_samples_is_accuracy(shape: tuple[int, int, int]) -> None:
    probs, labels = drawn(shape)
    counts = torch.bincount(labels, minlength=probs.shape[1]).tolist()
    by_class = accuracy_by_class(probs, labels)
    assert [math.isnan(value) for value in by_class] == [count == 0 for count in counts]
    right = sum(value * count for value, count in zip(by_class, counts, strict=True) if count)
    assert right / len(labels) == pytest.approx(accuracy(probs, labels))


def test_what_has_no_value_is_nan() -> None:
    nobody, none = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    assert math.isnan(expected_calibration_error(nobody, none))
    assert math.isnan(negative_log_likelihood(nobody, none))
    broken, labels = torch.tensor([[0.5, 0.5], [torch.nan, torch.nan]]), torch.tensor([0, 0])
    assert math.isnan(expected_calibration_error(broken, labels))
    assert math.isnan(negative_log_likelihood(broken, labels))


def test_a_teacher_of_logits_is_judged_by_its_soft_labels_at_the_distillation_temperature() -> None:
    logits, labels = torch.tensor([[4.0, 0.0], [2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1, 1])
    from_logits = teacher_quality(logits, "logits", labels, temperature=2.0)
    assert from_logits == teacher_quality(soften(logits, 2.0), "probs", labels, temperature=2.0)
    assert from_logits["teacher_accuracy"] == pytest.approx(2 / 3)
    assert from_logits["teacher_by_class"] == (1.0, 0.5)
    assert from_logits != teacher_quality(logits, "logits", labels, temperature=1.0)


def test_public_samples_without_a_known_label_are_left_out() -> None:
    probs, labels = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), torch.tensor([0, -1, 2])
    found = teacher_quality(probs, "probs", labels, 1.0)
    assert found["teacher_accuracy"] == 1
    assert found["teacher_ece"] == pytest.approx(0.1)
    assert found["teacher_by_class"] == pytest.approx((1.0, math.nan), nan_ok=True)
    assert teacher_quality(probs, "probs", torch.tensor([-1, 2, 9]), 1.0) == {}
    assert teacher_quality(probs, "probs", None, 1.0) == {}
