"""Whole runs on texts with classes: learned, fused, resumed, exported."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny_labels import TINY_LABELS

from fedkd.experiment.build import build
from fedkd.experiment.export_model import export
from fedkd.experiment.resume import resume
from fedkd.experiment.run import execute, run
from fedkd.federation.round_records import RoundRecord
from fedkd.report.folder import RunFolder
from fedkd.scenario.scenario import Scenario

VOLATILE = ("seconds", "resources", "folder", "versions", "engine")


class Ended(Exception):
    pass


def scenario(**changes: Any) -> Scenario:
    return Scenario.parse({**TINY_LABELS, **changes})


def records(**changes: Any) -> list[RoundRecord]:
    found: list[RoundRecord] = []
    execute(build(scenario(**changes), threading.Event()), found.append, threading.Event())
    return found


def rounds(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in VOLATILE} for row in rows]


def test_clients_of_two_networks_learn_the_words_that_say_the_class() -> None:
    place = {"name": "natural_id", "column": "place"}
    (record,) = records(partition=place, clients=4)
    accuracies = [client.after_training.global_accuracy for client in record.clients]
    assert sum(accuracies) / len(accuracies) > 0.75


@pytest.mark.slow
def test_a_run_on_labeled_texts_goes_on_and_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(scenario(rounds=2), tmp_path / "whole")
    add_round = RunFolder.add_round

    def failing(self: RunFolder, row: Any, *rest: Any) -> None:
        add_round(self, row, *rest)
        if row["round"] == 2:
            raise Ended

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "add_round", failing)
        with pytest.raises(Ended):
            run(scenario(rounds=2), tmp_path / "parts")
    resume(scenario(rounds=2), tmp_path / "parts")
    assert rounds(tmp_path / "parts") == rounds(tmp_path / "whole")
    folder = export(tmp_path / "whole", 0, tmp_path / "export", trust=True)
    tokens = json.loads((folder / "about.json").read_text())["preprocessing"]["texts"]["bag"]
    assert bytes.fromhex(tokens["tokens"][0]).decode() == "the"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedmd", "dsfl", "fd", "fedproto", "fedavg"])
def test_other_strategies_run_on_labeled_texts(strategy: str) -> None:
    last = records(strategy=strategy, models=["bag"], rounds=2)[-1]
    assert all(client.after_training.global_accuracy > 0.6 for client in last.clients)
