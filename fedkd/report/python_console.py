"""Show a run that was begun from Python: a progress bar, warnings, and a line at its end.

In a notebook the bar is an output that is drawn again in its place, which needs nothing but
IPython; elsewhere it is that of the console. Not for: tables, which a run object has.
"""

import io
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedkd.errors import RunWarning
from fedkd.federation.round_records import RoundRecord
from fedkd.report.console import accuracies_at
from fedkd.report.record_rows import Baseline, RunPlan
from fedkd.report.run_output import open_console
from fedkd.settings.measuring_points import MeasuringPoint

SECONDS_BETWEEN = 0.25
"""The least time from one drawing in a notebook to the next."""
WIDTH = 100


def notebook_display() -> Any:
    """Return IPython's ``display`` where a notebook shows it; None elsewhere."""
    with suppress(ImportError, AttributeError):
        from IPython import get_ipython
        from IPython.display import display

        if type(get_ipython()).__name__ == "ZMQInteractiveShell":
            return display
    return None


class PythonConsole:
    """Progress of a run from Python. Without ``progress`` it only warns."""

    def __init__(self, *, progress: bool = True) -> None:
        self._progress_wanted = progress
        self._bar: Progress | None = None
        self._task: Any = None
        self._point: MeasuringPoint | None = None
        self._drawn = 0.0
        self._display: Any = notebook_display() if progress else None
        self._handle: Any = None

    def say(self, text: str) -> None:
        """Show nothing: a run object has what there is to say."""

    def plan(self, plan: RunPlan, folder: str) -> None:
        """Warn of what is doubtful about the run."""
        self._point = plan.after
        for warning in plan.warnings:
            warnings.warn(warning, RunWarning, stacklevel=2)

    def start(self, what: str, messages: int) -> None:
        """Begin a progress bar over client messages."""
        console = open_console() if self._display is None else Console(file=io.StringIO())
        if not self._progress_wanted or (self._display is None and not console.is_terminal):
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("messages"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[said]}"),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(what, total=messages, said="")
        if self._display is None:
            self._bar.start()
        else:
            self._draw()

    def advance(self) -> None:
        """Advance the bar by one message."""
        if self._bar is not None:
            self._bar.advance(self._task)
            if self._display is not None and time.monotonic() > self._drawn + SECONDS_BETWEEN:
                self._draw()

    def round(self, row: Mapping[str, Any], rounds: int) -> None:
        """Show a finished round's accuracies beside the bar."""
        if self._bar is not None and self._point is not None:
            found = accuracies_at(row, self._point)
            said = f"round {row['round']}/{rounds}{': ' if found else ''}{found}"
            self._bar.update(self._task, said=said)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def summary(
        self,
        plan: RunPlan,
        summary: Mapping[str, Any],
        last: RoundRecord | None,
        baseline: Baseline | None,
        folder: str,
        drawn: bool,
    ) -> None:
        """Print a line: how the run ended, its accuracies, its folder.

        Args:
            plan: The run's.
            summary: The run's.
            last: The record of the last round, or None without rounds.
            baseline: Local-only training, or None.
            folder: The folder of the results.
            drawn: Whether plots were drawn.
        """
        if not self._progress_wanted or last is None:
            return
        figures = accuracies_at(summary, plan.after)
        parts = [f"{plan.strategy}: {summary['status']} after round {last.round} of {plan.rounds}"]
        parts += [figures] if figures else []
        line = f"{'; '.join(parts)}; results: {folder}"
        if self._handle is None:
            open_console().print(line, markup=False)
        else:
            self._handle.update({"text/plain": line}, raw=True)
            self._handle = None

    def _draw(self) -> None:
        """Draw the bar in its place in the notebook."""
        assert self._bar is not None
        drawing = Console(file=io.StringIO(), width=WIDTH, record=True, force_jupyter=False)
        drawing.print(self._bar.get_renderable())
        content = {
            "text/plain": drawing.export_text(clear=False).rstrip(),
            "text/html": drawing.export_html(inline_styles=True, code_format="<pre>{code}</pre>"),
        }
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
        self._drawn = time.monotonic()
