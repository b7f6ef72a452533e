"""From a data set of images or texts to memory-mapped arrays that all workers share: made once, keyed by content."""

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
    """A prepared data set: read-only memory maps over the rows of its training split, then its test split."""

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
    """Return whether a source is one of texts (its attribute ``holds`` says so), and not of images."""
    return getattr(source, "holds", "images") == "texts"


def prepare_images(source: Source) -> Prepared:
    """Return a data set of images."""
    found = prepare(source)
    if isinstance(found, PreparedTexts):
        raise SettingError("this data set holds texts, and images are needed here")
    return found


def prepare(source: Source) -> Prepared | PreparedTexts:
    """Return the data set's arrays, decoding them into the cache the first time its content is met."""
    folder = cached("data", f"{source.content_key()}-{FORMAT}", lambda folder: _write(source.load(), folder))
    about = json.loads((folder / "about.json").read_text())
    columns = {name: np.load(folder / f"column_{i}.npy", mmap_mode="r") for i, name in enumerate(about["columns"])}
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


def _write(rows: Rows | TextRows, folder: Path) -> None:
    if rows.train_size == 0:
        raise SettingError("data: the training split has no rows")
    if isinstance(rows, TextRows):
        write_texts(rows.texts, folder)
    else:
        np.save(folder / "images.npy", rows.images)
    np.save(folder / "labels.npy", rows.labels)
    for i, values in enumerate(rows.columns.values()):
        np.save(folder / f"column_{i}.npy", values.astype(str) if values.dtype == object else values)
    about = {"train_size": rows.train_size, "class_names": list(rows.class_names), "columns": list(rows.columns)}
    (folder / "about.json").write_text(json.dumps(about))
