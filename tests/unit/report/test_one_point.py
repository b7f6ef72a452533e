"""Runs are compared at one point of the round, which all of them have measured."""

from dataclasses import replace

import numpy as np
import pytest

from fedkd.errors import RunError, SettingError
from fedkd.report.comparison.figures import Options, compare
from fedkd.report.comparison.one_point import common_points, note_on_point, point_of_comparison
from fedkd.report.comparison.run_reader import Run, baseline_run
from fedkd.settings.measuring_points import MeasuringPoint

BOTH: tuple[MeasuringPoint, ...] = ("training", "distillation")


def run(first: MeasuringPoint, measured: tuple[MeasuringPoint, ...] = BOTH) -> Run:
    """Return a run of one client and round: 0.25 after distillation, 0.75 after training."""
    found = {"distillation": 0.25, "training": 0.75}
    names = {f"global_accuracy_after_{point}": found[point] for point in measured}
    rounds = {name: np.array([value]) for name, value in names.items()}
    sent = {"round": np.array([1.0]), "bytes_up": np.array([9.0]), "bytes_down": np.array([9.0])}
    clients = {name: np.array([[value]]) for name, value in names.items()}
    return Run(
        rounds=sent | rounds,
        clients=clients,
        architectures=("mlp",),
        measured=measured,
        first=first,
    )


ALONE = replace(run("training", ("training",)), is_reference=True)
FD = run("training", ("training",))


def test_a_run_at_a_point_has_that_point_s_figures_and_not_the_other_s() -> None:
    at = run("training").at("distillation")
    assert at.of_round("global_accuracy").tolist() == [0.25]
    assert at.of_client("global_accuracy").tolist() == [[0.25]]
    assert not any("_after_" in name for name in (*at.rounds, *at.clients))


def test_a_reference_has_one_model_a_round_and_another_run_is_not_taken_for_one() -> None:
    assert ALONE.at("distillation").of_round("global_accuracy").tolist() == [0.75]
    with pytest.raises(RunError, match="no figures after distillation"):
        FD.at("distillation")


def test_a_comparison_is_at_the_point_that_all_report_first() -> None:
    assert point_of_comparison({"a": run("training"), "local": ALONE}) == "training"
    assert point_of_comparison({"a": run("distillation"), "local": ALONE}) == "distillation"


def test_where_papers_differ_it_is_after_training_and_says_so() -> None:
    runs = {"fedmd": run("training"), "dsfl": run("distillation")}
    assert point_of_comparison(runs) == "training"
    note = note_on_point(runs, "training")
    assert note is not None
    assert "alone, dsfl would report those after distillation first" in note
    assert "fedmd" not in note
    assert note_on_point({"fedmd": run("training")}, "training") is None


def test_a_run_with_one_point_decides_and_cannot_be_compared_at_the_other() -> None:
    runs = {"dsfl": run("distillation"), "fd": FD, "local": ALONE}
    assert common_points(runs) == ["training"]
    assert point_of_comparison(runs) == "training"
    with pytest.raises(SettingError, match=r"fd measured after training alone; leave it out"):
        point_of_comparison(runs, "distillation")


def test_runs_without_a_point_in_common_are_refused() -> None:
    runs = {"dsfl": run("distillation", ("distillation",)), "fd": FD}
    with pytest.raises(SettingError, match=r"dsfl .* and fd .* run with test\.after=both"):
        point_of_comparison(runs)


def test_references_alone_are_compared_at_the_point_that_they_have() -> None:
    assert common_points({"local": ALONE}) == ["training"]


def test_all_lines_of_a_comparison_are_at_its_point() -> None:
    runs = {(name, ()): {0: each} for name, each in {"a": run("training"), "l": ALONE}.items()}
    for after, ours in (("distillation", 0.25), ("training", 0.75)):
        options = Options(after=after, last=1)  # type: ignore[arg-type]
        found = [line.figures["global_accuracy"].mean for line in compare(runs, options)]
        assert found == [ours, 0.75]


def test_gains_at_both_points_are_over_the_same_model_of_the_baseline() -> None:
    made = run("training")
    gains = {f"global_gain_after_{point}": np.array([[gain]])
             for point, gain in (("distillation", -0.25), ("training", 0.25))}  # fmt: skip
    made = replace(made, clients={**made.clients, **gains})
    for point in BOTH:
        alone = baseline_run(made.at(point))
        assert alone is not None
        assert alone.of_round("global_accuracy").tolist() == [0.5]
