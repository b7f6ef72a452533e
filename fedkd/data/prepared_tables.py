"""Tables of numbers and categories: in memory, and prepared as arrays that every worker maps.

A missing number is NaN, a missing category -1. Not for: reading files
(``fedkd.data.column_files``), or what becomes of the values as inputs of models
(``fedkd.tasks.encoders``).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from fedkd.errors import SettingError

MISSING = -1
"""The code of a missing category."""


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table by name, and the values of those of categories."""

    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    """The values of each column of categories; a code is an index into them."""

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, those of numbers first."""
        return (*self.numbers, *self.categories)

    def kind_of(self, name: str) -> str:
        """Return what a column holds, in words."""
        return "numbers" if name in self.numbers else "categories"


@dataclass(frozen=True)
class TableRows:
    """A data set of rows of numbers and categories in memory, before it is prepared."""

    numbers: Float[np.ndarray, "n numbers"]
    codes: Int[np.ndarray, "n categories"]
    schema: TableSchema
    labels: np.ndarray
    """[n], from 0."""
    train_size: int
    """The number of rows of the training split, which come first; the rest is the test split."""
    class_names: tuple[str, ...]
    columns: Mapping[str, np.ndarray]
    """Columns that are no inputs, [n] each, for partitions."""


class LazyColumns(Mapping[str, np.ndarray]):
    """Columns by name, of which each is made when somebody asks for it."""

    def __init__(self, makers: Mapping[str, Callable[[], np.ndarray]]) -> None:
        """Hold the functions that make them."""
        self._makers = makers

    def __getitem__(self, name: str) -> np.ndarray:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def of_rows(
    columns: Mapping[str, np.ndarray],
    rows: np.ndarray,
    features: Mapping[str, Callable[[np.ndarray], np.ndarray]],
) -> LazyColumns:
    """Return columns cut to some rows, and features, which are computed of rows."""

    def cut(name: str) -> np.ndarray:
        found: np.ndarray = columns[name][rows]
        return found

    made: dict[str, Callable[[], np.ndarray]] = {name: partial(cut, name) for name in columns}
    return LazyColumns(made | {n: partial(of, rows) for n, of in features.items() if n not in made})


@dataclass(frozen=True)
class PreparedTable:
    """A prepared table: read-only memory maps, training split first."""

    has_even_classes: ClassVar[bool] = False

    key: str
    numbers: Float[np.ndarray, "n numbers"]
    codes: Int[np.ndarray, "n categories"]
    schema: TableSchema
    labels: np.ndarray
    """[n], from 0."""
    train_size: int
    class_names: tuple[str, ...]
    others: Mapping[str, np.ndarray]
    """Columns that are no inputs."""

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """All columns but the labels, inputs as well."""
        names = (*self.others, *self.schema.names)
        return LazyColumns({name: partial(self._column, name) for name in names})

    def _column(self, name: str) -> np.ndarray:
        """Return a column's numbers, or its categories as text, empty where one is missing."""
        if name in self.others:
            return self.others[name]
        if name in self.schema.numbers:
            numbers: np.ndarray = self.numbers[:, self.schema.numbers.index(name)]
            return numbers
        i = self.schema.categories.index(name)
        texts: np.ndarray = np.array([*self.schema.values[i], ""])[self.codes[:, i]]
        return texts

    def only(self, rows: np.ndarray) -> "PreparedTable":
        """Return some of the rows, in memory, without columns that are no inputs."""
        return replace(
            self,
            numbers=np.asarray(self.numbers[rows]),
            codes=np.asarray(self.codes[rows]),
            labels=np.asarray(self.labels[rows]),
            train_size=len(rows),
            others={},
        )

    def noise(
        self, law: str, count: int, like: np.ndarray, stream: np.random.Generator
    ) -> "PreparedTable":
        """Return rows of independent random values in memory; their labels are 0.

        Args:
            law: ``uniform`` between the smallest and the largest number of the rows that they are
                like, or ``gaussian`` with their mean and standard deviation.
            count: How many.
            like: Rows of this table; categories, and missing values, are drawn as often.
            stream: Draws the values.
        """
        if not len(like):
            raise SettingError(
                "public_data=noise is drawn like reserved rows; give public.reserved"
            )
        numbers, codes = np.asarray(self.numbers[like]), np.asarray(self.codes[like])
        shape = (count, numbers.shape[1])
        present = np.where(np.isnan(numbers).all(axis=0), 0.0, numbers)
        if law == "uniform":
            drawn = stream.uniform(np.nanmin(present, 0), np.nanmax(present, 0), shape)
        else:
            drawn = stream.normal(np.nanmean(present, 0), np.nanstd(present, 0), shape)
        absent = stream.random(shape) < np.isnan(numbers).mean(axis=0)
        chosen = stream.integers(0, len(like), (count, codes.shape[1]))
        return replace(
            self,
            key=f"{self.key}-noise",
            numbers=np.where(absent, np.nan, drawn),
            codes=np.take_along_axis(codes, chosen, axis=0),
            labels=np.zeros(count, dtype=np.int64),
            train_size=count,
            others={},
        )

    @property
    def inputs(self) -> Mapping[str, np.ndarray]:
        """Numbers, and codes of categories."""
        return {"numbers": self.numbers, "codes": self.codes}

    def unusual(
        self, kind: str, count: int, stream: np.random.Generator
    ) -> Mapping[str, np.ndarray]:
        """Return rows of random values, or each at one level between all smallest and largest.

        Categories are random, or missing.
        """
        present = np.where(np.isnan(self.numbers).all(axis=0), 0.0, self.numbers)
        low, high = np.nanmin(present, axis=0), np.nanmax(present, axis=0)
        sizes = [len(values) for values in self.schema.values]
        if kind == "out_of_distribution":
            return {
                "numbers": stream.uniform(low, high, (count, len(low))),
                "codes": stream.integers(0, np.maximum(1, sizes), (count, len(sizes))),
            }
        levels = stream.permutation(256)[np.arange(count) % 256] / 255
        return {
            "numbers": low + levels[:, None] * (high - low),
            "codes": np.full((count, len(sizes)), MISSING),
        }

    def like(self, other: "PreparedTable", where: str) -> "PreparedTable":
        """Return another table with the columns of this one, in the same sequence and codes.

        Categories that this one does not have are missing. Raises SettingError for a table with
        other columns; ``where`` names its setting.
        """
        own, theirs = self.schema, other.schema
        if lacking := [name for name in own.names if name not in theirs.names]:
            raise SettingError(
                f"{where}: the table has no column {_listed(lacking)}, which the clients' data set"
                f" has; its columns are {_listed(theirs.names)}"
            )
        if further := [name for name in theirs.names if name not in own.names]:
            raise SettingError(
                f"{where}: the table has the column {_listed(further)}, which the clients' data set"
                f" has not; leave it out by {where}.inputs=[{','.join(own.names)}]"
            )
        for name in own.names:
            if own.kind_of(name) != theirs.kind_of(name):
                raise SettingError(
                    f"{where}: column {name!r} holds {theirs.kind_of(name)}, and"
                    f" {own.kind_of(name)} in the clients' data set"
                )
        numbers = other.numbers[:, [theirs.numbers.index(name) for name in own.numbers]]
        codes = np.full((len(other.codes), len(own.categories)), MISSING, dtype=np.int32)
        for i, name in enumerate(own.categories):
            j = theirs.categories.index(name)
            known = {value: code for code, value in enumerate(own.values[i])}
            to_own = [*(known.get(value, MISSING) for value in theirs.values[j]), MISSING]
            codes[:, i] = np.array(to_own, dtype=np.int32)[other.codes[:, j]]
        return replace(other, numbers=np.asarray(numbers), codes=codes, schema=own)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown}, ... ({len(names)})"


def check_table(rows: TableRows, name: str) -> int:
    """Return the number of rows. Raises SettingError unless values and schema fit one another.

    ``name`` is the source's, for the message.
    """
    schema, count = rows.schema, len(rows.numbers)
    shapes = (rows.numbers.shape, rows.codes.shape)
    expected = ((count, len(schema.numbers)), (count, len(schema.categories)))
    if shapes != expected or len(schema.values) != len(schema.categories):
        raise SettingError(
            f"data: {name} has numbers and codes of shape {list(shapes[0])} and {list(shapes[1])};"
            f" its schema says {list(expected[0])} and {list(expected[1])}"
        )
    if not schema.names:
        raise SettingError(f"data: {name} has no column of inputs")
    if np.isinf(rows.numbers).any():
        row, column = np.argwhere(np.isinf(rows.numbers))[0]
        raise SettingError(
            f"data: {name} has an infinite number in row {row + 1}, column"
            f" {schema.numbers[column]!r}"
        )
    for i, values in enumerate(schema.values):
        if count and not MISSING <= rows.codes[:, i].min() <= rows.codes[:, i].max() < len(values):
            raise SettingError(
                f"data: {name} has codes of column {schema.categories[i]!r} beyond its"
                f" {len(values)} values"
            )
    return count


def write_table(rows: TableRows, folder: Path) -> None:
    """Write numbers, codes and their schema for ``read_table``."""
    np.save(folder / "numbers.npy", rows.numbers.astype(np.float64))
    np.save(folder / "codes.npy", rows.codes.astype(np.int32))
    (folder / "schema.json").write_text(json.dumps(asdict(rows.schema)), encoding="utf-8")


def read_table(
    folder: Path,
    labels: np.ndarray,
    train_size: int,
    class_names: tuple[str, ...],
    columns: Mapping[str, np.ndarray],
) -> PreparedTable:
    """Return the prepared table in a folder of the cache.

    Args:
        folder: The folder.
        labels: The class of each row.
        train_size: The rows of the training split.
        class_names: The names of the classes.
        columns: Columns that are no inputs.
    """
    schema = json.loads((folder / "schema.json").read_text(encoding="utf-8"))
    return PreparedTable(
        key=folder.name,
        numbers=np.load(folder / "numbers.npy", mmap_mode="r"),
        codes=np.load(folder / "codes.npy", mmap_mode="r"),
        schema=TableSchema(
            tuple(schema["numbers"]),
            tuple(schema["categories"]),
            tuple(tuple(values) for values in schema["values"]),
        ),
        labels=labels,
        train_size=train_size,
        class_names=class_names,
        others=columns,
    )
