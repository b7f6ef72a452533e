"""Where a run's console report goes: what each level prints, and the log with its times."""

import re
from pathlib import Path

import pytest

from fedkd.report.console import ConsoleReport
from fedkd.report.run_output import Brief, RunOutput


@pytest.mark.parametrize(
    ("verbosity", "printed", "logged"),
    [
        ("silent", [], ["quiet", "brief", "normal"]),
        ("quiet", ["quiet"], ["quiet", "brief", "normal"]),
        ("normal", ["quiet", "brief", "normal"], ["quiet", "brief", "normal"]),
        (
            "verbose",
            ["quiet", "brief", "normal", "verbose"],
            ["quiet", "brief", "normal", "verbose"],
        ),
    ],
)
def test_each_level_prints_its_own_and_the_log_has_at_least_what_normal_prints(
    verbosity: str, printed: list[str], logged: list[str],
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output = RunOutput(verbosity, tmp_path)  # type: ignore[arg-type]
    for level in ("quiet", "brief", "normal", "verbose"):
        output.print(level, level=level)
    assert capsys.readouterr().out.split() == printed
    lines = (tmp_path / "console.log").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == logged
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  \w+$", line) for line in lines)


def test_a_run_that_goes_on_appends_to_its_log_and_one_without_a_disk_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for word in ("before", "after"):
        RunOutput("quiet", tmp_path).log(word)
    found = (tmp_path / "console.log").read_text().splitlines()
    assert [line.split()[-1] for line in found] == ["before", "after"]
    output = RunOutput("normal", tmp_path / "nowhere")
    output.print("one")
    output.print("two")
    said = capsys.readouterr()
    assert said.out.split() == ["one", "two"]
    assert said.err.count("the run goes on without it") == 1


def test_runs_of_a_sweep_warn_of_the_same_thing_once_and_log_it_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    brief = Brief()
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        ConsoleReport("normal", tmp_path / name, brief)._once("Warning: few samples")
        assert "few samples" in (tmp_path / name / "console.log").read_text()
    assert capsys.readouterr().out == "Warning: few samples\n"


def test_progress_of_something_long_is_a_line_now_and_then_where_no_bar_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("fedkd.report.console.time.monotonic", lambda: now[0])
    report = ConsoleReport("normal", tmp_path)
    report.progress("begins", now=True)
    for round_number in range(1, 9):
        now[0] += 4
        report.progress(f"round {round_number}")
    assert capsys.readouterr().out.splitlines() == ["begins", "round 4", "round 8"]
    assert len((tmp_path / "console.log").read_text().splitlines()) == 3
