"""Rows of records: every declared figure reaches its tables, and comes back from them."""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from fedkd.federation.round_records import MEASURES, ClientRecord, RoundRecord, client_figures
from fedkd.report.folder import RunFolder, stored_records
from fedkd.report.record_rows import (
    CLIENT_COLUMNS,
    FINAL,
    ROUND_COLUMNS,
    Baseline,
    client_rows,
    round_row,
    teacher_rows,
)


def client(client_id: int, **figures: object) -> ClientRecord:
    return ClientRecord(
        client_id=client_id,
        architecture="mlp",
        status="ok",
        train_size=10 + client_id,
        **figures,  # type: ignore[arg-type]
    )


def a_round(*clients: ClientRecord, **rest: object) -> RoundRecord:
    return RoundRecord(round=1, clients=clients, seconds=1.5, **rest)  # type: ignore[arg-type]


def test_means_and_spreads_leave_attackers_out_and_totals_do_not() -> None:
    record = a_round(
        client(0, global_accuracy=0.2, bytes_up=3, epsilon=1.0),
        client(1, global_accuracy=0.6, bytes_up=4),
        client(2, global_accuracy=0.9, bytes_up=5, epsilon=2.0, attacker=True),
    )
    row = round_row(record, None)
    assert row["global_accuracy"] == pytest.approx(0.4)
    assert row["global_accuracy_std"] == pytest.approx(0.2)
    assert (row["bytes_up"], row["epsilon"]) == (12, 2.0)
    assert row["personal_accuracy"] is row["global_gain"] is row["global_negative_transfer"] is None


def test_gains_are_over_the_baseline_of_the_same_round_and_none_of_an_attacker() -> None:
    record = a_round(
        client(0, global_accuracy=0.5),
        client(1, global_accuracy=0.5),
        client(2, global_accuracy=0.5, attacker=True),
    )
    alone = np.array([[0.25, 0.75, 0.25], [0.0, 0.0, 0.0]])
    baseline = Baseline(personal_accuracy=alone, global_accuracy=alone)
    assert [row["global_gain"] for row in client_rows(record, baseline)] == [0.25, -0.25, None]
    row = round_row(record, baseline)
    assert (row["global_gain"], row["global_negative_transfer"]) == (0.0, 0.5)


def test_a_record_comes_back_from_the_tables_as_it_was(tmp_path: Path) -> None:
    values = {int: 3, float: 0.1 + 0.2, str: 'why, "so"', bool: True}
    full = {}
    for measure in MEASURES:
        sample = next((measure.parse(str(v)) for v in (3, 0.125) if measure.parse is not str), "x")
        full[measure.name] = sample
    full |= {
        "personal_accuracy": values[float],
        "reason": values[str],
        "status": "failed",
        "attacker": True,
        "teacher_by_class": (0.1 + 0.2, 1.0),
    }
    record = a_round(
        dataclasses.replace(ClientRecord(**full), client_id=0),
        client(1, teacher_by_class=(0.5, math.nan)),
        metrics={"server_accuracy": 0.25},
        knowledge_sha256="abc",
    )
    folder = RunFolder.create(tmp_path / "run", "")
    teachers = teacher_rows(record, ("cat", "dog"))
    folder.add_round(round_row(record, None), client_rows(record, None), None, teachers)
    folder.finish({})
    (found,) = stored_records(tmp_path / "run", 1)
    assert found.clients[0] == record.clients[0]
    assert math.isnan(found.clients[1].teacher_by_class[1])  # type: ignore[index]
    assert (found.metrics, found.knowledge_sha256) == (record.metrics, "abc")
    with (tmp_path / "run" / "clients.csv").open(newline="") as file:
        assert tuple(next(csv.reader(file))) == CLIENT_COLUMNS


def test_a_round_begins_with_what_lasts_and_nothing_else() -> None:
    before = client(0, global_accuracy=0.5, epsilon=1.0, train_loss=2.0, bytes_up=7, reason="slow")
    after = before.at_round_start(self_weight=1.0)
    assert (after.status, after.reason, after.bytes_up, after.train_loss) == ("absent", "", 0, None)
    assert (after.global_accuracy, after.epsilon, after.train_size) == (0.5, 1.0, 10)
    assert after.self_weight == 1.0


def test_only_what_a_client_measures_is_taken_from_its_upload() -> None:
    metrics = {"global_accuracy": 0.5, "epsilon": 0.0, "status": "ok", "seconds": 3.0}
    assert client_figures(metrics) == {"global_accuracy": 0.5}


def test_every_figure_of_the_summary_is_a_column_of_the_round() -> None:
    assert set(FINAL) <= ROUND_COLUMNS
    assert {"personal_gain", "global_negative_transfer", "label_leakage"} <= set(FINAL)
    assert "train_loss" not in FINAL
