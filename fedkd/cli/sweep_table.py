"""What a sweep says of its runs: ``sweep.csv``, a row a run with its results, and how far it is."""

import contextlib
import csv
import io
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedkd.settings.measuring_points import column
from fedkd.storage.atomic_files import write_whole

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from fedkd.cli.hydra_compose import SweepJob

FIRST = "folder"
AT_POINT = ("personal_accuracy", "global_accuracy", "personal_gain", "global_gain")
"""Results at the point of a round that a run reports first."""
RESULTS = ("status", "after", *AT_POINT, "epsilon", "bytes_up", "bytes_down", "seconds")
"""Columns behind what varies."""


class SweepTable:
    """The table of a sweep's runs, which jobs in several processes may write."""

    def __init__(self, sweep: Path, mark: str) -> None:
        """Name the table in a sweep's folder; ``mark`` is a file that is there."""
        self._path, self._mark = sweep / "sweep.csv", sweep / mark

    def enter(
        self, folder: str, varied: Mapping[str, str], results: Mapping[str, Any] | None = None
    ) -> None:
        """Enter a run, with its results where it has ended. Raises StorageError.

        Args:
            folder: The name of the run's folder.
            varied: What distinguishes it from the others, as it was written.
            results: By the names of their columns; None leaves what is there.
        """
        with _alone(self._mark):
            columns, rows = self._read()
            columns = columns or [FIRST, *varied, *RESULTS]
            row = rows.setdefault(folder, {FIRST: folder, **varied})
            for name, value in (results or {}).items():
                row[name] = "" if value is None else str(value)
            text = io.StringIO(newline="")
            table = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
            table.writeheader()
            table.writerows(rows.values())
            write_whole(self._path, [text.getvalue().encode()])

    def _read(self) -> tuple[list[str], dict[str, dict[str, str]]]:
        """Return the columns, and the rows by their folders."""
        if not self._path.exists():
            return [], {}
        with self._path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            rows = {row[FIRST]: row for row in table}
            columns = list(table.fieldnames or [])
        return [*columns, *(name for name in RESULTS if name not in columns)], rows


def results_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of a run for the table, from its summary."""
    after = summary["after"]
    return {
        **{name: summary.get(name) for name in RESULTS},
        **{name: summary.get(column(name, after)) for name in AT_POINT},
        "epsilon": (summary.get("privacy") or {}).get("epsilon"),
        "seconds": round(summary["seconds"], 1),
    }


class SweepProgress:
    """How far a sweep is, and when it may end."""

    def __init__(self) -> None:
        self._took = list[float]()

    def took(self, seconds: float) -> None:
        """Note how long a run took."""
        self._took.append(seconds)

    def heading(self, job: "SweepJob") -> str:
        """Return which run begins, and when the sweep may end: as the runs before, on average."""
        of = f"/{job.jobs}" if job.jobs is not None else ""
        heading = f"[{job.position}{of}] {job.name}"
        if job.jobs is None or not job.in_turn or not self._took:
            return heading
        left = (job.jobs - job.position + 1) * sum(self._took) / len(self._took)
        end = datetime.now() + timedelta(seconds=left)
        return f"{heading} ({in_words(left)} left, until {end:%H:%M})"


def in_words(seconds: float) -> str:
    """Return a span of time in words, rounded.

    >>> in_words(42), in_words(200), in_words(9000)
    ('about 42 s', 'about 3 min', 'about 2 h 30 min')
    """
    if seconds < 100:
        return f"about {seconds:.0f} s"
    minutes = round(seconds / 60)
    return (
        f"about {minutes} min" if minutes < 100 else f"about {minutes // 60} h {minutes % 60} min"
    )


@contextlib.contextmanager
def _alone(mark: Path) -> Iterator[None]:
    """Hold a lock on a file, where the file system has locks."""
    with mark.open("r") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
