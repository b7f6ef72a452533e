"""Sinks: what is told of a run while it goes on, each in one module: W&B, TensorBoard, MLflow.

``check`` refuses settings before anything is run, ``begin`` opens those that the settings choose. A
sink that fails later is named once, and the run goes on without it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from fedkd.report.report_settings import Report
from fedkd.report.sinks.sink import Ending, Sink, SinkRound, SinkRun, reason
from fedkd.runtime.standard_streams import notice

__all__ = ["Ending", "Sink", "SinkRound", "SinkRun", "Sinks", "begin", "check"]


class SinkModule(Protocol):
    """A module of one sink."""

    def check(self, options: Report) -> None:
        """Raise SettingError where the sink could not take a run with these settings."""

    def begin(self, options: Report, run: SinkRun) -> Sink:
        """Return the sink of a run that begins or goes on. Raises RunError."""


class Sinks:
    """The sinks of a run, of which none can end it."""

    def __init__(self, sinks: list[Sink]) -> None:
        """Take sinks that have begun."""
        self._sinks, self._lost = sinks, set[str]()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._sinks)

    def round(self, row: SinkRound) -> None:
        """Tell the figures of a round."""
        for sink in self._sinks:
            with self._going_on(sink):
                sink.round(row)

    def finish(self, ending: Ending) -> None:
        """Tell what the run came to, and close the sinks."""
        for sink in self._sinks:
            with self._going_on(sink):
                sink.tell(ending)
            with self._going_on(sink):
                sink.close(ending.status)

    def lines(self) -> list[str]:
        """Return where each sink's figures are, and how they are looked at, a line each."""
        return [line for sink in self._sinks for line in sink.lines()]

    @contextlib.contextmanager
    def _going_on(self, sink: Sink) -> Iterator[None]:
        """Let the run go on where a sink fails, with a word the first time."""
        try:
            yield
        except Exception as error:  # the disk, the network, or its library
            if sink.title not in self._lost:
                notice(
                    f"{sink.title} takes no more of this run ({reason(error)}); it goes on without"
                )
            self._lost.add(sink.title)


def check(options: Report) -> None:
    """Raise SettingError where a sink that the settings choose could not take a run."""
    for module in _chosen(options):
        module.check(options)


def begin(options: Report, run: SinkRun) -> Sinks:
    """Return the sinks that the settings choose, begun. Raises RunError."""
    return Sinks([module.begin(options, run) for module in _chosen(options)])


def offline_runs(folder: Path) -> list[Path]:
    """Return the offline runs of W&B in a folder, which nobody may have uploaded yet."""
    return sorted((folder / "wandb").glob("offline-run-*"))


def _chosen(options: Report) -> list[SinkModule]:
    """Return the modules of the sinks that the settings choose: others are not loaded."""
    found: list[SinkModule] = []
    if options.wandb != "disabled":
        from fedkd.report.sinks import wandb_run

        found.append(wandb_run)
    if options.tensorboard:
        from fedkd.report.sinks import tensorboard_events

        found.append(tensorboard_events)
    if options.mlflow is not None:
        from fedkd.report.sinks import mlflow_run

        found.append(mlflow_run)
    if options.writes_html:
        from fedkd.report.sinks import html_page

        found.append(html_page)
    return found
