"""Data sets in one's own files, by columns: CSV, Parquet, JSON lines, npz, or of the hub.

One contract for every kind of data: ``data=csv data.path=FILE data.target=COLUMN
data.inputs=[COLUMNS] data.kind=KIND``, where all but the path may be found. Not for: reading the
files (``fedkd.data.column_files``).
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from fedkd.data import column_files
from fedkd.data.cache import cached
from fedkd.data.column_kinds import KINDS, ColumnKind, check_kind, find_kind
from fedkd.data.hub_splits import splits_hash
from fedkd.data.long_series import choose_long
from fedkd.data.named_columns import Chosen, ColumnChoice, Columns, choose
from fedkd.data.prepare import LoadedRows
from fedkd.data.sources import HubImages
from fedkd.errors import SettingError
from fedkd.settings.validators import check_choices, user_path


@dataclass(frozen=True, kw_only=True)
class ColumnSource(ABC):
    """The settings that all sources of columns have."""

    path: str
    """A file, or a folder."""
    target: str | None = None
    """Column of classes; null is label, target, class or y. A public set may be without."""
    inputs: tuple[str, ...] | None = None
    """Columns that a model sees; null is all but the target and those left out."""
    leave_out: tuple[str, ...] = ()
    """Columns that are no inputs; a partition may still go by one (partition=natural_id)."""
    kind: str | None = None
    """What the data are: tables, series, images, labeled_texts, or texts, of which next tokens are
    learned (never found); null finds it from the columns."""
    categories: tuple[str, ...] = ()
    """Columns of numbers that are categories of a table, such as codes."""
    unseen: Literal["refuse", "missing"] = "refuse"
    """What becomes of a category of a test row that no training row has."""
    series_id: str | None = None
    """Column that says which series a row is a time step of; null is a row for each series."""
    time: str | None = None
    """Column of numbers or dates by which the steps of a series are sorted; null leaves them as
    they stand. Without series_id it is an error."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_kind(self.kind)
        if self.time is not None and self.series_id is None:
            raise SettingError(
                f"time={self.time} would do nothing without series_id, the column that says which"
                " series a time step is of"
            )

    @property
    def task(self) -> str:
        """The name of the task of the kind of data that the columns are."""
        return str(self._about["task"])

    def content_key(self) -> str:
        """Return a hash of what the files hold and of what is chosen of them."""
        return str(self._about["key"])

    def load(self) -> LoadedRows:
        """Return all rows. Raises SettingError with the file, row and column of a bad value."""
        chosen = self._chosen()
        kind = find_kind(chosen, self.kind)
        self._check_used(kind)
        return kind.rows(chosen)

    def _check_used(self, kind: ColumnKind) -> None:
        """Raise SettingError for settings of one kind of data with another."""
        if self.series_id is not None and kind is not KINDS["series"]:
            raise SettingError(f"data.series_id would do nothing: these are {kind.task}")
        if kind is KINDS["tables"]:
            return
        for name, given in (("categories", self.categories), ("unseen", self.unseen != "refuse")):
            if given:
                raise SettingError(f"data.{name} would do nothing: these are {kind.task}")

    def _chosen(self) -> Chosen:
        names = [f.name for f in fields(ColumnChoice)]
        choice = ColumnChoice(**{name: getattr(self, name) for name in names})
        if self.series_id is None:
            return choose(self._read(), choice)
        return choose_long(self._read(), choice, self.series_id, self.time)

    @property
    def _about(self) -> Mapping[str, str]:
        """The key and the task of the data, which the cache has while no file changes."""
        files = self._files()
        try:
            stats = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        except OSError as error:
            raise SettingError(
                f"data.path={self.path}: {error.filename} cannot be read: {error.strerror}"
            ) from error
        if not files:
            return self._found()
        key = hashlib.sha256(repr((self, stats)).encode()).hexdigest()[:32]

        def make(folder: Path) -> None:
            (folder / "about.json").write_text(json.dumps(self._found()), encoding="utf-8")

        found: Mapping[str, str] = json.loads(
            (cached("sources", key, make) / "about.json").read_text(encoding="utf-8")
        )
        return found

    def _found(self) -> dict[str, str]:
        kind = find_kind(self._chosen(), self.kind)
        return {"key": self._content_hash(), "task": kind.task}

    def _content_hash(self) -> str:
        digest = hashlib.sha256(repr(self._decides()).encode())
        for file in self._files():
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()[:32]

    def _decides(self) -> list[object]:
        """Return what decides the rows beside the files."""
        long = {"series_id": self.series_id, "time": self.time}
        names = [f.name for f in fields(self) if not f.name.endswith("path") and f.name not in long]
        found = [type(self).__name__, *(getattr(self, name) for name in names)]
        return found if self.series_id is None else [*found, long]

    @abstractmethod
    def _files(self) -> list[Path]:
        """Return the files that are read; none where they are not on this machine."""

    @abstractmethod
    def _read(self) -> Columns:
        """Return all columns."""


@dataclass(frozen=True, kw_only=True)
class ColumnFiles(ColumnSource):
    """The settings of sources that are one file, or a file for each split."""

    ending: ClassVar[str]

    test_path: str | None = None
    """File of the test split; null is test.* beside train.* in a folder, or else the test set is
    taken from the training rows."""

    def _files(self) -> list[Path]:
        return column_files.find_files(self.path, self.test_path, self.ending)


@dataclass(frozen=True, kw_only=True)
class CsvColumns(ColumnFiles):
    """A CSV file with a header, or a folder with train.csv and test.csv."""

    ending: ClassVar[str] = "csv"

    separator: str = ","
    """What is between two values."""

    def _read(self) -> Columns:
        read = partial(column_files.read_csv, separator=self.separator)
        return column_files.read_files(self._files(), read)


@dataclass(frozen=True, kw_only=True)
class ParquetColumns(ColumnFiles):
    """A Parquet file, or a folder with train.parquet and test.parquet."""

    ending: ClassVar[str] = "parquet"

    def _read(self) -> Columns:
        return column_files.read_files(self._files(), column_files.read_parquet)


@dataclass(frozen=True, kw_only=True)
class JsonLinesColumns(ColumnFiles):
    """A file with a JSON object a line, or a folder with train.jsonl and test.jsonl."""

    ending: ClassVar[str] = "jsonl"

    def _read(self) -> Columns:
        return column_files.read_files(self._files(), column_files.read_json_lines)


@dataclass(frozen=True, kw_only=True)
class NpzColumns(ColumnFiles):
    """NumPy's arrays by name: X [n, ...] and y [n], or x_train, y_train, x_test and y_test."""

    ending: ClassVar[str] = "npz"

    def _read(self) -> Columns:
        return column_files.read_npz(self._files())


@dataclass(frozen=True, kw_only=True)
class HubColumns(ColumnSource):
    """A data set of the Hugging Face hub with any columns, or a local folder in its layout."""

    train_split: str = "train"
    """Split that the private sets and the public set are taken from."""
    test_split: str | None = "test"
    """Split that the global test set is drawn from; null takes it from the training split."""

    def load(self) -> LoadedRows:
        """Return all rows; pictures are decoded."""
        pictures = self._pictures()
        return super().load() if pictures is None else pictures.load()

    def _found(self) -> dict[str, str]:
        pictures = self._pictures()
        if pictures is None:
            return super()._found()
        return {"key": pictures.content_key(), "task": "images"}

    def _pictures(self) -> HubImages | None:
        """Return the source of a column of pictures; None where no input is one."""
        names = column_files.picture_columns(self.path, self.train_split, self.test_split)
        taken = names if self.inputs is None else self.inputs
        chosen = [name for name in names if name in taken and name not in self.leave_out]
        if not chosen or self.kind not in (None, "images"):
            return None
        self._check_used(KINDS["images"])
        return HubImages(
            path=self.path,
            inputs=self.inputs or (chosen[0],),
            target=self.target,
            train_split=self.train_split,
            test_split=self.test_split,
        )

    def _files(self) -> list[Path]:
        folder = user_path(self.path, "data.path")
        return sorted(f for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else []

    def _read(self) -> Columns:
        return column_files.read_hub(self.path, self.train_split, self.test_split)

    def _content_hash(self) -> str:
        splits = column_files.open_hub(self.path, self.train_split, self.test_split)
        return splits_hash(self._decides(), splits)


COLUMN_DATA: dict[str, type] = {
    "csv": CsvColumns,
    "parquet": ParquetColumns,
    "jsonl": JsonLinesColumns,
    "npz": NpzColumns,
    "hub": HubColumns,
}
"""Sources of columns by name."""
