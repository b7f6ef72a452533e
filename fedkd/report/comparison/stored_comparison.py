"""A comparison as a value, and the file from which its page is made again: ``comparison.json``.

The file says which run is of which method and setting, as the command line did; figures are read
from the runs.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from fedkd.errors import Damaged
from fedkd.report.comparison.between_methods import Pair
from fedkd.report.comparison.figures import Line, Options, Setting
from fedkd.report.comparison.one_point import After
from fedkd.report.comparison.tables import Table
from fedkd.storage.atomic_files import write_whole

STORED = "comparison.json"
Folders = Mapping[tuple[str, Setting], Mapping[int, Path]]
"""Run folders by method and setting, then by seed."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a comparison is asked for."""

    after: After = "auto"
    """The point of a round that comes first."""
    last: int = 3
    """Rounds in the mean of the last."""
    reach: float | None = None
    """The accuracy for which the bytes are counted."""
    against: str | None = None
    """The method that others are held against; None holds all against each other."""
    metric: str = "accuracy"
    """What methods are held against each other by."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What some runs say of methods."""

    folders: Folders
    common: str
    """What all runs have in common, in words."""
    tables: Sequence[Table]
    notes: Sequence[str]
    at_points: Mapping[Options, Sequence[Line]]
    """The methods at each point of the round, the one that is reported first before the other."""
    baselines: Mapping[Options, Sequence[Line]]
    pairs: Sequence[Pair]
    """At the first point."""

    @property
    def lines(self) -> Sequence[Line]:
        """The methods at the first point."""
        return next(iter(self.at_points.values()))

    @property
    def first(self) -> Options:
        """The options of the first point."""
        return next(iter(self.at_points))


def write_question(folders: Folders, question: Question, out: Path) -> None:
    """Write which runs are compared, and how. Raises StorageError."""
    runs = [
        {
            "method": method,
            "setting": [list(pair) for pair in setting],
            "seed": seed,
            "folder": Path(os.path.relpath(folder, out)).as_posix(),
        }
        for (method, setting), by_seed in folders.items()
        for seed, folder in by_seed.items()
    ]
    values = {**vars(question), "runs": runs}
    write_whole(out / STORED, [json.dumps(values, indent=1).encode() + b"\n"])


def read_question(out: Path) -> tuple[dict[tuple[str, Setting], dict[int, Path]], Question]:
    """Return which runs a comparison is of, and how they are compared. Raises Damaged."""
    path = out / STORED
    try:
        stored: dict[str, Any] = json.loads(path.read_bytes())
        folders: dict[tuple[str, Setting], dict[int, Path]] = {}
        for run in stored.pop("runs"):
            setting = tuple((str(key), str(value)) for key, value in run["setting"])
            by_seed = folders.setdefault((str(run["method"]), setting), {})
            by_seed[int(run["seed"])] = out / str(run["folder"])
        question = Question(**stored)
        if question.after not in get_args(After):
            raise ValueError(f"after={question.after!r}")
        return folders, question
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{path} is not the file of a comparison: {error}") from error
