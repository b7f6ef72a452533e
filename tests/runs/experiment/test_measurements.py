"""What clients measure beside their accuracies: calibration, their teachers' quality, a validation
split."""

import csv
import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finished import finished_records
from naive_metrics import slow_ece
from tiny import mean, records, scenario

from fedkd.experiment.baseline import baseline_key
from fedkd.experiment.build import build
from fedkd.experiment.run import execute, run
from fedkd.federation.local_steps import teacher_target
from fedkd.federation.round_records import PointFigures, RoundRecord
from fedkd.messages import Predictions
from fedkd.report.record_rows import round_row, teacher_rows
from fedkd.training.losses import distillation_target
from fedkd.training.metrics import teacher_quality

TEACHER = ("teacher_accuracy", "teacher_nll", "teacher_ece", "teacher_by_class")
HOLDING_OUT = {"global_size": 50, "private_size": 20, "validation_fraction": 0.25}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_client_s_calibration_is_that_of_the_model_that_it_ends_with() -> None:
    found: list[RoundRecord] = []
    stop = threading.Event()
    experiment = build(scenario(), stop)
    execute(experiment, found.append, stop)
    context = experiment.context
    for client in found[-1].clients:
        model = context.borrow_model(client.client_id)[0].eval()
        for of, (x, y) in {
            "global": context.global_test,
            "personal": context.samples(context.division.test[client.client_id]),
        }.items():
            with torch.no_grad():
                probs = model(x).double().softmax(-1)
            right = [
                -math.log(row[label]) for row, label in zip(probs.tolist(), y.tolist(), strict=True)
            ]
            figures = client.after_distillation
            assert getattr(figures, f"{of}_nll") == pytest.approx(sum(right) / len(right), rel=1e-5)
            if of == "global":
                assert figures.global_ece == pytest.approx(slow_ece(probs, y), abs=1e-5)


def test_a_teacher_that_knows_the_labels_is_always_right() -> None:
    for record in records(strategy="toys:Labeled", public={"size": 40, "labeled": True}):
        for client in record.clients:
            assert (client.teacher_accuracy, client.teacher_nll, client.teacher_ece) == (
                1.0,
                0.0,
                0.0,
            )
            assert client.teacher_by_class is not None
            assert {value for value in client.teacher_by_class if not math.isnan(value)} == {1.0}


@pytest.mark.parametrize("strategy", ["fedmd", "dsfl"])
def test_a_common_teacher_is_equally_right_for_everyone_who_distills_it(strategy: str) -> None:
    first, second = finished_records(strategy=strategy)
    for record in (first, second):
        assert len({client.teacher_accuracy for client in record.clients}) == 1
        assert 0 < record.clients[0].teacher_accuracy < 1  # type: ignore[operator]
    assert first.clients[0].teacher_nll != second.clients[0].teacher_nll


def test_a_teacher_that_was_judged_is_not_taken_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    distill = {"loss": "kl", "temperature": 2.0}
    context = build(scenario(distill=distill), threading.Event()).context
    ids = torch.arange(context.task.public_size)
    values = torch.randn(
        2, len(ids), context.task.classes, generator=torch.Generator().manual_seed(0)
    )
    one, other = (Predictions(ids=ids, values=v, scale="logits") for v in values)
    moved = replace(one, ids=ids.flip(0))
    softened = replace(one, values=one.values.softmax(-1), scale="probs")
    judged = []

    def counted(*given: Any) -> Any:
        judged.append(given)
        return teacher_quality(*given)

    monkeypatch.setattr("fedkd.federation.context.teacher_quality", counted)
    for teacher in (one, one, replace(one, values=one.values.clone()), other, moved, one, softened):
        expected = teacher_quality(
            teacher.values,
            teacher.scale,
            context.public_labels[teacher.ids],
            context.distillation.temperature,
        )
        for name, value in expected.items():
            assert context.quality(teacher)[name] == pytest.approx(value, nan_ok=True)
        target = distillation_target("kl", teacher.values, teacher.scale, 2.0)
        assert torch.equal(teacher_target(context, teacher).nan_to_num(), target.nan_to_num())
    assert len(judged) == 5  # the first three are one teacher


def test_a_teacher_is_judged_on_the_public_samples_that_it_was_made_on() -> None:
    """Ten of the public samples a round: an accuracy there is a multiple of a tenth."""
    setting: dict[str, Any] = {
        "strategy": "toys:Labeled",
        "public": {"size": 40, "per_round": 10, "labeled": True},
    }
    assert {c.teacher_accuracy for record in records(**setting) for c in record.clients} == {1.0}
    for record in records(strategy="fedmd", public={"size": 40, "per_round": 10}):
        assert 10 * record.clients[0].teacher_accuracy % 1 == pytest.approx(0, abs=1e-9)  # type: ignore[operator]


@pytest.mark.slow
def test_who_distills_nothing_has_no_teacher_to_judge() -> None:
    assert all(
        getattr(c, name) is None
        for c in finished_records(strategy="local_only")[-1].clients
        for name in TEACHER
    )
    first, second = finished_records(round_order="distill_first")
    assert all(getattr(c, name) is None for c in first.clients for name in TEACHER)
    assert all(getattr(c, name) is not None for c in second.clients for name in TEACHER)
    for record in records(participation=0.5, rounds=3):
        for client in record.clients:
            assert (client.teacher_accuracy is None) == (client.status == "absent")


@pytest.mark.slow
def test_clients_that_are_trained_together_judge_their_teachers_too() -> None:
    alone, together = (
        finished_records(models=["mlp"]),
        records(models=["mlp"], batch_clients=["mlp"]),
    )
    for one, other in zip(alone[-1].clients, together[-1].clients, strict=True):
        assert one.teacher_nll == pytest.approx(other.teacher_nll, rel=1e-3)


def test_the_table_of_teachers_by_class_has_a_row_for_each_client_that_distilled(
    tmp_path: Path,
) -> None:
    run(scenario(round_order="distill_first"), tmp_path)
    rows = table(tmp_path / "teacher_by_class.csv")
    assert [(row["round"], row["client"]) for row in rows] == [("2", str(i)) for i in range(4)]
    assert list(rows[0])[2:] == [f"class {digit}" for digit in range(10)]
    clients = [row for row in table(tmp_path / "clients.csv") if row["round"] == "2"]
    for row, client in zip(rows, clients, strict=True):
        known = [float(row[f"class {digit}"]) for digit in range(10) if row[f"class {digit}"]]
        assert min(known) <= float(client["teacher_accuracy"]) <= max(known)


def test_a_class_without_public_samples_has_no_accuracy() -> None:
    (record,) = records(rounds=1, public={"size": 4})
    row = teacher_rows(record, [str(digit) for digit in range(10)])[0]
    assert list(row.values()).count(None) >= 6


def test_a_round_s_calibration_is_the_mean_over_clients() -> None:
    last = finished_records()[-1]
    for name in (
        "global_ece_after_distillation",
        "global_nll_after_training",
        "personal_nll_after_training",
        "teacher_accuracy",
        "teacher_ece",
        "teacher_nll",
    ):
        assert round_row(last, None)[name] == pytest.approx(mean(last, name))


def test_a_client_that_predicts_nan_has_no_calibration_and_the_run_goes_on(tmp_path: Path) -> None:
    run(scenario(models=["mlp", "toys:diverged"]), tmp_path)
    first = json.loads((tmp_path / "rounds.jsonl").read_text().splitlines()[0])
    for point in ("distillation", "training"):
        assert first[f"global_ece_after_{point}"] is None
        rows = table(tmp_path / "clients.csv")[1::2]
        assert [row[f"global_nll_after_{point}"] for row in rows] == ["nan"] * 4


def test_without_a_validation_split_there_is_no_validation_accuracy() -> None:
    last = finished_records()[-1].clients
    found = [figures for c in last for figures in (c.after_distillation, c.after_training)]
    assert {figures.validation_accuracy for figures in found} == {None}


def test_with_a_validation_split_every_client_and_its_twin_have_a_validation_accuracy(
    tmp_path: Path,
) -> None:
    summary = run(scenario(test=HOLDING_OUT, baseline="local_only"), tmp_path)
    rows = table(tmp_path / "clients.csv")
    assert {row["train_size"] for row in rows} == {"15"}  # a quarter of 20 is held out
    for point in ("distillation", "training"):
        name = f"validation_accuracy_after_{point}"
        assert all(float(row[name]) * 5 % 1 == pytest.approx(0, abs=1e-9) for row in rows)
        twins = [float(r[name]) - float(r[f"validation_gain_after_{point}"]) for r in rows]
        assert all(0 <= twin <= 1 for twin in twins)
        last = [float(row[name]) for row in rows if row["round"] == "2"]
        assert summary[name] == pytest.approx(sum(last) / 4)


def test_the_twin_of_a_run_without_a_validation_split_keeps_its_name_in_the_cache() -> None:
    """All that the name depends on says nothing of a validation split; one that is asked for
    changes it."""
    stop = threading.Event()
    plain, held_out = build(scenario(), stop), build(scenario(test=HOLDING_OUT), stop)
    assert set(plain.scenario.test.key()) == {"private_fraction", "private_size", "global_size"}
    assert set(held_out.scenario.test.key()) == {*plain.scenario.test.key(), "validation_fraction"}
    assert baseline_key(plain) != baseline_key(held_out)


def test_figures_of_measured_rounds_do_not_depend_on_how_often_is_measured() -> None:
    """Clients come now and again: in round 3 some were last there, and measured, in round 2."""
    come_and_go = {"rounds": 3, "participation": 0.5, "metrics": ["macro_f1"]}
    often, seldom = records(**come_and_go), records(**come_and_go, evaluate_every=3)
    assert [r.is_measured for r in seldom] == [False, False, True]
    untimed = [{**vars(c), "seconds": 0.0} for c in often[-1].clients]
    assert [{**vars(c), "seconds": 0.0} for c in seldom[-1].clients] == untimed
    assert any(
        c.status == "absent" and c.after_training.personal_macro_f1 for c in seldom[-1].clients
    )
    assert {c.after_training for r in seldom[:2] for c in r.clients} == {PointFigures()}
    assert seldom[1].knowledge_sha256 == often[1].knowledge_sha256


@pytest.mark.slow
def test_a_run_on_private_test_sets_alone_is_reported_whole(tmp_path: Path) -> None:
    asked = {"evaluate_on": ["private"], "evaluate_every": 2, "metrics": ["auroc", "macro_f1"]}
    shown = {"console": False, "plots": True, "html": True}
    summary = run(scenario(**asked, baseline="local_only", report=shown), tmp_path)
    assert summary["global_accuracy_after_training"] is None
    assert 0 < summary["personal_macro_f1_after_training"] < 1
    assert set(summary["local_only"]) == {
        "personal_accuracy_after_training",
        "personal_accuracy_std_after_training",
    }
    rows = table(tmp_path / "clients.csv")
    assert {row["personal_accuracy_after_training"] for row in rows[:4]} == {""}
    assert all(float(row["personal_gain_after_distillation"]) > -1 for row in rows[4:])
    page = (tmp_path / "report.html").read_text()
    assert "accuracy-personal_accuracy" in page
    assert "macro_f1, own / balanced, after distillation" in page
    assert "accuracy-global_accuracy" not in page
