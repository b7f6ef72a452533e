"""Every file that fedkd reads again, damaged in up to ten ways: named or restored, never used."""

import contextlib
import io
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import scenario

from fedkd.audit import audit_run, report
from fedkd.cli import audit
from fedkd.cli.command import main
from fedkd.errors import FedkdError
from fedkd.experiment.baseline import local_only_baseline
from fedkd.experiment.build import build
from fedkd.experiment.resume import resume
from fedkd.experiment.run import execute, run
from fedkd.report.comparison.run_reader import read_run, runs_below
from fedkd.report.folder import RunFolder
from fedkd.report.stored_plan import read_plan
from fedkd.storage.transcript import Transcript

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").is_file())
sys.path.insert(0, str(ROOT / "scripts"))
from fedkd.cli.compare import read_config  # noqa: E402

CHANGES: dict[str, Any] = {
    "clients": 3,
    "rounds": 3,
    "strategy": "fedmd",
    "models": ["mlp"],
    "samples_per_client": 12,
    "test": {"global_size": 20, "private_size": 5},
    "audit": {"name": "store"},
}
AUDITED = {
    **CHANGES,
    "audit": {"name": "canaries", "per_client": 4, "adversaries": ["server", "lab"]},
}
HUGE = (
    np.lib.format.magic(1, 0)
    + b"\x76\x00"
    + (b"{'descr': '<f4', 'fortran_order': False, 'shape': (549755813888,), }".ljust(117) + b"\n")
)
"""The header of an array of 2 TB."""


class Ended(Exception):
    """What ends a run between two rounds."""


def flip(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path, other: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path, other: Path) -> None:
    path.unlink()


def prefix(path: Path, other: Path) -> None:
    path.write_bytes(b"\xff\x00junk" + path.read_bytes())


def mistype(path: Path, other: Path) -> None:
    path.write_text("[1, 2]\n")


def fold(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").touch()


def exchange(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def inflate(path: Path, other: Path) -> None:
    path.write_bytes(HUGE)
    os.truncate(path, 1 << 40)  # takes no room on the disk


DAMAGES = [flip, cut, zero, empty, remove, prefix, mistype, fold, exchange, inflate]


def cases(files: list[str]) -> Any:
    """Return files with damages: what tells of others in ten ways, the rest by turns in five."""
    chosen = [
        (file, damage)
        for i, file in enumerate(files)
        for damage in (DAMAGES if "checksums" in file else DAMAGES[i % 2 :: 2])
    ]
    return pytest.mark.parametrize(("file", "damage"), chosen)


def reading_everything(transcript: Transcript, *_: Any) -> tuple[dict[str, Any], list[str]]:
    for what in ("public", "upload", "teacher", "query"):
        for _, arrays in transcript.of(what):
            assert arrays
    return {}, []


@pytest.fixture(scope="module", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDKD_CACHE", str(folder))
        # Attacks and pictures take most of an audit's time, and read nothing that these do not.
        patch.setattr(audit_run, "attack_scores", reading_everything)
        patch.setattr(report, "draw_roc", lambda *_: None)
        yield folder


@pytest.fixture(scope="module")
def small_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one entry of each kind."""
    return tmp_path_factory.mktemp("small_cache")


def interrupted(folder: Path, **changes: Any) -> None:
    add_round = RunFolder.add_round

    def failing(self: RunFolder, row: Any, *rest: Any) -> None:
        add_round(self, row, *rest)
        if row["round"] == 3:
            raise Ended

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Ended):
        patch.setattr(RunFolder, "add_round", failing)
        run(scenario(**changes), folder)


def figures(folder: Path) -> Any:
    """Return all figures of a run but its seconds, what it took, and where it is."""
    summary = json.loads((folder / "summary.json").read_text())
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for values in (summary, *rows):
        for name in ("seconds", "resources", "folder"):
            values.pop(name, None)
    found = read_run(folder)
    clients = {name: values.tolist() for name, values in found.clients.items() if name != "seconds"}
    tables = [(folder / n).read_text() for n in ("teacher_by_class.csv", "config.yaml")]
    weights = (folder / "weights.npy").read_bytes()
    return repr((summary, rows, clients, tables, weights))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished and an interrupted run, the same of another seed, and the figures of both."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("", 0), ("other_", 1)):
        run(scenario(**AUDITED, seed=seed), folder / f"{name}finished")
        run(scenario(**CHANGES, seed=seed), folder / f"{name}whole")
        interrupted(folder / f"{name}interrupted", **CHANGES, seed=seed)
    return folder


FINISHED = [
    "config.yaml",
    "plan.json",
    "rounds.jsonl",
    "clients.csv",
    "teacher_by_class.csv",
    "weights.npy",
    "summary.json",
    "checksums.json",
    "checkpoints/000003.checkpoint",
    "states/000001/000003.state",
    "truth/truth.npz",
    "view/index.json",
    "view/upload_00002_00001.npz",
    "lab/index.json",
    "lab/query_00003_00001.npz",
]
INTERRUPTED = [
    *FINISHED[:8],
    "checkpoints/000001.checkpoint",
    "checkpoints/000002.checkpoint",
    "states/000001/000001.state",
    "states/000001/000002.state",
    *FINISHED[10:13],
]
tally: dict[str, int] = {}


def count(outcome: str) -> None:
    tally[outcome] = tally.get(outcome, 0) + 1


def damaged(runs: Path, kind: str, file: str, damage: Callable[..., None], to: Path) -> Path:
    copy = to / "run"
    shutil.copytree(runs / kind, copy)
    damage(copy / file, runs / f"other_{kind}" / file)
    return copy


def check(
    action: Callable[[], Any], expected: Any, folder: Path, file: str, *, named: bool = False
) -> None:
    """Require that an action ends as it does undamaged, or in one line that names the file."""
    try:
        found = action()
    except FedkdError as error:
        text = str(error)
        assert "\n" not in text
        # Of a manifest that is another run's it is the files that do not match.
        names = {Path(file).name, Path(file).parts[0]}
        others = {"config.yaml", "plan.json", "summary.json"}
        names |= others if file == "checksums.json" else set()
        assert any(name in text for name in names), text
        count("refused by name")
        return
    assert found == expected
    assert not named, "not a word"
    count("the same")


@pytest.mark.daily(15)
@cases(INTERRUPTED)
def test_an_interrupted_run_goes_on_to_the_same_figures_or_names_the_file(
    file: str, damage: Callable[..., None], runs: Path, tmp_path: Path
) -> None:
    copy = damaged(runs, "interrupted", file, damage, tmp_path)
    settings = scenario(**CHANGES)

    def action() -> Any:
        resume(settings, copy)
        return figures(copy)

    check(action, figures(runs / "whole"), copy, file)


@pytest.mark.daily(15)
@cases(FINISHED)
def test_a_finished_run_is_audited_and_compared_to_the_same_figures_or_names_the_file(
    file: str, damage: Callable[..., None], runs: Path, tmp_path: Path
) -> None:
    copy = damaged(runs, "finished", file, damage, tmp_path)

    def compared() -> Any:
        done, others = runs_below([copy])
        found = [(read_run(one), read_config(one)) for one in done]
        return repr([(r.rounds, r.clients, r.architectures, c) for r, c in found]), others

    def audited() -> Any:
        error = io.StringIO()
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            status = audit.main([str(copy)])
        if status in (1, 2):
            raise FedkdError(error.getvalue().rstrip("\n"))
        return status, (copy / "audit.json").read_text()

    reference = runs / "finished"
    (run_,) = runs_below([reference])[0]
    r, c = read_run(run_), read_config(run_)
    check(compared, (repr([(r.rounds, r.clients, r.architectures, c)]), []), copy, file)
    check(audited, (0, (reference / "audit.json").read_text()), copy, file)
    plan = repr(read_plan(reference, {}, {}, None))
    check(lambda: repr(read_plan(copy, {}, {}, None)), plan, copy, file)


@pytest.mark.daily(15)
@cases(
    [
        "data/about.json",
        "data/images.npy",
        "data/labels.npy",
        "data/checksums.json",
        "divisions/division.npz",
        "divisions/checksums.json",
        "baselines/baseline.json",
        "baselines/checksums.json",
    ],
)
def test_what_is_in_the_cache_is_made_again_with_one_line(
    file: str,
    damage: Callable[..., None],
    small_cache: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FEDKD_CACHE", str(small_cache))
    tiny = {**CHANGES, "audit": "none", "rounds": 1, "baseline": "local_only"}
    kind, _, name = file.partition("/")

    def made() -> Any:
        stop = threading.Event()
        experiment = build(scenario(**tiny), stop)
        context, division = experiment.context, experiment.context.division
        arrays = [context.prepared.images, context.prepared.labels, division.global_test]
        arrays += [division.held_back, *division.train, *division.test, *division.validation]
        found = [array.tobytes() for array in arrays]
        if kind == "baselines":
            alone = local_only_baseline(experiment, stop, lambda e, on: execute(e, on, stop))
            found += [alone.personal_accuracy.tobytes(), alone.global_accuracy.tobytes()]
        return found

    expected = made()
    (folder,) = (small_cache / kind).iterdir()
    other = tmp_path / "other"
    other.write_bytes((folder / name).read_bytes()[::-1])
    capsys.readouterr()
    damage(folder / name, other)
    assert made() == expected
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert folder.name in error
    assert error.endswith("it is made again\n")
    assert made() == expected
    assert capsys.readouterr().err == ""
    count("made again")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_sweep_that_cannot_be_read_is_named(
    damage: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedkd.storage.checked_json import write_json

    write_json(tmp_path / "sweep.json", {"arguments": ["-m", "seed=0,1", "clients=2"]})
    (tmp_path / "other.json").write_text('{"arguments": ["seed=2,3"]}')
    damage(tmp_path / "sweep.json", tmp_path / "other.json")
    assert main([f"resume={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), "sweep.json" in error) == (1, True)
    count("refused by name")


def test_what_lies_about_among_checkpoints_and_states_is_left_alone_with_a_word(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(runs / "interrupted", copy)
    strays = ["checkpoints/notes.txt", "checkpoints/x.checkpoint", "states/readme", "states/odd/a"]
    for stray in strays:
        (copy / stray).parent.mkdir(exist_ok=True)
        (copy / stray).touch()
    (copy / "states" / "000001" / "x.state").touch()
    resume(scenario(**CHANGES, report={"console": True}), copy)
    said = capsys.readouterr().out
    for name in ("notes.txt", "x.checkpoint", "states/readme", "states/odd"):
        assert f"{name} is none of the run's files" in "".join(said.split("\n")), said
    assert figures(copy) == figures(runs / "whole")
    assert all((copy / stray).exists() for stray in strays)


def test_every_case_was_counted() -> None:
    """``pytest -s`` shows how many."""
    sys.stdout.write(f"\n{sum(tally.values())} cases of damage: {tally}\n")
