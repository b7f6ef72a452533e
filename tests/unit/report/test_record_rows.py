"""Rows of records: every declared figure reaches its tables, and comes back from them."""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from fedkd.federation.round_records import (
    MEASURES,
    ClientRecord,
    PointFigures,
    RoundRecord,
    client_figures,
)
from fedkd.report.folder import RunFolder, stored_records
from fedkd.report.record_rows import (
    CLIENT_COLUMNS,
    FINAL,
    OF_METRICS,
    PREFIXES,
    ROUND_COLUMNS,
    Baseline,
    client_row,
    client_rows,
    figures_by_others,
    round_row,
    teacher_rows,
)
from fedkd.settings.metric_names import METRIC_NAMES


def client(client_id: int, **figures: object) -> ClientRecord:
    known = {"client_id": client_id, "architecture": "mlp", "status": "ok"}
    return ClientRecord.of_figures({**known, "train_size": 10 + client_id, **figures})


def a_round(*clients: ClientRecord, **rest: object) -> RoundRecord:
    return RoundRecord(round=1, clients=clients, seconds=1.5, **rest)  # type: ignore[arg-type]


def test_means_and_spreads_leave_attackers_out_and_totals_do_not() -> None:
    record = a_round(
        client(0, global_accuracy_after_training=0.2, bytes_up=3, epsilon=1.0),
        client(1, global_accuracy_after_training=0.6, bytes_up=4),
        client(2, global_accuracy_after_training=0.9, bytes_up=5, epsilon=2.0, attacker=True),
    )
    row = round_row(record, None)
    assert row["global_accuracy_after_training"] == pytest.approx(0.4)
    assert row["global_accuracy_std_after_training"] == pytest.approx(0.2)
    assert (row["bytes_up"], row["epsilon"]) == (12, 2.0)
    for name in ("personal_accuracy", "global_gain", "global_negative_transfer"):
        assert row[f"{name}_after_training"] is None
    assert row["global_accuracy_after_distillation"] is None


def test_every_figure_of_a_model_on_test_sets_has_a_column_at_each_point() -> None:
    """None without a point remains, so that nobody can take one for the other."""
    figures = [f.name for f in dataclasses.fields(PointFigures)]
    asked = set(client_row(client(0), 1, METRIC_NAMES))
    for figure in figures:
        assert {f"{figure}_after_distillation", f"{figure}_after_training"} <= asked
    assert set(client_row(client(0), 1)) == set(CLIENT_COLUMNS)
    assert {"personal_auroc_after_training"} & asked
    assert not OF_METRICS & set(CLIENT_COLUMNS)
    assert not {*figures, "global_negative_transfer", "global_accuracy_std"} & ROUND_COLUMNS


def test_gains_are_over_the_baseline_of_the_same_round_and_none_of_an_attacker() -> None:
    record = a_round(
        client(0, global_accuracy_after_training=0.5, global_accuracy_after_distillation=0.0),
        client(1, global_accuracy_after_training=0.5),
        client(2, global_accuracy_after_training=0.5, attacker=True),
    )
    alone = np.array([[0.25, 0.75, 0.25], [0.0, 0.0, 0.0]])
    baseline = Baseline(personal_accuracy=alone, global_accuracy=alone)
    gains = [row["global_gain_after_training"] for row in client_rows(record, baseline)]
    assert gains == [0.25, -0.25, None]
    row = round_row(record, baseline)
    found = (row["global_gain_after_training"], row["global_negative_transfer_after_training"])
    assert found == (0.0, 0.5)
    assert row["global_gain_after_distillation"] == -0.25  # over the same model of the baseline


def test_a_record_comes_back_from_the_tables_as_it_was(tmp_path: Path) -> None:
    values = {int: 3, float: 0.1 + 0.2, str: 'why, "so"', bool: True}
    full = {}
    for measure in MEASURES:
        sample = next((measure.parse(str(v)) for v in (3, 0.125) if measure.parse is not str), "x")
        full[measure.name] = sample
    full |= {
        "personal_accuracy_after_training": values[float],
        "personal_accuracy_after_distillation": 0.0,
        "reason": values[str],
        "status": "failed",
        "attacker": True,
        "teacher_by_class": (0.1 + 0.2, 1.0),
    }
    record = a_round(
        dataclasses.replace(ClientRecord.of_figures(full), client_id=0),
        client(1, teacher_by_class=(0.5, math.nan)),
        metrics={"server_accuracy": 0.25, "round": 5},
        own={"f1": 0.5},
        knowledge_sha256="abc",
        asked=("macro_f1", "auroc", "balanced_accuracy", "top5_accuracy"),
    )
    folder = RunFolder.create(tmp_path / "run", "")
    teachers = teacher_rows(record, ("cat", "dog"))
    folder.add_round(round_row(record, None), client_rows(record, None), None, teachers)
    folder.finish({})
    (found,) = stored_records(tmp_path / "run", 1)
    assert found.clients[0] == record.clients[0]
    assert math.isnan(found.clients[1].teacher_by_class[1])  # type: ignore[index]
    assert (found.metrics, found.own) == (record.metrics, record.own)
    assert (found.round, found.knowledge_sha256) == (1, "abc")
    assert set(found.asked) == set(record.asked)


def test_only_a_run_that_asks_for_metrics_has_their_columns(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "")
    record = a_round(client(0, global_auroc_after_training=0.25))
    folder.add_round(round_row(record, None), client_rows(record, None), None)
    folder.finish({})
    assert stored_records(tmp_path / "run", 1)[0].asked == ()
    with (tmp_path / "run" / "clients.csv").open(newline="") as file:
        assert tuple(next(csv.reader(file))) == CLIENT_COLUMNS
    assert not OF_METRICS & set(round_row(record, None))
    asked = round_row(dataclasses.replace(record, asked=("auroc",)), None)
    assert asked["global_auroc_after_training"] == 0.25
    assert "global_macro_f1_after_training" not in asked


def test_figures_that_others_name_overwrite_none_of_fedkds() -> None:
    record = a_round(client(0, global_accuracy_after_training=0.25))
    row = round_row(record, None)
    theirs = dict.fromkeys(row, 2.0)
    for part, prefix in PREFIXES.items():
        found = round_row(dataclasses.replace(record, **{part: theirs}), None)
        assert {name: found[name] for name in row} == row
        assert {name for name in found if name not in row} == {f"{prefix}{name}" for name in row}
        assert figures_by_others(found) == {**figures_by_others(row), part: theirs}
    assert not any("/" in name for name in ROUND_COLUMNS)


def test_a_round_begins_with_what_lasts_and_nothing_else() -> None:
    before = client(
        0,
        global_accuracy_after_training=0.5,
        epsilon=1.0,
        train_loss=2.0,
        bytes_up=7,
        reason="slow",
    )
    after = before.at_round_start(self_weight=1.0)
    assert (after.status, after.reason, after.bytes_up, after.train_loss) == ("absent", "", 0, None)
    found = after.after_training.global_accuracy
    assert (found, after.epsilon, after.train_size) == (0.5, 1.0, 10)
    assert after.self_weight == 1.0


def test_only_what_a_client_measures_is_taken_from_its_upload() -> None:
    name = "global_accuracy_after_training"
    metrics = {name: 0.5, "global_gain_after_training": 1.0, "epsilon": 0.0, "seconds": 3.0}
    assert client_figures(metrics) == {name: 0.5}


def test_every_figure_of_the_summary_is_a_column_of_the_round() -> None:
    assert set(FINAL) <= ROUND_COLUMNS
    assert {"personal_gain_after_training", "label_leakage"} <= set(FINAL)
    assert "global_negative_transfer_after_distillation" in FINAL
    assert "train_loss" not in FINAL
