"""Differences between methods: paired by seed, one family, and no verdict from few seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from scipy import stats

from fedkd.errors import RunError, SettingError
from fedkd.report.comparison.between_methods import Pair, pairs, table_of_pairs
from fedkd.report.comparison.family_verdicts import judge
from fedkd.report.comparison.figures import (
    Line,
    Options,
    Setting,
    check_metric,
    compare,
    known_figures,
)
from fedkd.report.comparison.run_reader import Run
from fedkd.report.comparison.tables import tables
from fedkd.settings.measuring_points import MeasuringPoint

OPTIONS = Options(after="distillation", last=1)
Point = Literal["distillation", "training"]
A, B, C = (
    (0.80, 0.82, 0.81, 0.83, 0.79),
    (0.70, 0.73, 0.70, 0.74, 0.69),
    (0.81, 0.80, 0.82, 0.81, 0.80),
)


def run_of(accuracy: float, point: MeasuringPoint = "distillation", **other: float) -> Run:
    """Return a run of one round whose two clients are equally accurate on both test sets."""
    values = {point: accuracy, **other}
    names = ("personal_accuracy", "global_accuracy")
    known = {f"{name}_after_{p}": v for p, v in values.items() for name in names}
    return Run(
        rounds={"round": np.array([1.0]), **{k: np.array([v]) for k, v in known.items()}},
        clients={k: np.array([[v, v]]) for k, v in known.items()},
        architectures=("mlp", "mlp"),
        measured=tuple(values),
        first=point,
    )


def lines_of(
    accuracies: Mapping[str, Sequence[float]], setting: Setting = (), seeds: int = 5
) -> list[Line]:
    runs = {
        (method, setting): {seed: run_of(x) for seed, x in enumerate(of[:seeds])}
        for method, of in accuracies.items()
    }
    return compare(runs, OPTIONS)


def by_names(found: Sequence[Pair]) -> dict[tuple[str, str], Pair]:
    return {(pair.method, pair.other): pair for pair in found}


def test_every_pair_is_tested_by_the_paired_t_test_with_holm_over_the_whole_table() -> None:
    found = by_names(pairs(lines_of({"a": A, "b": B, "c": C}), OPTIONS))
    assert set(found) == {("a", "b"), ("a", "c"), ("b", "c")}
    p = {
        key: float(stats.ttest_rel(one, other).pvalue)
        for key, one, other in ((("a", "b"), A, B), (("a", "c"), A, C), (("b", "c"), B, C))
    }
    ascending = sorted(p, key=lambda key: p[key])
    least = 0.0
    for i, key in enumerate(ascending):
        # Each p-value is there twice, once a test set: the k-th and the next of six tests.
        least = max(least, (6 - 2 * i) * p[key])
        for name in ("personal_accuracy", "global_accuracy"):
            assert found[key].verdicts[name].p_value == pytest.approx(min(1.0, least))
    assert found["a", "b"].verdicts["global_accuracy"].word == "holds"
    assert found["b", "c"].verdicts["global_accuracy"].word == "does NOT hold"
    assert found["a", "c"].verdicts["global_accuracy"].word == "not shown"
    difference = found["a", "b"].differences["personal_accuracy"]
    assert difference.mean == pytest.approx(0.098)  # 10, 9, 11, 9 and 10 points
    assert difference.half == pytest.approx(
        2.776445 * np.std([10, 9, 11, 9, 10], ddof=1) / 500**0.5 / 10
    )


def test_a_reference_is_held_against_each_and_the_family_is_smaller() -> None:
    lines = lines_of({"a": A, "b": B, "c": C})
    found = pairs(lines, OPTIONS, against="b")
    assert [(pair.method, pair.other) for pair in found] == [("a", "b"), ("c", "b")]
    every = by_names(pairs(lines, OPTIONS))["a", "b"].verdicts["global_accuracy"].p_value
    alone = found[0].verdicts["global_accuracy"].p_value
    assert every is not None
    assert alone is not None
    assert alone < every
    table = table_of_pairs(found, OPTIONS)
    assert table is not None
    assert "over the 4 tests of this table" in table.caption
    assert table.lines[0][:3] == ("a less b", "5", "+9.8 ± 1.0")
    assert table.lines[0][4] == "ahead"


def test_an_unknown_reference_is_named_with_the_methods_that_there_are() -> None:
    with pytest.raises(SettingError, match="--against x: it is none of a, b"):
        pairs(lines_of({"a": A, "b": B}), OPTIONS, against="x")


def test_four_seeds_give_intervals_and_no_verdict() -> None:
    found = pairs(lines_of({"a": A, "b": B}, seeds=4), OPTIONS)
    assert found[0].differences["global_accuracy"].half is not None
    assert found[0].verdicts["global_accuracy"].word == "too few seeds for a verdict"
    table = table_of_pairs(found, OPTIONS)
    assert table is not None
    assert table.lines[0][3:5] == ("–", "–")
    assert "Nothing is judged" in table.caption


def test_only_seeds_that_both_have_are_paired_and_settings_are_not_mixed() -> None:
    one, two = (("partition.alpha", "1"),), (("partition.alpha", "0.1"),)
    lines = [*lines_of({"a": A, "b": B[:3]}, one), *lines_of({"a": A, "c": C}, two)]
    found = pairs(lines, OPTIONS)
    assert [(p.method, p.other, p.setting, p.seeds) for p in found] == [
        ("a", "b", one, (0, 1, 2)),
        ("a", "c", two, (0, 1, 2, 3, 4)),
    ]


def test_methods_are_compared_at_one_point_of_the_round_whatever_each_reports_first() -> None:
    runs = {
        ("early", ()): {s: run_of(x, "distillation", training=x + 0.1) for s, x in enumerate(A)},
        ("late", ()): {s: run_of(x + 0.1, "training", distillation=x) for s, x in enumerate(A)},
    }
    for point in ("distillation", "training"):
        options = replace(OPTIONS, after=point)
        [pair] = pairs(compare(runs, options), options)
        assert pair.differences["global_accuracy"].mean == pytest.approx(0.0)


def test_one_method_makes_no_table() -> None:
    assert table_of_pairs(pairs(lines_of({"a": A}), OPTIONS), OPTIONS) is None


def test_a_family_is_corrected_for_its_size_and_equal_differences_are_no_chance() -> None:
    sure = [1.0, 1.2, 0.9, 1.1, 1.0]
    narrow = [0.5, 1.5, 0.4, 1.2, 0.3]  # p 0.03 alone
    p = float(stats.ttest_1samp(narrow, 0).pvalue)
    assert 0.025 < p < 0.05
    assert judge([narrow])[0].word == "holds"
    assert [v.word for v in judge([narrow, narrow])] == ["not shown"] * 2
    assert [v.word for v in judge([sure, narrow])] == ["holds", "holds"]
    assert judge([[-1.0] * 5])[0].word == "does NOT hold"
    assert judge([[0.0] * 5])[0] == judge([[0.0] * 5, [1.0]])[0]
    assert judge([[0.0] * 5])[0].word == "not shown"
    assert judge([[1.0, 2.0, 3.0, 4.0, float("nan")]])[0].p_value is None


def test_methods_can_be_held_against_each_other_by_a_metric_that_all_were_asked_for() -> None:
    """By accuracy "b" is behind "a"; by macro F1 it is ahead of it."""
    options = replace(OPTIONS, metric="macro_f1")
    runs: dict[tuple[str, Setting], dict[int, Run]] = {}
    for method, of in {"a": A, "b": B}.items():
        for seed, x in enumerate(of):
            run = run_of(x)
            f1 = {f"{w}_macro_f1_after_distillation": 1 - x for w in ("personal", "global")}
            rounds = {**run.rounds, **{name: np.array([value]) for name, value in f1.items()}}
            runs.setdefault((method, ()), {})[seed] = replace(run, rounds=rounds)
    lines = compare(runs, options)
    (pair,) = pairs(lines, options)
    assert pair.differences["global_macro_f1"].mean == pytest.approx(np.mean(B) - np.mean(A))
    assert pair.verdicts["global_macro_f1"].word == "does NOT hold"
    table = table_of_pairs([pair], options)
    assert table is not None
    assert "in macro_f1 after distillation" in table.title
    metrics = tables(lines, [], options)[-1]
    assert metrics.header[1:] == ("macro_f1, own", "macro_f1, balanced")
    check_metric({"a": runs["a", ()][0]}, options)
    with pytest.raises(RunError, match="metric=macro_f1: old has not measured it; run it again"):
        check_metric({"old": run_of(0.5)}, options)
    assert "global_macro_f1" not in known_figures(lines_of({"a": A}))
