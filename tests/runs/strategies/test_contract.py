"""What every strategy promises as part of a run, with any kind of knowledge.

Strategies are found by their file's name; what a strategy needs is taken from its own declaration.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from every_strategy import NAMES, declared, one_of_each_kind, settings_for
from finished import finished_records
from tiny import records, scenario

from fedkd.errors import SettingError
from fedkd.experiment.resume import resume
from fedkd.experiment.run import run
from fedkd.storage.checkpoint import CheckpointFolder

every_name = pytest.mark.parametrize("name", NAMES)
FAST = one_of_each_kind()
every_kind = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FAST else [pytest.mark.slow]) for n in NAMES]
)
"""A strategy of each kind of knowledge in the fast tests, all others in the slow ones."""


@every_kind
def test_a_run_repeats_to_the_bit_at_any_number_of_workers(name: str):
    one = finished_records(**settings_for(name))
    other = records(**settings_for(name), engine={"name": "local", "workers": 2})
    for record, again in zip(one, other, strict=True):
        assert record.knowledge_sha256 == again.knowledge_sha256
        for one_client, other_client in zip(record.clients, again.clients, strict=True):
            assert one_client.after_distillation == other_client.after_distillation
            assert one_client.after_training == other_client.after_training
        assert [(c.status, c.reason) for c in record.clients] == [("ok", "")] * 4
        assert all(c.bytes_up == again.clients[c.client_id].bytes_up for c in record.clients)
        assert all(c.after_training.global_accuracy is not None for c in record.clients)
    if declared(name).kind is not None:
        assert one[-1].knowledge_sha256 is not None
        assert sum(c.bytes_up for record in one for c in record.clients) > 0


@pytest.mark.fast(2)
@every_kind
def test_a_resumed_run_has_the_figures_of_the_uninterrupted_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    absent = {} if declared(name).needs.pooled_data else {"participation": 0.75}
    changes = {"models": ["mlp"], **settings_for(name), **absent, "rounds": 3}
    run(scenario(**changes), tmp_path / "whole")
    save = CheckpointFolder.save

    def failing(self: CheckpointFolder, round_number: int, *rest: Any, **named: Any) -> None:
        if round_number == 3:
            raise KeyboardInterrupt
        save(self, round_number, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFolder, "save", failing)
        with pytest.raises(KeyboardInterrupt):
            run(scenario(**changes), tmp_path / "parts")
    resume(scenario(**changes), tmp_path / "parts")
    whole, parts = (
        [json.loads(line) for line in (tmp_path / folder / "rounds.jsonl").read_text().splitlines()]
        for folder in ("whole", "parts")
    )
    assert [{**row, "seconds": 0} for row in parts] == [{**row, "seconds": 0} for row in whole]


@pytest.mark.fast(12)
@every_name
def test_what_a_strategy_needs_is_refused_before_the_run_where_it_is_missing(name: str):
    needs, given = declared(name).needs, settings_for(name)
    if "models" in given and needs.companion is None:
        with pytest.raises(SettingError, match=f"strategy={name} .* needs"):
            records(**{**given, "models": ["mlp", "cnn"]})
    if needs.public_labels:
        with pytest.raises(SettingError, match="needs the labels of the public set"):
            records(strategy=name)
    if needs.public_set:
        with pytest.raises(SettingError, match="needs a public set"):
            records(**{**given, "public": {"size": 0, **given.get("public", {})}})
    else:
        records(**{**given, "rounds": 2, "public": {"size": 0}})


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("fedproto", "say strategy.width=N to project them, or use one"),
        ("fedgen", "mlp 128, cnn 84; use one"),
    ],
)
def test_a_width_is_advised_where_it_is_one_of_features(name: str, cure: str):
    with pytest.raises(SettingError, match=cure):
        records(strategy=name, models=["mlp", "cnn"])
