"""Who is not there: participation, dropouts, deadlines, too few clients; and a disk that takes no
more."""

import csv
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from finished import finished_records
from tiny import TINY, records, scenario

from fedkd.errors import RunError, SettingError, StorageError
from fedkd.experiment.resume import resume
from fedkd.experiment.run import run
from fedkd.federation.protocol import Protocol
from fedkd.federation.round_records import PointFigures
from fedkd.storage import atomic_files
from fedkd.strategies.fedmd import FedMD


def test_a_client_that_drops_out_is_absent_says_so_and_keeps_its_model() -> None:
    run = records(
        rounds=6,
        dropout=0.5,
        min_clients=0,
        clients=6,
        strategy="fedmd",
        round_order="distill_first",
    )
    gone = [(r.round, c) for r in run for c in r.clients if c.status == "absent"]
    assert 8 <= len(gone) <= 28  # of 36, with probability 1/2: 18 +- 10
    assert {client.reason for _, client in gone} == {"dropped out"}
    seen: dict[int, tuple[PointFigures, PointFigures]] = {}
    for record in run:
        for client in record.clients:
            figures = (client.after_distillation, client.after_training)
            if client.status == "absent":
                assert figures == seen.get(client.client_id, (PointFigures(), PointFigures()))
                assert client.bytes_down == client.bytes_up == 0
                assert client.distill_loss is None
            seen[client.client_id] = figures


@pytest.mark.slow
def test_dropouts_repeat_and_do_not_depend_on_who_is_asked() -> None:
    def absent(**changes: Any) -> list[set[int]]:
        run = records(
            rounds=5, dropout=0.4, min_clients=0, clients=6, strategy="local_only", **changes
        )
        return [{c.client_id for c in r.clients if c.reason == "dropped out"} for r in run]

    assert absent() == absent(engine={"name": "local", "workers": 2})
    for everyone, some in zip(absent(), absent(participation=0.5), strict=True):
        assert some <= everyone


def test_nobody_drops_out_unless_asked_to() -> None:
    assert {c.status for r in finished_records() for c in r.clients} == {"ok"}


@pytest.mark.parametrize(
    "setting", [{"dropout": 1.0}, {"dropout": -0.1}, {"deadline": 0.0}, {"min_clients": -1}]
)
def test_settings_that_make_no_sense_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        Protocol(**setting)


@pytest.mark.alone
@pytest.mark.slow
def test_a_straggler_misses_the_deadline_keeps_its_model_and_is_back_when_it_is_fast(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trigger = tmp_path / "trigger"
    monkeypatch.setenv("FEDKD_TEST_TRIGGER", str(trigger))
    from fedkd.report.folder import RunFolder

    add_round = RunFolder.add_round

    def pulling(self: RunFolder, row: Any, *rest: Any) -> None:
        add_round(self, row, *rest)
        if row["round"] == 1:
            trigger.write_text("slow")

    monkeypatch.setattr(RunFolder, "add_round", pulling)
    run(scenario(models=["mlp*3", "toys:fragile*1"], rounds=3, deadline=3.0), tmp_path / "run")
    with (tmp_path / "run" / "clients.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["client"] == "3"]
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert rows[1]["reason"] == "missed the deadline of 3 s"
    for point in ("distillation", "training"):
        name = f"global_accuracy_after_{point}"
        assert rows[1][name] == rows[0][name] != ""
    assert rows[1]["distill_loss"] == ""


def test_with_fewer_clients_than_it_must_have_a_run_ends_and_says_why() -> None:
    with pytest.raises(
        RunError, match=r"round 1: 2 of 4 clients answered, min_clients=3; client 1 failed"
    ):
        records(models=["mlp", "toys:raising"], min_clients=3)
    with pytest.raises(RunError, match=r"clients answered, min_clients=4; \d dropped out"):
        records(dropout=0.5, min_clients=4, rounds=20)


@pytest.mark.parametrize(
    ("what", "workers", "said"),
    [
        ("exit", 1, "SystemExit: 3"),
        ("interrupt", 1, "KeyboardInterrupt"),
        ("generator exit", 2, "GeneratorExit"),
        ("of its own", 1, "OfItsOwn: neither"),
    ],
)
def test_a_client_that_raises_what_is_no_exception_fails_like_any_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str, workers: int, said: str
) -> None:
    trigger = tmp_path / "trigger"
    trigger.write_text(what)
    monkeypatch.setattr("fedkd.models.factory.probe", _without(trigger, monkeypatch))
    engine = {"name": "local", "workers": workers}
    run = records(models=["mlp*3", "toys:fragile*1"], engine=engine)
    assert [c.status for c in run[0].clients] == ["ok", "ok", "ok", "failed"]
    assert run[0].clients[3].reason.startswith(said)
    assert [c.status for c in run[1].clients] == ["ok"] * 4


def _without(trigger: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return ``probe`` as it is without the trigger, which is set once all models have been
    tried."""
    from fedkd.models.factory import probe

    def trying(architecture: Any, **settings: Any) -> Any:
        monkeypatch.delenv("FEDKD_TEST_TRIGGER", raising=False)
        traits = probe(architecture, **settings)
        monkeypatch.setenv("FEDKD_TEST_TRIGGER", str(trigger))
        return traits

    return trying


# The server stores no upload that it does not need.


def test_a_stream_keeps_no_upload() -> None:
    """The mean of 64 uploads of 2 MB needs the memory of a few of them."""
    import gc
    import weakref

    stream, alive, peak = FedMD().accumulator(None), [], 0
    for i in range(64):
        values = torch.randn(5000, 100)
        alive.append(weakref.ref(values))
        stream.add(i, values)
        del values
        gc.collect(0)
        peak = max(peak, sum(ref() is not None for ref in alive))
    assert peak == 0
    assert stream.fuse().teachers.shape == (5000, 100)


# A disk that takes no more.


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_a_clear_error_and_earlier_rounds_whole(
    tmp_path: Path,
) -> None:
    """No file may grow beyond 6,000 bytes: the operating system refuses the write as it does on a
    full disk."""
    run(scenario(), tmp_path / "before")  # the data are in the cache
    config = tmp_path / "scenario.yaml"
    config.write_text(json.dumps({**TINY, "rounds": 100, "checkpoint": {"every": 0}}))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "fedkd.simulate",
            "--config",
            str(config),
            f"run_dir={tmp_path / 'run'}",
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)),
    )
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "can no longer be written (File too large)" in line
    rows = [
        json.loads(text) for text in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()
    ]
    assert len(rows) >= 2
    with (tmp_path / "run" / "clients.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4 * len(rows)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


@pytest.mark.slow
@pytest.mark.fast(1)
def test_a_checkpoint_that_cannot_be_written_leaves_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if Path(target).name == "000003.checkpoint":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    run(scenario(rounds=4), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(atomic_files.Path, "replace", full)
        with pytest.raises(
            StorageError, match=r"000003\.checkpoint cannot be written: No space left on device"
        ):
            run(scenario(rounds=4), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert resume(scenario(rounds=4), tmp_path / "run")["rounds"] == 4
    whole = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert (
        json.loads((tmp_path / "run" / "summary.json").read_text())["knowledge_sha256"]
        == whole["knowledge_sha256"]
    )


def test_states_that_cannot_be_written_end_the_run_and_blame_no_client(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "states").write_text("in the way")
    for workers in (1, 2):
        with pytest.raises(StorageError, match=r"states/00000\d cannot be made"):
            run(scenario(engine={"name": "local", "workers": workers}), tmp_path / "run")
        for written in (tmp_path / "run").iterdir():
            if written.name != "states":
                written.unlink()
