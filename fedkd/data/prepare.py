"""From a data set of images or texts to memory-mapped arrays that all workers share: made once,
keyed by content.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from fedkd.data.cache import cached
from fedkd.data.sources import Rows
from fedkd.data.texts import PreparedTexts, TextRows, write_texts
from fedkd.errors import SettingError
from fedkd.settings.import_paths import attribute_errors_to, code_hash

FORMAT = 1
"""Changed when the prepared form changes, so that older caches are not read."""


@runtime_checkable
class Source(Protocol):
    """A data set that can be prepared."""

    def content_key(self) -> str:
        """Return what names the data's content: equal keys mean equal rows."""

    def load(self) -> Rows | TextRows:
        """Read everything."""


@runtime_checkable
class Labeled(Protocol):
    """A prepared data set as far as dividing it among clients goes."""

    @property
    def key(self) -> str:
        """What names its content."""

    @property
    def labels(self) -> np.ndarray:
        """The class of each row [n], from 0."""

    @property
    def train_size(self) -> int:
        """How many of the first rows are its training split."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """By class."""

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Other columns by name, [n] each."""


@dataclass(frozen=True)
class Prepared:
    """A prepared data set: read-only memory maps over the rows of its training split, then its test
    split.
    """

    key: str
    images: np.ndarray
    labels: np.ndarray
    train_size: int
    class_names: tuple[str, ...]
    columns: Mapping[str, np.ndarray]

    @property
    def classes(self) -> int:
        """The number of classes, C."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one model input."""
        _, height, width, channels = self.images.shape
        return int(channels), int(height), int(width)


def holds_texts(source: Source) -> bool:
    """Return whether a source is one of texts (its attribute ``holds`` says so), and not of
    images.
    """
    return getattr(source, "holds", "images") == "texts"


def prepare_images(source: Source) -> Prepared:
    """Return a data set of images."""
    found = prepare(source)
    if isinstance(found, PreparedTexts):
        raise SettingError("this data set holds texts, and images are needed here")
    return found


def prepare(source: Source) -> Prepared | PreparedTexts:
    """Return the data set's arrays, decoding them into the cache the first time its content is met.

    Raises SettingError where a source lacks a method, fails, or loads what is no data set.
    """
    name = type(source).__name__
    missing = [
        method for method in ("content_key", "load") if not callable(getattr(source, method, None))
    ]
    if missing:
        raise SettingError(
            f"data: {name} has no method {' and no method '.join(missing)}; a data set has"
            " content_key() and load()"
            " (docs/extending.md)"
        )
    with attribute_errors_to(source, "data", SettingError):
        key = str(source.content_key())
    if (
        type(source).__module__.partition(".")[0] != "fedkd"
    ):  # a user's data set is loaded again once its file changed
        key = hashlib.sha256(f"{key} {code_hash(type(source))}".encode()).hexdigest()[:32]

    def make(folder: Path) -> None:
        with attribute_errors_to(source, "data", SettingError):
            rows = source.load()
        check_rows(rows, name)
        _write(rows, folder)

    folder = cached("data", f"{key}-{FORMAT}", make)
    about = json.loads((folder / "about.json").read_text())
    columns = {
        name: np.load(folder / f"column_{i}.npy", mmap_mode="r")
        for i, name in enumerate(about["columns"])
    }
    if (folder / "texts.npy").exists():
        return PreparedTexts(
            key=folder.name,
            content=np.load(folder / "texts.npy", mmap_mode="r"),
            ends=np.load(folder / "ends.npy"),
            labels=np.load(folder / "labels.npy", mmap_mode="r"),
            train_size=about["train_size"],
            class_names=tuple(about["class_names"]),
            columns=columns,
        )
    return Prepared(
        key=folder.name,
        images=np.load(folder / "images.npy", mmap_mode="r"),
        labels=np.load(folder / "labels.npy", mmap_mode="r"),
        train_size=about["train_size"],
        class_names=tuple(about["class_names"]),
        columns=columns,
    )


def check_rows(rows: object, name: str) -> None:
    """Raise SettingError unless this is a whole data set: the one check of what a source loads.

    ``name`` is the source's, for the error.
    """
    if not isinstance(rows, Rows | TextRows):
        raise SettingError(
            f"data: {name}.load returned a {type(rows).__name__}, expected a"
            " fedkd.data.sources.Rows"
        )
    if isinstance(rows, Rows):
        _check_images(rows.images, name)
    count = len(rows.images) if isinstance(rows, Rows) else len(rows.texts)
    labels, classes = rows.labels, len(rows.class_names)
    if (
        not isinstance(labels, np.ndarray)
        or labels.shape != (count,)
        or labels.dtype.kind not in "iu"
    ):
        raise SettingError(
            f"data: {name} has labels of {_described(labels)}, expected an array of {count} whole"
            " numbers"
        )
    if not 0 < rows.train_size <= count:
        if rows.train_size == 0:
            raise SettingError("data: the training split has no rows")
        raise SettingError(
            f"data: {name} has train_size={rows.train_size}, expected from 1 to its {count} rows"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise SettingError(
            f"data: {name} has labels from {labels.min()} to {labels.max()}, expected from 0 to"
            f" {classes - 1}:"
            f" class_names has {classes}"
        )
    for column, values in rows.columns.items():
        if np.shape(values) != (count,):
            raise SettingError(
                f"data: {name} has a column {column} of {_described(values)}, expected {count}"
                " values"
            )


def _check_images(images: object, name: str) -> None:
    if not isinstance(images, np.ndarray) or images.ndim != 4:
        hint = (
            "; images[..., None] gives grey ones their channel"
            if getattr(images, "ndim", 0) == 3
            else ""
        )
        raise SettingError(
            f"data: {name} has images of {_described(images)}, expected an array [n, height,"
            f" width, channels]{hint}"
        )
    if images.dtype != np.uint8:
        raise SettingError(
            f"data: {name} has images of {images.dtype}, expected uint8 from 0 to 255, as in"
            " (255 * images).round().astype(np.uint8) where they are from 0 to 1"
        )


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} and shape {list(value.shape)}"
    return f"type {type(value).__name__}"


def _write(rows: Rows | TextRows, folder: Path) -> None:
    if isinstance(rows, TextRows):
        write_texts(rows.texts, folder)
    else:
        np.save(folder / "images.npy", rows.images)
    np.save(folder / "labels.npy", rows.labels)
    for i, values in enumerate(rows.columns.values()):
        np.save(
            folder / f"column_{i}.npy", values.astype(str) if values.dtype == object else values
        )
    names = [str(name) for name in rows.class_names]
    about = {
        "train_size": int(rows.train_size),
        "class_names": names,
        "columns": list(rows.columns),
    }
    (folder / "about.json").write_text(json.dumps(about))
