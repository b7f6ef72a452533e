"""Where a run's console report goes: the standard output, and console.log in the run's folder.

The log has times before its lines and goes on when the run does. Not for: what is said
(``fedkd.report.console``).
"""

import io
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Literal, cast

from rich.console import Console

from fedkd.report.report_settings import Verbosity
from fedkd.runtime.standard_streams import FullableOutput, notice

LOG = "console.log"
NO_TERMINAL_WIDTH = 100
RANKS = {"silent": -1, "quiet": 0, "brief": 1, "normal": 2, "verbose": 3}
"""How much is printed: ``silent`` where another console shows the run, ``brief`` in a sweep."""


@dataclass
class Brief:
    """What the runs of a sweep have in common on the console."""

    heading: str = ""
    """Which of the runs it is, and when the sweep may end."""
    said: set[str] = field(default_factory=set)
    """Lines that one of the runs has printed for all."""


def open_console() -> Console:
    """Return a console on the standard output, of a width of its own where that is no terminal."""
    output = cast(IO[str], FullableOutput())
    console = Console(file=output, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(file=output, highlight=False, soft_wrap=True, width=NO_TERMINAL_WIDTH)
    return console


class RunOutput:
    """Prints what a run says as far as the user wants to hear it, and logs all of it."""

    def __init__(
        self,
        verbosity: Verbosity | Literal["silent"],
        folder: Path | None = None,
        brief: Brief | None = None,
    ) -> None:
        """Open the log in a run's folder; without one nothing is logged."""
        short = brief is not None and verbosity == "normal"
        self._rank = RANKS["brief" if short else verbosity]
        self._log_rank = max(self._rank, RANKS["normal"])
        self._log = None if folder is None else folder / LOG
        self._pages = Console(
            file=io.StringIO(), highlight=False, soft_wrap=True, width=NO_TERMINAL_WIDTH
        )
        self.console = open_console()
        """That of the standard output."""

    @property
    def is_watched(self) -> bool:
        """Whether it is a terminal or a notebook, which can show a bar."""
        return self.console.is_terminal or self.console.is_jupyter

    def prints(self, level: str) -> bool:
        """Return whether what is of a level is printed."""
        return self._rank >= RANKS[level]

    def is_brief(self) -> bool:
        """Return whether the run is one of a sweep, of which little is printed."""
        return self._rank == RANKS["brief"]

    def logs(self, level: str) -> bool:
        """Return whether what is of a level is printed or logged."""
        return self._log_rank >= RANKS[level]

    def print(self, what: Any, *, level: str = "normal", style: str | None = None) -> None:
        """Print and log a text as it is, or what rich draws, where its level is asked for."""
        if self.prints(level):
            self.console.print(what, style=style, markup=not isinstance(what, str))
        self.log(what, level=level)

    def log(self, what: Any, *, level: str = "normal") -> None:
        """Log a text, or what rich draws, and print nothing."""
        if self._log is None or not self.logs(level):
            return
        self._pages.print(what, markup=not isinstance(what, str))
        page = cast(io.StringIO, self._pages.file)
        lines = page.getvalue().splitlines()
        page.seek(0)
        page.truncate()
        now = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        try:
            with self._log.open("a", encoding="utf-8") as file:
                file.writelines(f"{now}  {line}".rstrip() + "\n" for line in lines)
        except OSError as error:  # a run goes on without its log
            notice(f"{self._log} cannot be written ({error.strerror}); the run goes on without it")
            self._log = None
