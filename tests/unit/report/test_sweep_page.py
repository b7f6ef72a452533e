"""The page of several runs: tables and tests, what is left out, links, and the command's ends."""

import json
from pathlib import Path
from typing import Any

import pytest
import stored
from parsed_pages import Page, check_alone
from PIL import Image

from fedkd.cli.html_report import main
from fedkd.report.comparison.stored_comparison import Question, read_question, write_question


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pictures, which take the time."""
    nothing: dict[str, list[Any]] = {n: [] for n in ("accuracy", "gain", "weights", "partition")}
    monkeypatch.setattr("fedkd.report.pages.run_page._pictures", lambda facts: nothing)
    monkeypatch.setattr("fedkd.report.pages.sweep_page._pictures", lambda found: [])


def write_runs(folder: Path, seeds: int = 5) -> Path:
    """Write runs of two methods, of which the second is better with every seed."""
    for method, gain in (("fedmd", 0.1), ("knfu", 0.3)):
        for seed in range(seeds):
            settings = {**stored.SETTINGS, "seed": seed, "strategy": {"name": method}}
            found = stored.records(gain + 0.01 * seed * (-1) ** seed)
            stored.write_run(folder / "runs" / method / str(seed), settings=settings, found=found)
    return folder


@pytest.mark.slow
def test_a_page_of_runs_says_what_tests_over_seeds_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_runs(tmp_path / "sweep")
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out == f"Report: {folder / 'report.html'}\n"
    text = (folder / "report.html").read_text()
    check_alone(text)
    said = Page(text).text
    assert "fedmd is behind knfu by 20.0" in said
    assert "knfu beats local training by" in said
    assert "Differences between methods after distillation in the last round" in said
    links = {a["href"] for a in Page(text).named("a") if str(a["href"]).startswith("runs/")}
    assert links == {f"runs/{m}/{s}/report.html" for m in ("fedmd", "knfu") for s in range(5)}
    assert all((folder / str(link)).is_file() for link in links)


def test_few_seeds_are_not_judged(tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "sweep", seeds=2)
    assert main([str(folder), "--only-summary"]) == 0
    assert "With 2 seeds nothing is judged: that takes 5." in (folder / "report.html").read_text()
    assert not list(folder.glob("runs/*/*/report.html"))


def test_what_is_damaged_or_not_finished_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_runs(tmp_path / "<i>sweep", seeds=2)
    (folder / "runs/knfu/0/clients.csv").write_text("nonsense\n")
    summary = folder / "runs/knfu/1/summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "status": "interrupted"}))
    assert main([str(folder)]) == 1
    said = Page((folder / "report.html").read_text()).text
    assert "runs/knfu/1: not finished (interrupted)" in said
    assert "runs/knfu/0: damaged:" in said
    assert [
        line.count("runs/knfu/0: damaged") for line in capsys.readouterr().err.splitlines()
    ] == [1, 0]
    assert not (folder / "runs/knfu/0/report.html").exists()
    assert (folder / "runs/knfu/1/report.html").exists()


def test_runs_that_cannot_be_compared_are_listed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        stored.write_run(tmp_path / name)
    assert main([str(tmp_path)]) == 0
    assert "data:image/png" not in (tmp_path / "report.html").read_text()
    Image.new("RGB", (4, 4)).save(tmp_path / "privacy.png")
    assert main([str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") == 1
    said = Page(page).text
    assert "The runs are not compared:" in said
    assert "are the same run twice" in said


def test_a_comparison_has_the_methods_that_it_was_given(tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "out", seeds=1)
    folders = {
        ("sharp", ()): {0: folder / "runs/knfu/0"},
        ("early", ()): {0: folder / "runs/fedmd/0"},
    }
    write_question(folders, Question(after="training"), folder)
    assert read_question(folder)[0] == folders
    assert main([str(folder)]) == 0
    said = Page((folder / "report.html").read_text()).text
    assert "sharp, early" in said
    assert "Accuracy after training in the last round" in said


@pytest.mark.parametrize(
    ("content", "status"), [('{"runs": [3]}', 1), ("{", 1), ('{"runs": [], "x": 1}', 1)]
)
def test_a_damaged_comparison_is_named(content: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text(content)
    assert main([str(tmp_path)]) == status


def test_wrong_folders_are_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "there is no run in or below it" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    (stored.write_run(tmp_path / "run") / "config.yaml").unlink()
    assert main([str(tmp_path / "run")]) == 2
    assert "no run's folder (it has no config.yaml)" in capsys.readouterr().err
