"""Both points of a round in whole runs: what they are of, and that measuring changes nothing."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from finished import finished_records, finished_run
from tiny import records, scenario

from fedkd.errors import SettingError
from fedkd.experiment.run import run
from fedkd.federation.round_records import PointFigures, RoundRecord
from fedkd.report.console import accuracies_at

ONE_BATCH = {"epochs": 1, "batch_size": 100}
"""Distillation whose figures do not depend on how samples are permuted, up to rounding."""


def at(record: RoundRecord, point: Any) -> Sequence[PointFigures]:
    return [client.after(point) for client in record.clients]


def test_before_anything_was_distilled_clients_have_the_models_of_local_training() -> None:
    alone = finished_records(strategy="local_only")
    assert at(alone[0], "distillation") == [PointFigures()] * 4
    assert at(finished_records()[0], "training") == at(alone[0], "training")
    first = finished_records(round_order="distill_first")
    assert at(first[0], "training") == at(alone[0], "training")
    assert at(first[0], "distillation") == [PointFigures()] * 4


def test_the_model_after_distillation_is_one_whichever_phase_begins_the_round() -> None:
    """Round 1's teacher makes the same model at the end of that round and in the next."""
    ends = finished_records(distill=ONE_BATCH)[0]
    begins = finished_records(distill=ONE_BATCH, round_order="distill_first")[1]
    for one, other in zip(at(ends, "distillation"), at(begins, "distillation"), strict=True):
        assert one.global_accuracy == other.global_accuracy
        assert one.global_nll == pytest.approx(other.global_nll, rel=1e-4)
        assert one.global_nll != at(ends, "training")[0].global_nll


@pytest.mark.parametrize("after", ["distillation", "training"])
@pytest.mark.parametrize("round_order", ["train_first", "distill_first"])
def test_measuring_at_one_point_changes_no_figure_of_it(after: str, round_order: str) -> None:
    test = {"global_size": 50, "private_size": 20, "after": after}
    both = finished_records(round_order=round_order)
    one = records(round_order=round_order, test=test)
    assert [r.knowledge_sha256 for r in one] == [r.knowledge_sha256 for r in both]
    left_out = "training" if after == "distillation" else "distillation"
    for record, whole in zip(one, both, strict=True):
        assert at(record, after) == at(whole, after)
        assert at(record, left_out) == [PointFigures()] * 4
        for client, other in zip(record.clients, whole.clients, strict=True):
            assert client.teacher_accuracy == other.teacher_accuracy
            assert (client.train_loss, client.distill_loss) == (
                other.train_loss,
                other.distill_loss,
            )


def test_clients_trained_together_are_measured_between_the_phases_too() -> None:
    changes: dict[str, Any] = {"models": ["mlp"], "round_order": "distill_first"}
    alone, together = (
        records(**changes, batch_clients=which) for which in ("never", ["mlp"])
    )  # fmt: skip
    for one, other in zip(alone, together, strict=True):
        for point in ("distillation", "training"):
            for x, y in zip(at(one, point), at(other, point), strict=True):
                assert (x.global_nll is None) == (y.global_nll is None)
                if x.global_nll is not None:
                    assert x.global_nll == pytest.approx(y.global_nll, rel=1e-4)
    last = together[-1]
    assert at(last, "distillation")[0].global_nll != at(last, "training")[0].global_nll


def test_averaged_weights_are_measured_as_they_were_adopted_and_after_training_from_them() -> None:
    last = finished_records(strategy="fedavg", models=["mlp"])[-1]
    adopted = {figures.global_nll for figures in at(last, "distillation")}
    assert len(adopted) == 1  # everybody has the same model
    assert len({figures.global_nll for figures in at(last, "training")}) == 4


def test_a_run_s_files_say_what_was_measured_and_which_point_comes_first() -> None:
    folder = finished_run(strategy="fedmd")
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["after"], summary["measured_after"]) == (
        "training",
        ["training", "distillation"],
    )
    with (folder / "clients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row[f"global_nll_after_{p}"] for row in rows for p in ("distillation", "training"))
    last = json.loads((folder / "rounds.jsonl").read_text().splitlines()[-1])
    said = accuracies_at(last, "distillation")
    assert said.startswith("after distillation: own ")
    assert f"{100 * last['global_accuracy_after_distillation']:.1f}" in said


def test_the_point_that_comes_first_may_be_chosen_and_must_be_measured(tmp_path: Path) -> None:
    chosen = run(scenario(strategy="fedmd", report={"after": "distillation"}), tmp_path / "one")
    assert chosen["after"] == "distillation"
    with pytest.raises(SettingError, match=r"report\.after=distillation: this run measures after"):
        run(scenario(strategy="fd", report={"after": "distillation"}), tmp_path / "two")
    with pytest.raises(SettingError, match=r"test\.after=distillation: a round of this strategy"):
        run(scenario(strategy="fd", test={"after": "distillation"}), tmp_path / "three")
    assert not (tmp_path / "two").exists()
    asked = {"report": {"after": "distillation"}, "test": {"after": "distillation"}}
    alone = run(scenario(strategy="local_only", **asked), tmp_path / "alone")
    assert alone["measured_after"] == ["training"]  # a reference stands beside any run
