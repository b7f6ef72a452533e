"""A run that was ended at any moment goes on from its last good checkpoint to the figures of the
uninterrupted one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import finished_run
from tiny import TINY, scenario

from fedkd.errors import RunError, SettingError
from fedkd.experiment import run as run_module
from fedkd.experiment import summary as summary_module
from fedkd.experiment.build import build
from fedkd.experiment.resume import resume, run_again
from fedkd.experiment.run import run
from fedkd.experiment.summary import versions
from fedkd.report.comparison.run_reader import status
from fedkd.report.folder import RunFolder
from fedkd.scenario.scenario import Scenario

VOLATILE = ("seconds", "resources", "folder", "versions", "engine")


class Ended(Exception):
    """Stands for whatever ends a run between two rounds."""


def figures(folder: Path) -> dict[str, Any]:
    """Return all that a run wrote, without what time has a part in."""
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    clients = [line.split(",") for line in (folder / "clients.csv").read_text().splitlines()]
    column = clients[0].index("seconds")
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "rounds": [{k: v for k, v in row.items() if k not in VOLATILE} for row in rounds],
        "clients": [row[:column] + row[column + 1 :] for row in clients],
        "summary": {k: v for k, v in summary.items() if k not in VOLATILE},
        "weights": (folder / "weights.npy").read_bytes(),
        "teachers": (folder / "teacher_by_class.csv").read_text()
        if summary["strategy"]["name"] != "local_only"
        else "",
    }


def ended_after(
    round_number: int, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> None:
    """Run a scenario that ends in the middle of round ``number + 1``."""
    add_round = RunFolder.add_round

    def failing(self: RunFolder, row: Any, *rest: Any) -> None:
        add_round(self, row, *rest)
        if row["round"] == round_number + 1:  # its files are written, its checkpoint is not
            raise Ended

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "add_round", failing)
        with pytest.raises(Ended):
            run(scenario(**changes), folder)


NOISY = {
    "strategy": "fedmd",
    "models": ["mlp"],
    "privacy": {"name": "gaussian", "sigma": 5.0, "clip_norm": 1.0},
}


def test_what_was_written_after_the_checkpoint_is_gone_before_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a checkpoint after round 2 the run is ended in round 4, and a file in the middle of
    being written."""
    changes = {**NOISY, "rounds": 5, "checkpoint": {"every": 2}, "audit": "store"}
    folder = tmp_path / "run"
    ended_after(3, folder, monkeypatch, **changes)
    assert len(np.load(folder / "weights.npy")) == 4
    for half in (
        "view/.upload_00004_00001.npz.7.7.partial",
        "states/000001/.000004.state.7.7.partial",
    ):
        (folder / half).write_bytes(b"half a message")

    def ended(*_: Any, **__: Any) -> None:
        raise Ended

    monkeypatch.setattr(run_module, "execute", ended)
    with pytest.raises(Ended):
        resume(scenario(**changes), folder)
    assert len(np.load(folder / "weights.npy")) == 2
    assert (folder / "weights.npy").stat().st_size == 128 + 2 * 4 * 4 * 4
    assert len((folder / "rounds.jsonl").read_text().splitlines()) == 2
    assert len((folder / "clients.csv").read_text().splitlines()) == 1 + 2 * 4
    entries = json.loads((folder / "view" / "index.json").read_text())["entries"]
    assert {entry["round"] for entry in entries} == {0, 1, 2}
    assert {path.name for path in (folder / "view").iterdir()} == {
        entry["file"] for entry in entries
    } | {"index.json"}
    assert {path.name for path in (folder / "states").rglob("*.*")} <= {
        "000001.state",
        "000002.state",
    }


AGAIN = (
    "rounds 3 to 5 are run again:"
    " what the interrupted attempt sent there is no part of what the run claims"
)


@pytest.mark.slow
@pytest.mark.fast(1)
@pytest.mark.parametrize(
    ("changes", "also"),
    [
        ({}, ""),
        ({"deadline": 60.0}, "; the replay may differ (deadline=60) with the same noise,"),
        ({"torch": "1.0"}, "; the replay may differ (another torch) with the same noise,"),
        (
            {"torch": "1.0", "deadline": 60.0},
            "; the replay may differ (deadline=60, another torch) with",
        ),
        ({"privacy": "none"}, None),
        ({"privacy": "swing"}, None),
    ],
    ids=str,
)
def test_a_run_that_claims_something_says_which_rounds_are_run_again_and_what_must_not_be_shown(
    changes: dict[str, Any],
    also: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run has finished four rounds, and may have begun the fifth, when it goes back to the
    second."""
    changes = {**NOISY, "rounds": 6, "checkpoint": {"every": 2}, **changes}
    other = changes.pop("torch", None)
    ended_after(3, tmp_path / "run", monkeypatch, **changes)
    capsys.readouterr()
    if other is not None:
        monkeypatch.setattr(summary_module, "versions", lambda: {**versions(), "torch": other})
    resume(scenario(**changes), tmp_path / "run")
    said = " ".join(capsys.readouterr().out.split())
    assert (f"Warning: {AGAIN}{also}" in said) if also is not None else ("run again" not in said)
    assert ("shown together" in said) == bool(also)
    resume(scenario(**changes), tmp_path / "run")
    assert "run again" not in capsys.readouterr().out


def test_a_run_says_that_it_is_running_until_it_ends_and_so_does_one_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_round, seen = RunFolder.add_round, []

    def looking(self: RunFolder, *rest: Any) -> None:
        seen.append(status(self.path))
        add_round(self, *rest)

    monkeypatch.setattr(RunFolder, "add_round", looking)
    ended_after(1, tmp_path / "run", monkeypatch, rounds=3)
    assert status(tmp_path / "run") == "failed"
    resume(scenario(rounds=3), tmp_path / "run")
    assert seen == ["running"] * 4
    assert status(tmp_path / "run") == "completed"


def test_a_run_whose_users_modules_were_edited_says_so_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    rule, model = tmp_path / "edited_rule.py", tmp_path / "edited_model.py"
    rule.write_text("from toys import Mean\n\nclass Rule(Mean):\n    pass\n")
    model.write_text(
        "from toys import linear, nn\n\n\n"
        "def net(shape, classes) -> nn.Module:\n    return linear(shape, classes)\n"
    )
    changes = {"strategy": "edited_rule:Rule", "models": ["edited_model:net"], "rounds": 3}
    ended_after(1, tmp_path / "run", monkeypatch, **changes)
    shutil.copytree(tmp_path / "run", tmp_path / "same")
    resume(scenario(**changes), tmp_path / "same")
    assert "has changed" not in capsys.readouterr().out
    for module in (rule, model):
        module.write_text(module.read_text() + "# edited\n")
    resume(scenario(**changes), tmp_path / "run")
    said = " ".join(capsys.readouterr().out.split())
    for name in ("edited_rule:Rule", "edited_model:net"):
        assert (
            f"Warning: the code of {name} has changed: from round 2 on this is another experiment"
            in said
        )


def test_engines_and_devices_whose_replay_may_differ_are_named(tmp_path: Path) -> None:
    experiment = build(scenario(**NOISY), threading.Event())
    assert run_again(experiment, after=2, recorded=2) is None
    said = run_again(experiment, after=1, recorded=1)
    assert said is not None
    assert said.startswith("round 2 is run again")
    assert "may differ" not in said
    on_gpu = replace(experiment, plan=replace(experiment.plan, device="NVIDIA H100"))
    assert "(device NVIDIA H100)" in (run_again(on_gpu, after=1, recorded=1) or "")
    on_ray = replace(experiment, scenario=scenario(**NOISY, engine="ray"))
    assert "(engine=ray)" in (run_again(on_ray, after=1, recorded=1) or "")


KEEPING = {"train": {"epochs": 1, "batch_size": 8, "optimizer_state": "kept"}}
FIRST = {"strategy": {"name": "knfu", "epd_timing": "first_round"}}


@pytest.mark.fast(1)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"round_order": "distill_first", **FIRST},
        {"round_order": "distill_first", "strategy": "fedmd", "participation": 0.5},
        {"client_store": "disk", "participation": 0.5, "dropout": 0.3, "min_clients": 0},
        KEEPING,
        {"distill": {"optimizer": "sgd", "momentum": 0.9, "optimizer_state": "kept"}, **FIRST},
        {"models": ["toys:with_batch_norm", "toys:dropping"]},
        {"strategy": "local_only"},
        {"checkpoint": {"every": 2}},
    ],
    ids=str,
)
def test_a_resumed_run_has_the_figures_of_the_uninterrupted_one(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finished_run(rounds=4, **changes)
    ended_after(2, tmp_path / "parts", monkeypatch, rounds=4, **changes)
    resume(scenario(rounds=4, **changes), tmp_path / "parts")
    assert figures(tmp_path / "parts") == figures(whole)


@pytest.mark.slow
def test_a_table_that_began_after_the_checkpoint_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With distill_first the first teacher is distilled, and judged, in the second round."""
    whole = finished_run(rounds=3, round_order="distill_first")
    ended_after(1, tmp_path / "parts", monkeypatch, rounds=3, round_order="distill_first")
    assert (tmp_path / "parts" / "teacher_by_class.csv").exists()
    resume(scenario(rounds=3, round_order="distill_first"), tmp_path / "parts")
    assert figures(tmp_path / "parts") == figures(whole)


@pytest.mark.slow
def test_kept_moments_matter_to_the_figures(tmp_path: Path) -> None:
    run(scenario(**KEEPING), tmp_path / "kept")
    assert figures(tmp_path / "kept")["rounds"][-1] != figures(finished_run())["rounds"][-1]


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path: Path) -> None:
    run(scenario(), tmp_path / "run")
    before = figures(tmp_path / "run")
    resume(scenario(), tmp_path / "run")
    assert figures(tmp_path / "run") == before


@pytest.mark.fast(1)
@pytest.mark.parametrize("how", ["flip", "cut", "delete a state", "flip a state"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {"report": {"console": True, "plots": False}}
    whole = finished_run(rounds=4)
    ended_after(3, tmp_path / "parts", monkeypatch, rounds=4)
    newest = {
        "flip": "checkpoints/000003.checkpoint",
        "cut": "checkpoints/000003.checkpoint",
        "delete a state": "states/000001/000003.state",
        "flip a state": "states/000001/000003.state",
    }[how]
    path = tmp_path / "parts" / newest
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if how == "delete a state":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if how == "cut" else content)
    resume(scenario(rounds=4, **shown), tmp_path / "parts")
    said = " ".join(capsys.readouterr().out.split())
    assert path.name in said.replace(" ", "")
    assert "resumed after round 2 of 4" in said
    assert figures(tmp_path / "parts") == figures(whole)


def test_a_run_without_a_good_checkpoint_cannot_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_after(2, tmp_path / "run", monkeypatch, rounds=4)
    for path in (tmp_path / "run" / "checkpoints").glob("*"):
        path.write_bytes(b"nothing")
    with pytest.raises(
        RunError, match=r"no checkpoint to go on from: .*000002.checkpoint is damaged"
    ):
        resume(scenario(rounds=4), tmp_path / "run")


def test_no_checkpoints_are_kept_where_none_are_wanted(tmp_path: Path) -> None:
    run(scenario(checkpoint={"every": 0}), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "states").exists()
    with pytest.raises(SettingError, match=r"checkpoint\.every=0"):
        resume(scenario(checkpoint={"every": 0}), tmp_path / "run")


@pytest.mark.slow
def test_a_finished_run_keeps_its_last_checkpoint_and_nothing_older(tmp_path: Path) -> None:
    run(scenario(rounds=5), tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "checkpoints").glob("*")] == ["000005.checkpoint"]
    assert {p.name for p in (tmp_path / "run" / "states").glob("*/*")} == {"000005.state"}


def test_a_run_goes_on_only_with_its_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_after(1, tmp_path / "run", monkeypatch, rounds=3)
    with pytest.raises(SettingError, match=r"seed was 0, is 1"):
        resume(scenario(rounds=3, seed=1), tmp_path / "run")
    resume(
        scenario(
            rounds=3, client_store="disk", device="cpu", engine={"name": "local", "workers": 2}
        ),
        tmp_path / "run",
    )


def test_two_processes_do_not_run_the_same_run(tmp_path: Path) -> None:
    from fedkd.report.folder import claimed

    run(scenario(), tmp_path / "run")
    with (
        claimed(tmp_path / "run"),
        pytest.raises(SettingError, match="another process is running this run"),
    ):
        resume(scenario(), tmp_path / "run")


def test_strategy_state_that_no_checkpoint_can_hold_is_refused_with_its_place(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        RunError, match=r"server\['strategy'\]\['models'\]\[0\] holds a value of type Linear"
    ):
        run(scenario(strategy="toys:Hoarding"), tmp_path / "run")
    run(scenario(strategy="toys:Hoarding", checkpoint={"every": 0}), tmp_path / "other")


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    """The process is killed after its third round, and again while resuming, wherever it is."""
    plain = {**TINY, "rounds": 12, "strategy": {"name": "knfu", "epd_timing": "first_round"}}
    plain["train"] = {**TINY["train"], "optimizer_state": "kept", "epochs": 8}
    config = tmp_path / "scenario.yaml"
    config.write_text(json.dumps(plain))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    begin = [sys.executable, "-m", "fedkd.simulate", "--config", str(config)]
    run(Scenario.parse(plain), whole)
    go_on = [sys.executable, "-m", "fedkd.simulate", f"resume={parts}"]
    killed_after([*begin, f"run_dir={parts}"], parts, rounds=3, delay=0.0)
    killed_after(go_on, parts, rounds=6, delay=0.19)
    assert status(parts) == "running"
    resume(Scenario.parse(plain), parts)
    assert figures(parts) == figures(whole)
    shutil.rmtree(parts)


def killed_after(command: list[str], folder: Path, rounds: int, delay: float) -> None:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while not finished(folder) >= rounds:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(delay)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def finished(folder: Path) -> int:
    path = folder / "rounds.jsonl"
    return path.read_text().count("\n") if path.exists() else 0
