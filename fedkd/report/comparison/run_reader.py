"""Read a finished run's figures by round and by client, and those of its baseline."""

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedkd.errors import Damaged, RunError, SettingError
from fedkd.report.record_rows import ACCURACIES, VALIDATION
from fedkd.report.run_checksums import check_run
from fedkd.settings.measuring_points import MeasuringPoint, column, other
from fedkd.settings.renamed import column_hint
from fedkd.storage.checked_json import MANIFEST

READING = (
    *(OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, ZeroDivisionError),
    *(csv.Error, RecursionError),
)
"""What readers raise on files that nobody wrote so."""
NAMES = (*ACCURACIES, VALIDATION)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run's figures: over R rounds, and over R rounds by K clients.

    NaN where nothing is known.
    """

    rounds: Mapping[str, np.ndarray]
    """[R] by name: the figures of rounds.jsonl; NaN where one is null or no number."""
    clients: Mapping[str, np.ndarray]
    """[R, K] by name: the columns of clients.csv; NaN where a cell is empty or text."""
    architectures: tuple[str, ...]
    """[K]"""
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = math.nan
    measured: tuple[MeasuringPoint, ...] = ("training",)
    """The points of a round that it measured, in the sequence of time."""
    first: MeasuringPoint = "training"
    """The point that it reports first: that of its method's paper, where it is known."""
    is_reference: bool = False
    """Whether it is no federation, but training alone or on all data."""
    baseline: str = "local_only"
    """How the local-only baseline was trained, where there is one: the setting's value."""
    after: MeasuringPoint | None = None
    """The point at which figures without a point in their names are (``at``)."""

    def at(self, point: MeasuringPoint) -> "Run":
        """Return the run with its figures at a point of its rounds, named without the point.

        A reference has one model a round, which is compared with others at both points. Raises
        RunError where another run did not measure there.
        """
        found = self.measured[0] if self.is_reference else point
        if found not in self.measured:
            raise RunError(f"a run has no figures after {found}: it measured after {self.first}")
        rounds, clients = (_named_at(values, found) for values in (self.rounds, self.clients))
        return replace(self, rounds=rounds, clients=clients, after=point)

    @property
    def length(self) -> int:
        """R."""
        return len(self.rounds["round"])

    def of_round(self, name: str) -> np.ndarray:
        """Return a figure by round [R]; all NaN where the run does not know it."""
        return self.rounds.get(name, np.full(self.length, np.nan))

    def of_client(self, name: str) -> np.ndarray:
        """Return a figure by round and client [R, K]; all NaN where the run does not know it."""
        return self.clients.get(name, np.full((self.length, len(self.architectures)), np.nan))


def status(folder: Path) -> str | None:
    """Return how the run in a folder ended, or that it is running, by its summary.

    None where there is no summary.
    """
    path = folder / "summary.json"
    try:
        check_run(folder, "summary.json")
        return str(json.loads(path.read_bytes())["status"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Damaged as damage:
        raise RunError(f"{damage}; fedkd resume {folder} writes it again") from damage
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(
            f"{path} cannot be read: {error}; fedkd resume {folder} writes it again"
        ) from error


def runs_below(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the completed runs in and below some folders, and the others.

    Raises SettingError where none is complete.

    Folders are in the order of their numbers: 2 before 10.
    """
    done: dict[Path, None] = {}
    others: dict[Path, None] = {}
    for folder in folders:
        below = run_folders(folder)
        for run in below:
            (done if status(run) == "completed" else others)[run] = None
        if not any(run in done for run in below):
            raise SettingError(f"--runs {folder}: there is no finished run in or below it")
    return list(done), list(others)


def run_folders(folder: Path) -> list[Path]:
    """Return the folders of runs in and below a folder, in the order of their numbers.

    One that has lost its scenario is found as well, to be named by whoever reads it.
    """
    below = [path.parent for path in folder.rglob("config.yaml")]
    lost = (path.parent for path in folder.rglob(MANIFEST))
    below += [run for run in lost if run not in below and (run / "summary.json").exists()]
    return sorted(below, key=_by_numbers)


def read_run(folder: Path) -> Run:
    """Return the figures of a finished run.

    Raises RunError where its files are not those of one.
    """
    check_run(folder, "config.yaml", "summary.json", "rounds.jsonl", "clients.csv")
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        rows = [
            json.loads(line)
            for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        with (folder / "clients.csv").open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        for name in rows[-1]:
            if (hint := column_hint(name)) is not None:
                raise RunError(f"{folder} was written by an earlier fedkd: {hint}; run it again")
        count = len(lines) // len(rows)
        if len(lines) != count * len(rows) or [
            int(line["round"]) for line in lines[::count]
        ] != _numbers(rows):
            raise ValueError("clients.csv and rounds.jsonl are not of the same rounds")
        return Run(
            rounds={name: np.array([_number(row.get(name)) for row in rows]) for name in rows[0]},
            clients={
                name: np.array([_cell(line[name]) for line in lines]).reshape(len(rows), count)
                for name in lines[0]
            },
            architectures=tuple(line["architecture"] for line in lines[:count]),
            versions=summary["versions"],
            measured=tuple(summary["measured_after"]),
            first=summary["after"],
            is_reference=summary["is_reference"],
            baseline=summary.get("baseline") or "local_only",
            seconds=_number(summary["seconds"]),
        )
    except READING as error:
        raise RunError(
            f"{folder} does not hold a finished run: {type(error).__name__}: {error}"
        ) from error


def _named_at(values: Mapping[str, np.ndarray], point: MeasuringPoint) -> dict[str, np.ndarray]:
    """Return figures by name, those at a point without it, and none of the other point's."""
    end, elsewhere = column("", point), column("", other(point))
    return {
        name.removesuffix(end): found
        for name, found in values.items()
        if not name.endswith(elsewhere)
    }


def baseline_run(run: Run) -> Run | None:
    """Return the local-only baseline of a run, from its clients' gains over it.

    None where it was run without one. It has accuracies alone, those after its training; it sends
    nothing. ``run`` is at a point.
    """
    accuracies = {}
    for name in NAMES:
        gains = run.of_client(name.replace("accuracy", "gain"))
        if not np.isnan(gains).all():
            accuracies[name] = mean_over_clients(run.of_client(name) - gains)
    if not accuracies:
        return None
    nothing = np.zeros(run.length)
    silent = {"round": run.rounds["round"], "bytes_up": nothing, "bytes_down": nothing}
    return replace(
        run,
        rounds={**silent, **accuracies},
        clients={},
        versions={},
        seconds=math.nan,
        is_reference=True,
    )


def mean_over_clients(values: np.ndarray) -> np.ndarray:
    """Return the means [R] over the clients that have a figure in [R, K]; NaN where none has.

    >>> mean_over_clients(np.array([[1.0, 3.0], [np.nan, 5.0], [np.nan, np.nan]])).tolist()
    [2.0, 5.0, nan]
    """
    known = ~np.isnan(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _by_numbers(path: Path) -> list[str | int]:
    """Return what sorts paths by the numbers in them, as people do."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def _numbers(rows: list[dict[str, Any]]) -> list[int]:
    return [int(row["round"]) for row in rows]


def _number(value: Any) -> float:
    """Return a value of JSON as a number; NaN for what is none (null, a list, a hash)."""
    return float(value) if isinstance(value, int | float) else math.nan


def _cell(text: str) -> float:
    """Return a cell of CSV as a number; NaN for an empty one, and for text."""
    try:
        return float(text)
    except ValueError:
        return math.nan
