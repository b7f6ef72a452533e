import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from fedkd.audit.roc import (
    auc_interval,
    blind_scores,
    chance,
    clopper_pearson,
    lower_rate,
    random_halves,
    roc_of,
    tpr_at,
    upper_rate,
)
from fedkd.errors import SettingError


def test_one_sided_bounds_are_the_oracles() -> None:
    assert upper_rate(0, 100) == pytest.approx(0.029513, abs=1e-6)
    assert lower_rate(95, 100) == pytest.approx(0.897747, abs=1e-6)
    assert upper_rate(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100))


@given(st.integers(1, 60), st.data())
def test_bounds_are_where_the_binomial_tail_is_five_percent(
    trials: int, data: st.DataObject
) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = lower_rate(successes, trials), upper_rate(successes, trials)
    assert low <= successes / trials <= high
    if successes > 0:
        assert binom.sf(successes - 1, trials, low) == pytest.approx(0.05)
    if successes < trials:
        assert binom.cdf(successes, trials, high) == pytest.approx(0.05)


def test_intervals_cover_as_often_as_they_say() -> None:
    trials, truth = 50, 0.2
    covered = 0.0
    for successes in range(trials + 1):
        low, high = clopper_pearson(successes, trials, 0.95)
        covered += binom.pmf(successes, trials, truth) * (low <= truth <= high)
    assert 0.95 <= covered < 0.98


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=25))
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([float(s) for s, _ in pairs])
    included = np.array([i for _, i in pairs])
    if included.all() or not included.any():
        with pytest.raises(SettingError, match="members and non-members"):
            roc_of(scores, included)
        return
    won = [(a > b) + (a == b) / 2 for a in scores[included] for b in scores[~included]]
    roc = roc_of(scores, included)
    assert roc.auc == pytest.approx(sum(won) / len(won))
    for level in (0.2, 0.5):
        rates = [  # naive: every threshold that there is
            (np.mean(scores[included] >= t), np.mean(scores[~included] >= t))
            for t in [*scores, math.inf]
        ]
        found = tpr_at(roc, level)
        if roc.others >= 1 / level:
            assert found.value == pytest.approx(max(tpr for tpr, fpr in rates if fpr <= level))


def test_small_false_positive_rates_need_enough_others() -> None:
    stream = np.random.default_rng(0)
    included = random_halves(400, stream)
    roc = roc_of(stream.normal(size=400) + 3 * included, included)
    rate = tpr_at(roc, 0.01)
    assert rate.value is not None
    assert rate.low is not None
    assert rate.high is not None
    assert rate.low < rate.value < rate.high
    assert rate.reason is None
    missing = tpr_at(roc, 0.001)
    assert missing.value is None
    assert missing.reason == "0.1% needs 1000 non-members, there are 200"


def test_halves_are_halves_of_one_pool() -> None:
    halves = [random_halves(11, np.random.default_rng(seed)) for seed in range(300)]
    assert {int(h.sum()) for h in halves} == {5}
    assert np.abs(np.mean(halves, axis=0) - 5 / 11).max() < 0.12


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(SettingError, match="finite"):
        roc_of(np.array([0.0, np.nan]), np.array([True, False]))


def test_the_blind_baseline_finds_halves_that_differ_and_nothing_in_random_ones() -> None:
    stream = np.random.default_rng(5)
    features = stream.normal(size=(400, 10))
    included = random_halves(400, stream)
    fair, members = blind_scores(features, included)
    assert len(fair) == len(members) == 200
    assert abs(roc_of(fair, members).auc - 0.5) < 0.11
    assert chance(fair, members) > 0.01
    drifted, members = blind_scores(features + 0.8 * included[:, None], included)
    assert roc_of(drifted, members).auc > 0.8
    assert chance(drifted, members) < 1e-6
    with pytest.raises(SettingError, match="blind baseline"):
        blind_scores(features[:6], np.array([True, True, False, False, False, True]))


@pytest.mark.slow
def test_intervals_of_the_blind_baseline_cover_chance_where_inclusion_is_fair() -> None:
    stream = np.random.default_rng(3)
    few = stream.normal(size=(100, 3)) @ stream.normal(
        size=(3, 12)
    )  # records that are much alike, as images are
    covered = 0
    for seed in range(100):
        scores, members = blind_scores(few, random_halves(100, stream), seed)
        low, high = auc_interval(scores, members)
        covered += low < 0.5 < high
    assert covered >= 88  # 95 are promised; of scores out of five folds 79 cover it


def test_an_auc_interval_covers_the_truth_as_often_as_it_says() -> None:
    stream, shift = np.random.default_rng(4), 1.0
    truth = 0.7602499  # Phi(1 / sqrt 2)
    included = np.arange(120) < 50
    found = [auc_interval(stream.normal(size=120) + shift * included, included) for _ in range(300)]
    assert 0.9 < np.mean([low < truth < high for low, high in found]) < 0.985
    narrower = np.mean(
        [low + 0.2 * (high - low) < truth < high - 0.2 * (high - low) for low, high in found]
    )
    assert narrower < 0.85  # the wrong width is told from the right one
    assert auc_interval(np.arange(10.0), np.arange(10) >= 5) == (1.0, 1.0)
