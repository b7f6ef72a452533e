import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from fedkd.audit.membership_inference import (
    co_op_lira,
    difficulty_calibrated,
    lira_offline,
    lira_online,
    loss_threshold,
)
from fedkd.audit.roc import random_halves, roc_of
from fedkd.audit.scores import log_probs_of, margin_of_logits, margin_of_probs
from fedkd.errors import SettingError


def naive_margin(row: np.ndarray, label: int) -> float:
    rest = sum(float(p) for j, p in enumerate(row) if j != label)
    return math.log(float(row[label])) - math.log(rest)


LOGITS = arrays(np.float64, (3, 4), elements=st.floats(-30, 30))


@given(LOGITS)
def test_both_margins_are_the_naive_one(logits: np.ndarray) -> None:
    labels = np.array([0, 3, 1])
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    expected = [naive_margin(row, label) for row, label in zip(probs, labels, strict=True)]
    np.testing.assert_allclose(margin_of_probs(probs, labels), expected, atol=1e-9)
    np.testing.assert_allclose(margin_of_logits(logits, labels), expected, atol=1e-9)
    np.testing.assert_allclose(
        log_probs_of(margin_of_logits(logits, labels)), np.log(probs[[0, 1, 2], labels]), atol=1e-9
    )


@given(LOGITS, st.floats(-50, 50))
def test_a_shift_of_all_logits_changes_no_margin(logits: np.ndarray, shift: float) -> None:
    labels = np.array([0, 1, 2])
    np.testing.assert_allclose(
        margin_of_logits(logits + shift, labels), margin_of_logits(logits, labels), atol=1e-9
    )


def test_a_margin_near_certainty_keeps_what_float32_would_lose() -> None:
    probs = np.array([[1 - 1e-9, 1e-9]])
    assert margin_of_probs(probs, np.array([0]))[0] == pytest.approx(math.log(1e9), rel=1e-6)


def test_one_hot_rows_have_finite_margins() -> None:
    probs = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    assert margin_of_probs(probs, np.array([0, 1])) == pytest.approx(
        [149 * math.log(2), -149 * math.log(2)]
    )


@pytest.mark.parametrize("labels", [[-1, 0], [0, 2]])
def test_labels_out_of_range_are_refused(labels: list[int]) -> None:
    with pytest.raises(SettingError, match="labels"):
        margin_of_logits(np.zeros((2, 2)), np.array(labels))
    with pytest.raises(SettingError, match="2 classes"):
        margin_of_probs(np.ones((2, 1)), np.array([0, 0]))


def test_margins_take_many_models_at_once() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 3, 4))
    labels = np.array([2, 0, 1])
    np.testing.assert_array_equal(
        margin_of_logits(logits, labels)[3], margin_of_logits(logits[3], labels)
    )


def test_offline_lira_is_a_z_score_with_one_pooled_deviation() -> None:
    # two records, deviations from their means +-1 and +-3: pooled variance (2 + 18) / 2 = 10
    without = np.array([[-1.0, 2.0], [1.0, 8.0]])
    expected = [4 / math.sqrt(10), -5 / math.sqrt(10)]
    np.testing.assert_allclose(lira_offline(np.array([4.0, 0.0]), without), expected)


def test_offline_lira_with_many_models_takes_every_records_own_deviation() -> None:
    without = np.random.default_rng(1).normal(size=(80, 2)) * [1.0, 5.0]
    margins = np.array([2.0, 2.0])
    expected = (margins - without.mean(axis=0)) / without.std(axis=0, ddof=1)
    np.testing.assert_allclose(lira_offline(margins, without), expected)


def test_online_lira_is_the_ratio_of_two_normal_densities() -> None:
    stream = np.random.default_rng(2)
    shadows = stream.normal(size=(140, 6))
    included = np.tile(np.arange(140)[:, None] % 2 == 0, (1, 6))
    margins = stream.normal(size=6)
    expected = []
    for i in range(6):
        seen, unseen = shadows[included[:, i], i], shadows[~included[:, i], i]
        expected.append(
            norm.logpdf(margins[i], seen.mean(), seen.std(ddof=1))
            - norm.logpdf(margins[i], unseen.mean(), unseen.std(ddof=1))
        )
    np.testing.assert_allclose(lira_online(margins, shadows, included), expected)


def test_co_op_lira_leaves_the_attacked_client_out() -> None:
    margins = np.random.default_rng(3).normal(size=(5, 7))
    found = co_op_lira(margins)
    np.testing.assert_allclose(found[2], lira_offline(margins[2], np.delete(margins, 2, axis=0)))
    moved = margins.copy()
    moved[2] += 1
    assert (co_op_lira(moved)[2] > found[2]).all()


def test_attacks_refuse_too_few_models() -> None:
    one = np.zeros((1, 3))
    with pytest.raises(SettingError, match="2 other models"):
        lira_offline(np.zeros(3), one)
    with pytest.raises(SettingError, match="3 clients"):
        co_op_lira(np.zeros((2, 3)))
    with pytest.raises(SettingError, match="trained with it"):
        lira_online(np.zeros(3), np.zeros((4, 3)), np.ones((4, 3), bool))


def test_calibration_and_lira_beat_the_loss_where_difficulty_hides_membership() -> None:
    """Margins: difficulty N(0, 4) + 1 for members + N(0, 0.5). Only the loss threshold must cope
    with difficulty."""
    stream = np.random.default_rng(4)
    included = random_halves(2000, stream)
    difficulty = stream.normal(size=2000) * 4
    shadow_in = stream.random((40, 2000)) < 0.5
    margins = difficulty + included + stream.normal(size=2000) * 0.5
    shadows = difficulty + shadow_in + stream.normal(size=(40, 2000)) * 0.5
    without = difficulty + stream.normal(size=(40, 2000)) * 0.5
    ideal = norm.cdf(1 / (0.5 * math.sqrt(2)))
    assert roc_of(loss_threshold(margins), included).auc < 0.62
    assert roc_of(difficulty_calibrated(margins, without), included).auc > 0.8
    assert roc_of(lira_offline(margins, without), included).auc == pytest.approx(ideal, abs=0.02)
    assert roc_of(lira_online(margins, shadows, shadow_in), included).auc == pytest.approx(
        ideal, abs=0.02
    )
    assert (
        abs(roc_of(lira_offline(difficulty, without), included).auc - 0.5) < 0.03
    )  # and nothing is found in nothing
