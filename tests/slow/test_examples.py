"""The examples, as a reader runs them: each in an empty folder."""

import json
import runpy
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from paths import ROOT

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


SAVE = Figure.savefig


def save_nothing(figure: Figure, path: object, **options: object) -> None:
    """Write empty files of pictures, which would be most of the time."""
    if isinstance(path, str | Path):
        Path(path).write_bytes(b"")
    else:
        SAVE(figure, path, **options)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    monkeypatch.setattr(Figure, "savefig", save_nothing)


def test_there_are_as_many_as_the_page_names() -> None:
    page = (EXAMPLES / "README.md").read_text()
    assert (len(SCRIPTS), len(NOTEBOOKS)) == (5, 2)
    assert all(f"[{path.name}]({path.name})" in page for path in (*SCRIPTS, *NOTEBOOKS))


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(p, marks=[pytest.mark.daily(0)] if p.stem == "privacy_budget" else [])
        for p in SCRIPTS
    ],
    ids=lambda path: path.stem,
)
def test_a_script_runs(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(script), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) > 2
    assert list(Path("runs").rglob("summary.json"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_of_a_notebook_run(notebook: Path, tmp_path: Path) -> None:
    cells = json.loads(notebook.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells), "outputs would grow stale"
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join(code))
    runpy.run_path(str(script), run_name="__main__")
    assert list(Path("runs").rglob("summary.json"))
