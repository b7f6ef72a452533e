"""Runs sorted into methods, settings and seeds by what differs between their scenarios."""

from pathlib import Path
from typing import Any

import pytest

from fedkd.errors import SettingError
from fedkd.report.comparison.grouping import NOTHING, in_common, sort_runs

KNFU = {"strategy.name": "knfu", "strategy.beta": 1.0, "distill.loss": "kl"}
FEDMD = {"strategy.name": "fedmd", "distill.loss": "mae"}
WHOLE = {
    "name": "tiny",
    "seed": 0,
    "clients": 4,
    "models": ["mlp", "cnn"],
    "train.epochs": 1,
}


def keys(*changes: dict[str, Any]) -> list[Any]:
    """Return methods and settings with their seeds, of runs in folders 0, 1, ..."""
    configs = {Path(str(i)): {**WHOLE, **change} for i, change in enumerate(changes)}
    return [(*key, list(by_seed)) for key, by_seed in sort_runs(configs).items()]


def test_seeds_are_repetitions_and_what_a_strategy_brings_along_is_part_of_the_method() -> None:
    assert keys(KNFU, {**KNFU, "seed": 1}, FEDMD) == [
        ("knfu distill.loss=kl", (), [0, 1]),
        ("fedmd distill.loss=mae", (), [0]),
    ]


def test_what_varies_beside_the_strategy_is_a_setting() -> None:
    few, many = {"clients": 2}, {"clients": 9}
    assert keys({**KNFU, **few}, {**FEDMD, **few}, {**KNFU, **many}) == [
        ("knfu distill.loss=kl", (("clients", "2"),), [0]),
        ("fedmd distill.loss=mae", (("clients", "2"),), [0]),
        ("knfu distill.loss=kl", (("clients", "9"),), [0]),
    ]
    assert keys({**KNFU, "models": ["mlp"]}, {**KNFU, "models": ["mlp", "cnn"]}) == [
        ("knfu", (("models", "[mlp]"),), [0]),
        ("knfu", (("models", "[mlp,cnn]"),), [0]),
    ]


def test_a_strategys_settings_name_methods_and_those_of_another_choice_are_left_out() -> None:
    assert [key[0] for key in keys(KNFU, {**KNFU, "strategy.beta": 3.0})] == [
        "knfu strategy.beta=1.0",
        "knfu strategy.beta=3.0",
    ]
    shards = {**KNFU, "partition.name": "shards", "partition.per_client": 2}
    mild, strong = (
        {**KNFU, "partition.name": "dirichlet", "partition.alpha": alpha} for alpha in (1.0, 0.1)
    )
    assert [key[1] for key in keys(shards, mild, strong)] == [
        (("partition", "shards"), ("partition.alpha", NOTHING)),
        (("partition", "dirichlet"), ("partition.alpha", "1.0")),
        (("partition", "dirichlet"), ("partition.alpha", "0.1")),
    ]


def test_the_same_run_twice_is_refused() -> None:
    with pytest.raises(SettingError, match="0 and 1 are the same run twice, knfu with seed 0"):
        keys(KNFU, KNFU)


def test_what_runs_have_in_common_is_said_in_a_line() -> None:
    configs = [{**WHOLE, **KNFU, "rounds": rounds, "seed": rounds} for rounds in (2, 3)]
    assert in_common(configs, {**WHOLE, **KNFU, "train.epochs": 5}) == (
        "All runs: scenario tiny, seed=2,3, clients=4, models=[mlp,cnn], train.epochs=1. What is"
        " not named is a"
        " default."
    )
