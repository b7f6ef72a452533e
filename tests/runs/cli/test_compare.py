"""The comparison of methods from its command line: what it plans, runs, skips, resumes and
reports."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, ClassVar

import pytest
from paths import ROOT
from tiny import scenario

from fedkd.cli import carrying_out, compare, privacy_report
from fedkd.errors import RunError, SettingError
from fedkd.experiment import jobs, run_report
from fedkd.experiment.jobs import Outcome, RunTask, carry_out, is_done, run_all
from fedkd.report.comparison.run_reader import read_run, status
from fedkd.report.folder import claimed
from fedkd.runtime.interrupts import EndedBySignal

NLL = "global_nll_after_training"
SMALL = [
    "clients=4",
    "samples_per_client=20",
    "models=[mlp,cnn]",
    "rounds=2",
    "public.size=40",
    "test.global_size=50",
    "train.epochs=1",
    "distill.epochs=1",
]


def planned(
    *base: str, methods: str = "knfu", grid: Sequence[str] = (), seeds: str = "0"
) -> list[compare.Cell]:
    given = compare.parse_methods(methods), compare.parse_grid(grid), compare.parse_seeds(seeds)
    return compare.plan([*SMALL, *base], *given, Path("out"), jobs=2)


@pytest.mark.slow
def test_every_method_setting_and_seed_is_a_run_in_a_folder_of_its_own() -> None:
    cells = planned(
        methods="fedmd,sharp=knfu strategy.beta=30", grid=["partition.alpha=0.1,1"], seeds="3,7"
    )
    assert len({cell.task.folder for cell in cells}) == len(cells) == 2 * 2 * 2
    last = cells[-1].task
    assert last.folder == Path("out/runs/sharp/partition.alpha=1/seed7")
    assert last.name == "sharp, partition.alpha=1, seed 7"
    assert last.scenario.strategy.to_dict()["beta"] == 30
    assert last.scenario.partition.fields["alpha"] == 1
    assert last.scenario.federation.seed == 7
    assert cells[0].task.scenario.strategy.name == "fedmd"
    assert not cells[0].task.scenario.report.console


@pytest.mark.slow
def test_brackets_hold_commas_and_grids_multiply() -> None:
    cells = planned(
        methods="a=knfu models=[mlp,cnn],b=knfu", grid=["rounds=1,2", "train.epochs=1,3"]
    )
    assert cells[0].method.settings == ("models=[mlp,cnn]",)
    assert [cell.setting for cell in cells[:4]] == [
        (("rounds", r), ("train.epochs", e)) for r in ("1", "2") for e in ("1", "3")
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": "knfu,,fedmd"}, "empty part"),
        ({"methods": "knfu,knfu"}, "'knfu' twice"),
        ({"methods": "knfu beta"}, "'beta' is no setting"),
        ({"methods": "knfu seed=3"}, "seed cannot be set here"),
        ({"methods": "knfuu"}, "did you mean 'knfu'"),
        ({"methods": "knfu strategy.betta=3"}, "knfu strategy.betta=3: .*betta"),
        ({"grid": ["partition.alpha"]}, "no setting"),
        ({"grid": ["rounds=1", "rounds=2"]}, "setting twice"),
        ({"grid": ["rounds=1,-1"]}, "rounds must be >= 1"),
        ({"methods": "knfu rounds=3", "grid": ["rounds=1,2"]}, "both set rounds"),
        ({"methods": "a:b=knfu,a/b=knfu"}, "would share a folder"),
        ({"seeds": "0,x"}, "must be numbers"),
        ({"seeds": "0,0"}, "a seed twice"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        planned(**given)


@pytest.mark.parametrize("base", ["strategy=knfu", "strategy.beta=3", "seed=1", "run_dir=x"])
def test_what_the_options_decide_is_no_setting_of_all_runs(base: str) -> None:
    with pytest.raises(SettingError, match="cannot be set here"):
        planned(base)


def test_bad_input_ends_with_status_2_and_a_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert compare.main([*SMALL, "--methods", "knfuu", "--out", str(tmp_path)]) == 2
    assert "did you mean 'knfu'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "option"), [(compare, "--methods"), (privacy_report, "--mechanisms")]
)
def test_modules_in_the_current_folder_are_found(
    script: Any,
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = f"found_here_by_{script.__name__.rpartition('.')[2]}"
    Path(f"{name}.py").write_text("")
    assert script.main([*SMALL, option, f"mine={name}:Mine", "--out", "out"]) == 2
    assert f"in module {name} 'Mine'" in capsys.readouterr().err


def test_a_finished_run_is_done_and_one_of_other_settings_is_refused(tmp_path: Path) -> None:
    task = RunTask("one", scenario(strategy="fedmd"), tmp_path / "seed0")
    assert not is_done(task)
    carry_out(task)
    assert is_done(task)
    elsewhere = scenario(strategy="fedmd", engine={"name": "local", "workers": 2})
    assert is_done(
        RunTask("one", elsewhere, task.folder)
    )  # figures are the same wherever clients run
    with pytest.raises(SettingError, match=r"holds a run with other settings.*rounds was 2, is 3"):
        is_done(RunTask("one", scenario(strategy="fedmd", rounds=3), task.folder))


@pytest.mark.slow
def test_an_unfinished_run_goes_on_to_the_figures_of_the_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = (
        RunTask(name, scenario(rounds=3), tmp_path / name) for name in ("whole", "parts")
    )
    carry_out(whole)

    def ending(record: Any, baseline: Any) -> dict[str, Any]:
        if record.round == 2:
            raise RunError("as the test wants")
        return real(record, baseline)

    real = run_report.round_row
    with monkeypatch.context() as patch:
        patch.setattr(run_report, "round_row", ending)
        with pytest.raises(RunError, match="as the test wants"):
            carry_out(parts)
    assert not is_done(parts)
    first = (parts.folder / "rounds.jsonl").read_text().splitlines()[0]
    carry_out(parts)
    assert is_done(parts)
    assert (parts.folder / "rounds.jsonl").read_text().splitlines()[
        0
    ] == first  # to the seconds that it took
    one, other = read_run(whole.folder), read_run(parts.folder)
    assert (one.of_client(NLL) == other.of_client(NLL)).all()


@pytest.mark.slow
def test_a_run_that_was_ended_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    for name, text in (("empty", ""), ("whole", scenario().text())):
        task = RunTask("one", scenario(), tmp_path / name)
        task.folder.mkdir()
        (task.folder / "config.yaml").write_text(text)
        assert not is_done(task)
        carry_out(task)
        assert is_done(task)


def test_the_local_engine_shares_the_cores_among_the_runs_unless_told_otherwise() -> None:
    assert jobs.with_threads(scenario(engine="local"), 3).engine.value.threads == 3
    assert jobs.with_threads(scenario(engine="local"), 3).engine.to_dict() == {
        "name": "local",
        "workers": 3,
    }
    assert (
        jobs.with_threads(scenario(engine={"name": "local", "workers": 2}), 3).engine.value.threads
        == 2
    )


@pytest.mark.slow
def test_a_comparison_of_one_run_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the processes taken out of the way; a slow test keeps them in."""

    def here(tasks: Sequence[RunTask], jobs: int, on_end: Any) -> list[Outcome]:
        found = []
        for task in tasks:
            if task.scenario.strategy.name == "fedmd":
                found.append(Outcome(task, "as the test wants"))
            else:
                carry_out(task)
                found.append(Outcome(task))
            on_end(found[-1])
        return found

    monkeypatch.setattr(carrying_out, "run_all", here)
    given = [
        *SMALL,
        "--methods",
        "fedmd,knfu",
        "--seeds",
        "0",
        "--out",
        str(tmp_path),
        "--reach",
        "0.1",
    ]
    assert compare.main(given) == 1
    printed = capsys.readouterr().out
    assert "[1/2] fedmd, seed 0: FAILED: as the test wants" in printed
    text = (tmp_path / "comparison.md").read_text()
    for words in (
        "| knfu | 1 |",
        "| local-only baseline | 1 |",
        "fedmd, seed 0 failed: as the test wants.",
        "With one seed",
    ):
        assert words in text
    assert (tmp_path / "plots" / "accuracy_by_bytes_after_training.pdf").exists()
    assert r"\toprule" in (tmp_path / "comparison.tex").read_text()
    with (tmp_path / "runs.csv").open(newline="") as file:
        row, other = csv.DictReader(file)
    assert (row["after"], other["after"]) == ("distillation", "training")
    run = read_run(tmp_path / "runs" / "knfu" / "all" / "seed0")
    assert float(row["global_accuracy"]) == pytest.approx(
        run.of_client(f"global_accuracy_after_{row['after']}")[-1].mean()
    )
    assert text.splitlines()[2].startswith(
        "All runs: scenario digits, seed=0, clients=4, samples_per_client=20,"
    )
    monkeypatch.setattr(compare, "draw", lambda *_: [])
    assert (
        compare.main(["--runs", str(tmp_path), "--out", str(tmp_path / "again"), "--reach", "0.1"])
        == 0
    )
    again = (tmp_path / "again" / "comparison.md").read_text()
    assert again.splitlines()[:8] == text.splitlines()[:8]


def test_reading_runs_takes_no_settings_and_running_them_needs_methods(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path)]
    assert compare.main(["rounds=1", "--runs", str(tmp_path), "--seeds", "0", *out]) == 2
    assert "leave out rounds=1 --seeds" in capsys.readouterr().err
    assert compare.main(["--runs", str(tmp_path), *out]) == 2
    assert "there is no finished run in or below it" in capsys.readouterr().err
    assert compare.main(out) == 2
    assert "give --methods to run" in capsys.readouterr().err


@pytest.mark.slow
def test_one_run_that_fails_or_takes_its_process_with_it_does_not_end_the_others(
    tmp_path: Path,
) -> None:
    changes: dict[str, dict[str, Any]] = {
        "fine": {},
        "failing": {"models": ["toys:raising"]},
        "deadly": {"models": ["toys:deadly"]},
        "too": {"seed": 1},
    }
    tasks = [RunTask(name, scenario(**change), tmp_path / name) for name, change in changes.items()]
    errors = {outcome.task.name: outcome.error for outcome in run_all(tasks, jobs=2)}
    assert errors["fine"] == errors["too"] == ""
    assert "min_clients=1" in errors["failing"]
    assert "its process ended with status 4" in errors["deadly"]
    assert [is_done(task) for task in tasks] == [True, False, False, True]


def command(out: Path, methods: str, *more: str) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "scripts" / "compare.py"),
        *SMALL,
        "baseline=none",
        "--methods",
        methods,
        "--seeds",
        "0,1",
        "--jobs",
        "2",
        "--out",
        str(out),
        *more,
    ]


@pytest.mark.daily(0)
@pytest.mark.slow
def test_a_real_comparison_is_resumed_by_a_second_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(tasks: Sequence[RunTask], jobs: int, on_end: Any) -> list[Outcome]:
        for task in tasks:
            carry_out(task)
        return []

    with monkeypatch.context() as patch:
        patch.setattr(compare, "draw", lambda *_: [])
        patch.setattr(carrying_out, "run_all", here)
        assert compare.main(command(tmp_path, "fedmd")[2:]) == 0
    before = (tmp_path / "runs/fedmd/all/seed0/summary.json").stat().st_mtime_ns
    two = subprocess.run(
        command(tmp_path, "fedmd,flat=knfu strategy.beta=0"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert two.returncode == 0, two.stderr
    assert "4 runs, 2 of them done before" in two.stdout
    assert (tmp_path / "runs/fedmd/all/seed0/summary.json").stat().st_mtime_ns == before
    text = (tmp_path / "comparison.md").read_text()
    assert "| flat | 2 |" in text
    assert "Runs of fedmd, flat have no local-only baseline" in text


class FakeWorker:
    """A worker whose run ends when it is asked to, and not before."""

    all: ClassVar[list["FakeWorker"]] = []

    def __init__(self) -> None:
        self.task: RunTask | None = None
        self.taken: list[str] = []
        self.connection, self._process = Pipe()
        self.all.append(self)

    def take(self, task: RunTask) -> None:
        self.task = task
        self.taken.append(task.name)
        if task.name == "b":
            signal.raise_signal(signal.SIGUSR1)

    def end_after_round(self) -> None:
        self._process.send("asked")

    def outcome(self) -> Outcome:
        task, self.task = self.task, None
        assert task is not None
        return Outcome(task, self.connection.recv())

    def is_alive(self) -> bool:
        return True

    def stop(self) -> None:
        self.connection.close()

    def join(self) -> None:
        self._process.close()


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no such signal here")
def test_sigusr1_lets_runs_end_their_round_and_begins_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(jobs, "_Worker", FakeWorker)
    monkeypatch.setattr(jobs, "EVERY", 0.01)
    tasks = [RunTask(name, scenario(), tmp_path / name) for name in "abc"]
    ended: list[str] = []
    with pytest.raises(EndedBySignal, match="SIGUSR1"):
        run_all(tasks, 2, lambda outcome: ended.append(outcome.error))
    assert [worker.taken for worker in FakeWorker.all] == [["a"], ["b"]]
    assert ended == ["asked", "asked"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no process groups here")
def test_ctrl_c_leaves_no_process_behind_and_the_same_command_goes_on(tmp_path: Path) -> None:
    given = command(tmp_path, "fedmd", "checkpoint.every=1")
    long = [*given[:2], *(text.replace("rounds=2", "rounds=2000") for text in given[2:])]
    process = subprocess.Popen(
        long, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    folders = [tmp_path / "runs" / "fedmd" / "all" / f"seed{seed}" for seed in (0, 1)]
    try:
        deadline = time.monotonic() + 120
        while not all(any(folder.glob("checkpoints/*")) for folder in folders):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, error = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 130
    assert error.strip() == "compare: interrupted; the same command continues from here"
    assert [status(folder) for folder in folders] == ["interrupted", "interrupted"]
    for folder in folders:
        with claimed(folder):  # which the system lets nobody have while a process holds it
            pass


def test_an_unknown_reference_is_named_before_anything_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--methods", "knfu,fedmd", "--against", "knfuu", "--out", str(tmp_path / "out")]
    assert compare.main(given) == 2
    assert capsys.readouterr().err == "compare: --against knfuu: it is none of knfu, fedmd\n"
    assert not (tmp_path / "out").exists()
