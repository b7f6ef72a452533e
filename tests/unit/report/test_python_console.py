"""The progress of runs from Python: in a notebook, in a terminal, and nothing at all."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fedkd.errors import RunWarning
from fedkd.report.python_console import PythonConsole

PLAN: Any = SimpleNamespace(
    warnings=("it is doubtful",), after="training", strategy="knfu", rounds=2
)
ROW = {
    "round": 1,
    **{f"{w}_accuracy_after_training": 0.5 for w in ("personal", "global")},
    **{f"{w}_accuracy_std_after_training": 0.1 for w in ("personal", "global")},
    **{f"{w}_gain_after_training": None for w in ("personal", "global")},
}


class ZMQInteractiveShell:
    """What IPython's shell is called in a notebook."""


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Pretend to be in a notebook, and return what it shows: the last is what stands there."""
    found: list[dict[str, str]] = []
    handle = SimpleNamespace(update=lambda content, raw: found.append(content))

    def display(content: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        found.append(content)
        return handle

    package, module = ModuleType("IPython"), ModuleType("IPython.display")
    package.get_ipython = ZMQInteractiveShell  # type: ignore[attr-defined]
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return found


def go_through(console: PythonConsole) -> None:
    with pytest.warns(RunWarning, match="it is doubtful"):
        console.plan(PLAN, "runs/x")
    console.start("knfu", 4)
    console.round(ROW, 2)
    console._drawn = 0.0
    console.advance()
    console.stop()
    last: Any = SimpleNamespace(round=1)
    console.summary(PLAN, {**ROW, "status": "completed"}, last, None, "runs/x", False)


def test_a_notebook_shows_a_bar_that_becomes_a_line_without_widgets(
    shown: list[dict[str, str]],
) -> None:
    go_through(PythonConsole())
    assert "0/4" in shown[0]["text/plain"]
    assert "1/4" in shown[1]["text/plain"]
    assert shown[1]["text/html"].startswith("<pre>")
    assert shown[-1]["text/plain"] == (
        "knfu: completed after round 1 of 2; after training: own 50.0 ±10.0, balanced 50.0 ±10.0;"
        " results: runs/x"
    )


def test_outside_of_a_terminal_there_is_the_line_alone(capsys: pytest.CaptureFixture[str]) -> None:
    go_through(PythonConsole())
    assert capsys.readouterr().out.count("\n") == 1


def test_without_progress_there_are_warnings_alone(
    shown: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    go_through(PythonConsole(progress=False))
    assert (shown, capsys.readouterr().out) == ([], "")
