"""The studies of KnFu: what they plan, how readings are ranked, and where gains cross zero."""

import numpy as np
import pytest
import yaml
from study_plans import combinations, planned

from fedkd.cli.compare import parse_methods
from fedkd.cli.studies import knfu_study
from fedkd.cli.studies.knfu_study import (
    AXES,
    COUNTERPARTS,
    LITTLE,
    MUCH,
    crossing,
    rank,
    readings,
    readings_at,
)
from fedkd.cli.studies.study import Study
from fedkd.scenario.registry import create
from fedkd.strategies.knfu import KnFu


@pytest.mark.daily(1)
@pytest.mark.fast(0)
@pytest.mark.parametrize("study", [*COUNTERPARTS.values(), AXES], ids=lambda study: study.name)
def test_every_study_of_knfu_plans_valid_runs_that_its_claims_speak_of(
    study: Study,
) -> None:
    planned(study)
    keys = combinations(study)
    for claim in study.claims:
        assert {claim.ours, claim.theirs} <= keys


def test_the_readings_are_all_combinations_of_four_settings() -> None:
    rules = set()
    for method in parse_methods(readings_at(MUCH).methods):
        given = (text.removeprefix("strategy.").partition("=") for text in method.settings)
        section = {name: yaml.safe_load(value) for name, _, value in given}
        if method.strategy == "knfu":
            rules.add(create("strategy", {"name": "knfu", **section}).value)
    assert len(rules) == len(readings()) == 4 * 2 * 2 * 3
    assert KnFu() in rules


def results(local: float, best: float, ours: dict[str, float]) -> dict:
    """Accuracies of two seeds, a tenth of a point apart, of the references and of readings."""
    found = {"local_only": local, "mean": best, "fedmd": best - 0.01}
    found |= dict.fromkeys(readings(), 0.0) | ours
    return {
        (method, ""): {
            "personal_accuracy": np.array([value, value + 0.001]),
            "effective_neighbors": np.array([2.0, 3.0]),
        }
        for method, value in found.items()
    }


def test_the_nearest_reading_beats_the_best_with_little_data_and_not_local_training_with_much():
    wins_both, follows = "js_mean_largest_10", "kl_mean_none_10"
    little = results(0.60, 0.70, {wins_both: 0.72, follows: 0.61, "kl_mean_none_1": 0.71})
    much = results(0.90, 0.80, {wins_both: 0.88, follows: 0.90, "kl_mean_none_1": 0.95})
    first, second, third, *_ = rank(little, much)
    assert (first.label, first.distance) == (wins_both, 0.0)
    np.testing.assert_allclose(first.over_best, [2.0, 2.0])
    np.testing.assert_allclose(first.under_local, [2.0, 2.0])
    assert first.neighbors == (2.5, 2.5)
    assert second.label == "kl_mean_none_1"  # 1 point over the best, but 5 over local training
    assert second.distance == pytest.approx(5.0)
    assert third.label == follows
    assert third.distance == pytest.approx(9.0)


def test_the_preset_reading_is_one_of_those_that_were_tried() -> None:
    assert LITTLE != MUCH
    tried = {frozenset(text.split()) for text in readings().values()}
    default = {"strategy.epd=mean_soft_label", "strategy.scale=none"}
    named = {text.partition("=")[0] for text in knfu_study.NEAREST.split()}
    whole = {*knfu_study.NEAREST.split(), *(t for t in default if t.partition("=")[0] not in named)}
    assert frozenset(whole) in tried


def test_a_gain_crosses_zero_where_it_stays_below() -> None:
    assert crossing([1.0, -1.0, 1.0, -1.0], [1, 10, 100, 1000]) == pytest.approx(10**2.5)
    assert crossing([1.0, 2.0, 0.0], [1, 10, 100]) is None
