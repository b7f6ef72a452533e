"""Sinks: what they refuse before a run, what they are told, and that none of them ends a run."""

import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from fedkd.errors import RunError, SettingError
from fedkd.report import sinks
from fedkd.report.report_settings import Report
from fedkd.report.sinks import Ending, SinkRound, SinkRun, wandb_run
from fedkd.report.sinks.sink import sectioned

WANDB = Report(html=False, wandb="offline")
ACCURACY = "global_accuracy_after_training"


def a_run(folder: Path, rounds_before: int = 0) -> SinkRun:
    return SinkRun(
        name="knfu beta=3 seed=1",
        scenario="digits",
        strategy="knfu",
        description="what it is for",
        settings={"privacy": {"epsilon": float("inf")}},
        folder=folder,
        rounds_before=rounds_before,
    )


def a_round(number: int, accuracy: float) -> SinkRound:
    row = {"round": number, ACCURACY: accuracy, "rejected": [], "strategy/asked": 3.0}
    return SinkRound(row=row, alone={ACCURACY: accuracy / 2})


def an_ending(rounds: Sequence[SinkRound] = (), pictures: Sequence[Path] = ()) -> Ending:
    return Ending(
        summary={"status": "completed", "privacy": {}},
        rounds=rounds,
        clients=[{"a": 1}],
        spent=[],
        pictures=pictures,
    )


@pytest.mark.fast(1)
@pytest.mark.parametrize(
    ("options", "mode", "said"),
    [
        ({"tags": ("x" * 65,)}, None, "run_tags: .*between 1 and 64 characters"),
        ({"tags": ("",)}, None, "run_tags: .*empty"),
        ({"project": "a/b"}, None, "Invalid project name"),
        ({"project": "x" * 200}, None, "Invalid project name"),
        ({"project": ""}, None, "report.project must not be empty"),
        ({}, "junk", "mode: .*'online', 'offline'"),
    ],
)
def test_what_wandb_would_refuse_is_refused_before_the_run(
    options: dict[str, Any], mode: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(SettingError, match=said) as error:
        sinks.check(Report(wandb="offline", **options))
    assert "\n" not in str(error.value)
    sinks.check(Report(wandb="disabled", **options))


@pytest.mark.parametrize(
    ("package", "options", "extra"),
    [
        ("wandb", {"wandb": "offline"}, "wandb"),
        ("tensorboardX", {"tensorboard": True}, "tensorboard"),
        ("mlflow", {"mlflow": "sqlite:///m.db"}, "mlflow"),
    ],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    package: str, options: dict[str, Any], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingError) as error:
        sinks.check(Report(**options))
    assert f"{package}, which is not installed: pip install 'fedkd[{extra}]'" in str(error.value)


class Broken:
    """A W&B run on a full disk."""

    summary: ClassVar[dict[str, Any]] = {}
    id = "12345678"

    def log(self, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def define_metric(self, *_: Any, **__: Any) -> None:
        pass

    finish = log


def test_a_run_goes_on_where_wandb_fails_and_ends_where_it_cannot_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    monkeypatch.setattr(wandb, "init", lambda **_: Broken())
    found = sinks.begin(WANDB, a_run(tmp_path))
    for number in (1, 2):
        found.round(a_round(number, 0.5))
    found.finish(an_ending())
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "W&B takes no more of this run" in error
    (tmp_path / "wandb_id").write_text("junk")
    monkeypatch.setattr(wandb, "init", lambda **_: Broken().log())
    with pytest.raises(RunError, match=r"W&B cannot begin the run: .*No space"):
        sinks.begin(WANDB, a_run(tmp_path))
    assert "wandb_id is damaged" in capsys.readouterr().err
    assert len(wandb_run._run_id(tmp_path / "wandb_id")) == 8


def test_wandb_is_told_who_the_run_is_and_shares_one_folder_in_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    told = list[dict[str, Any]]()
    monkeypatch.setattr(wandb, "init", lambda **given: [told.append(given), Broken()][1])
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    run = tmp_path / "0"
    run.mkdir()
    sinks.begin(WANDB, a_run(run))
    (tmp_path / "sweep.json").touch()
    own = {"project": "mine", "entity": "us", "group": "g", "job_type": "j", "notes": "n"}
    sinks.begin(Report(html=False, wandb="offline", **own), a_run(run))  # type: ignore[arg-type]
    keys = ("project", "entity", "group", "job_type", "notes", "name", "dir")
    assert [told[0][key] for key in keys] == [
        *("theirs", None, "digits", "knfu", "what it is for"),
        *("knfu beta=3 seed=1", str(run)),
    ]
    assert [told[1][key] for key in keys] == [*own.values(), "knfu beta=3 seed=1", str(tmp_path)]
    assert told[0]["config"] == {"privacy": {"epsilon": "inf"}}


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """Return the figures in a folder's event files, without those that a later one purged."""
    import struct

    from tensorboardX.proto.event_pb2 import Event

    found = list[tuple[str, int, float]]()
    for path in sorted(folder.glob("events.*"), key=lambda p: p.stat().st_mtime_ns):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack("<Q", content[at : at + 8])
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16
            if event.HasField("session_log"):
                found = [one for one in found if one[1] < event.step]
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    found.append((value.tag, event.step, value.simple_value))
                elif value.WhichOneof("value") == "image":
                    found.append((value.tag, event.step, value.image.width))
    return found


def test_tensorboard_shows_a_run_and_its_local_only_baseline_in_the_same_charts(
    tmp_path: Path,
) -> None:
    options, picture = Report(html=False, tensorboard=True), tmp_path / "weights.png"
    Image.new("RGB", (4, 3)).save(picture)
    sinks.check(options)
    before = sinks.begin(options, a_run(tmp_path))
    for number in (1, 2):
        before.round(a_round(number, 0.25))
    before.finish(an_ending())
    after = sinks.begin(options, a_run(tmp_path, rounds_before=1))
    after.round(a_round(2, 0.75))
    after.finish(an_ending([a_round(1, 0.25), a_round(2, 0.75)], [picture]))
    name = f"accuracy/{ACCURACY}"
    assert scalars(tmp_path / "tensorboard") == [
        (name, 1, 0.25), ("strategy/asked", 1, 3.0),
        (name, 2, 0.75), ("strategy/asked", 2, 3.0), ("weights", 2, 4),
    ]  # fmt: skip
    assert scalars(tmp_path / "tensorboard" / "local_only") == [(name, 1, 0.125), (name, 2, 0.375)]
    assert after.lines() == [f"TensorBoard: tensorboard --logdir {tmp_path.parent}"]


def test_every_column_of_a_round_has_a_section() -> None:
    assert sectioned("personal_negative_transfer_after_training").startswith("gain/")
    assert sectioned("teacher_nll") == "loss/teacher_nll"
    assert sectioned("effective_neighbors") == "round/effective_neighbors"
