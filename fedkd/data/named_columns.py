"""Named columns of a data set, as they were read: which are inputs, which is the target.

Every complaint names the file, the row (from 1, without a header) and the column. Not for: reading
files (``fedkd.data.column_files``), or what kind of data columns are
(``fedkd.data.column_kinds``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedkd.errors import SettingError, unknown_name

TARGETS = ("label", "target", "class", "y")
"""How the column of classes may be called where nobody names it."""


@dataclass(frozen=True)
class Columns:
    """Columns by name, those of the training split first; each is an array [n, ...]."""

    values: Mapping[str, np.ndarray]
    train_size: int
    origins: tuple[tuple[str, int], ...]
    """The files that they are of, by name, each with its number of rows."""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What the numbers of a column stand for, where the data set says so."""

    @property
    def size(self) -> int:
        """The number of rows."""
        return sum(count for _, count in self.origins)

    def wrong(self, row: int, column: str, what: str) -> SettingError:
        """Return the error for a value."""
        for file, count in self.origins:
            if row < count:
                return SettingError(f"data: {file}, row {row + 1}, column {column!r}: {what}")
            row -= count
        raise IndexError(row)

    def wrong_column(self, column: str, what: str) -> SettingError:
        """Return the error for a whole column."""
        return SettingError(f"data: {self.origins[0][0]}, column {column!r}: {what}")


@dataclass(frozen=True, kw_only=True)
class ColumnChoice:
    """Which columns are what, as a user says it."""

    target: str | None = None
    inputs: tuple[str, ...] | None = None
    leave_out: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    unseen: str = "refuse"


@dataclass(frozen=True)
class Chosen:
    """Columns of which it is decided what they are."""

    columns: Columns
    inputs: tuple[str, ...]
    target: str | None
    """None for rows without classes, which can only be a public set."""
    choice: ColumnChoice

    def input(self, name: str) -> np.ndarray:
        """Return the values of a column."""
        return self.columns.values[name]

    @property
    def others(self) -> dict[str, np.ndarray]:
        """Columns that are neither inputs nor the target, for partitions: numbers and text.

        Text is empty where it is missing.
        """
        used = {*self.inputs, self.target}
        return {
            name: _as_text(values) if values.dtype.kind not in "iufb" else values
            for name, values in self.columns.values.items()
            if name not in used and values.ndim == 1
        }


def _as_text(values: np.ndarray) -> np.ndarray:
    """Return values as text, empty where one is missing."""
    import pandas as pd

    return np.where(pd.isna(values), "", values.astype(str))


def choose(columns: Columns, choice: ColumnChoice) -> Chosen:
    """Return columns with what they are. Raises SettingError for names that they do not have."""
    known = list(columns.values)
    target = choice.target
    if target is None:
        target = next((name for like in TARGETS for name in known if name.lower() == like), None)
    named = [("target", choice.target)] if choice.target is not None else []
    for setting in ("inputs", "leave_out", "categories"):
        named += [(setting, name) for name in getattr(choice, setting) or ()]
    for setting, name in named:
        if name not in known:
            error = unknown_name("column", name, known)
            raise SettingError(f"data.{setting}: {columns.origins[0][0]}: {error}")
    if choice.inputs is not None and choice.leave_out:
        raise SettingError("data.leave_out would do nothing: data.inputs names all that are inputs")
    if choice.inputs is not None and target in choice.inputs:
        raise SettingError(f"data.inputs has the target {target!r}; leave it out of one of them")
    left_out = {target, *choice.leave_out}
    inputs = choice.inputs or tuple(name for name in known if name not in left_out)
    if not inputs:
        raise SettingError(
            f"data: {columns.origins[0][0]} has no column of inputs beside"
            f" {', '.join(map(str, left_out))}"
        )
    if stray := [name for name in choice.categories if name not in inputs]:
        raise SettingError(f"data.categories: column {stray[0]!r} is none of the inputs")
    return Chosen(columns, inputs, target, choice)


def odd_text(values: np.ndarray) -> int | None:
    """Return the first row that is text and no number where most rows are numbers; else None."""
    import pandas as pd

    if values.ndim != 1:
        return None
    texts = pd.Series(values.tolist(), dtype=object)
    odd = (pd.to_numeric(texts, errors="coerce").isna() & texts.notna()).to_numpy()
    return int(odd.argmax()) if odd.any() and odd.mean() < 0.5 else None


def classes_of(chosen: Chosen) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the class [n] of each row, and the classes' names.

    Without a target all rows are of one class. Raises SettingError for a target that is missing,
    constant or no class, or that test rows alone have.
    """
    columns, target = chosen.columns, chosen.target
    if target is None:
        return np.zeros(columns.size, dtype=np.int64), ("unlabeled",)
    values = columns.values[target]
    if values.ndim > 1:
        raise columns.wrong_column(target, "it holds arrays, expected one class a row")
    _check_present(columns, target, values)
    names = columns.class_names.get(target)
    if names is not None:
        labels = values.astype(np.int64)
        if (labels < 0).any():
            row = int(np.argmax(labels < 0))
            raise columns.wrong(row, target, "no label (below 0); leave such rows out")
    else:
        found, labels = _sorted_classes(columns, target, values)
        names = tuple(map(str, found))
    _check_classes(columns, target, labels, names)
    return labels.astype(np.int64), names


def _check_present(columns: Columns, target: str, values: np.ndarray) -> None:
    import pandas as pd

    empty = pd.isna(values) | (values.astype(str) == "")
    if empty.any():
        row = int(np.argmax(empty))
        raise columns.wrong(
            row,
            target,
            f"the target is missing ({int(empty.sum())} such rows; words such as None and NA are,"
            " in CSV); leave them out of the file, or name the class otherwise",
        )


def _sorted_classes(
    columns: Columns, target: str, values: np.ndarray
) -> tuple[Sequence[Any], np.ndarray]:
    """Return the values of a target, sorted, and which each row has."""
    if values.dtype.kind == "f":
        broken = values != np.floor(values)
        if broken.any():
            row = int(np.argmax(broken))
            raise columns.wrong(
                row,
                target,
                f"{values[row]} is no class but a number to be predicted (regression), which fedkd"
                " does not learn; cut it into classes",
            )
        values = values.astype(np.int64)
    if values.dtype.kind not in "iub":
        values = values.astype(str)
    found, labels = np.unique(values, return_inverse=True)
    most = max(50, columns.size // 10)
    if len(found) > most:
        raise columns.wrong_column(
            target,
            f"{len(found)} different values in {columns.size} rows are no classes; name another"
            " column by data.target, or cut it into classes",
        )
    return found.tolist(), labels


def _check_classes(
    columns: Columns, target: str, labels: np.ndarray, names: tuple[str, ...]
) -> None:
    trained = np.unique(labels[: columns.train_size])
    if len(trained) < 2:
        raise columns.wrong_column(
            target, f"all training rows are of class {names[trained[0]]!r}; two are needed"
        )
    stray = ~np.isin(labels[columns.train_size :], trained)
    if stray.any():
        row = columns.train_size + int(np.argmax(stray))
        raise columns.wrong(
            row,
            target,
            f"class {names[labels[row]]!r} is in the test split only; leave such rows out, or put"
            " some into the training split",
        )
