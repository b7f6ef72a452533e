"""Preparation of data sets: decoding them once into memory-mapped arrays that all workers share.

The cache holds them under a key of their content.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from fedkd.data.cache import cached
from fedkd.data.image_arrays import pixels
from fedkd.data.prepared_series import SeriesRows, check_series, read_series, write_series
from fedkd.data.prepared_tables import TableRows, check_table, read_table, write_table
from fedkd.data.sources import Rows
from fedkd.data.texts import PreparedTexts, TextRows, write_texts
from fedkd.errors import SettingError
from fedkd.settings.import_paths import attribute_errors_to, code_hash
from fedkd.settings.schema import parameters, to_values

FORMAT = 1
"""Version of the prepared form; a new one makes older caches unread."""
LoadedRows = Rows | TextRows | TableRows | SeriesRows
"""What a source may load."""


@runtime_checkable
class Source(Protocol):
    """A data set that can be loaded and prepared."""

    def content_key(self) -> str:
        """Return a key of the content: equal keys mean equal rows."""

    def load(self) -> LoadedRows:
        """Return all rows."""


@runtime_checkable
class Labeled(Protocol):
    """The part of a prepared data set that dividing it among clients needs."""

    @property
    def key(self) -> str:
        """The key of its content."""

    @property
    def labels(self) -> np.ndarray:
        """The class of each row [n], from 0."""

    @property
    def train_size(self) -> int:
        """The number of rows of its training split, which come first."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes."""

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Other columns by name, [n] each."""

    @property
    def has_even_classes(self) -> bool:
        """Whether classes are about equally large, so that a test set takes as many of each."""


@runtime_checkable
class Plantable(Labeled, Protocol):
    """A prepared data set in which an audit can put records of its own: a frozen dataclass."""

    @property
    def inputs(self) -> Mapping[str, np.ndarray]:
        """The arrays of values by the names of their fields, without labels."""

    def unusual(
        self, kind: str, count: int, stream: np.random.Generator
    ) -> Mapping[str, np.ndarray]:
        """Return values of records that are made to be memorized, by name.

        Args:
            kind: ``out_of_distribution`` (random values) or ``blank`` (one value everywhere).
            count: How many.
            stream: Draws them.
        """


@dataclass(frozen=True)
class Prepared:
    """A prepared data set of images: read-only memory maps, training split first."""

    has_even_classes: ClassVar[bool] = True

    key: str
    images: np.ndarray
    """[n, height, width, channels], uint8 or float32."""
    labels: np.ndarray
    """[n], from 0."""
    train_size: int
    class_names: tuple[str, ...]
    columns: Mapping[str, np.ndarray]

    @property
    def classes(self) -> int:
        """The number of classes, C."""
        return len(self.class_names)

    @property
    def features(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        """Mean and standard deviation of an image's pixels."""
        flat = self.images.reshape(len(self.images), -1)
        return {
            "brightness": lambda rows: flat[rows].mean(axis=1),
            "contrast": lambda rows: flat[rows].std(axis=1),
        }

    @property
    def inputs(self) -> Mapping[str, np.ndarray]:
        """The images."""
        return {"images": self.images}

    def unusual(
        self, kind: str, count: int, stream: np.random.Generator
    ) -> Mapping[str, np.ndarray]:
        """Return images of random pixels, or each of one grey; of floats, within their range."""
        shape, dtype = (count, *self.images.shape[1:]), self.images.dtype
        if kind == "out_of_distribution":
            found: np.ndarray = stream.integers(0, 256, shape)
        else:
            levels = stream.permutation(256)[np.arange(count) % 256]
            found = np.broadcast_to(levels.reshape(-1, 1, 1, 1), shape)
        if dtype != np.uint8:
            low, high = float(self.images.min()), float(self.images.max())
            found = low + found / 255 * (high - low)
        return {"images": found.astype(dtype)}

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of one model input: channels, height, width."""
        _, height, width, channels = self.images.shape
        return int(channels), int(height), int(width)


def prepare_images(source: Source) -> Prepared:
    """Return a prepared data set of images. Raises SettingError for one of texts."""
    prepared = prepare(source)
    if not isinstance(prepared, Prepared):
        raise SettingError("this data set holds no images, and images are needed here")
    return prepared


def prepare(source: Source) -> Labeled:
    """Return the prepared data set, which is decoded into the cache if it is not there.

    Raises SettingError if a source lacks a method, fails, or loads no data set.
    """
    name = type(source).__name__
    missing = [
        method for method in ("content_key", "load") if not callable(getattr(source, method, None))
    ]
    if missing:
        raise SettingError(
            f"data: {name} has no method {' and no method '.join(missing)}; a data set has"
            " content_key() and load() (docs/extending.md)"
        )
    with attribute_errors_to(source, "data", SettingError):
        key = str(source.content_key())
    if type(source).__module__.partition(".")[0] != "fedkd":
        # A user's data set is loaded again when its source file or its settings change.
        about = f"{key} {_settings_of(source)} {code_hash(type(source))}"
        key = hashlib.sha256(about.encode()).hexdigest()[:32]

    def make(folder: Path) -> None:
        with attribute_errors_to(source, "data", SettingError):
            rows = source.load()
        check_rows(rows, name)
        _write(rows, folder)

    return _read(cached("data", f"{key}-{FORMAT}", make))


def _settings_of(source: Source) -> str:
    """Return the settings of a data set as text: those that its class declares, by name."""
    names = parameters(type(source))
    values = {name: to_values(getattr(source, name, None)) for name in names}
    return json.dumps(values, sort_keys=True, default=str)


def store_rows(source: Source, rows: LoadedRows) -> None:
    """Put the rows of a data set of fedkd's into the cache. Raises SettingError for wrong ones."""
    check_rows(rows, type(source).__name__)
    cached("data", f"{source.content_key()}-{FORMAT}", lambda folder: _write(rows, folder))


def _read(folder: Path) -> Labeled:
    """Return the prepared data set in a folder of the cache."""
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    columns = {
        name: np.load(folder / f"column_{i}.npy", mmap_mode="r")
        for i, name in enumerate(about["columns"])
    }
    # An earlier fedkd did not write the form.
    usual = "texts" if (folder / "texts.npy").exists() else "images"
    return FORMS[about.get("form", usual)].read(
        folder,
        np.load(folder / "labels.npy", mmap_mode="r"),
        about["train_size"],
        tuple(about["class_names"]),
        columns,
    )


def check_rows(rows: object, name: str) -> None:
    """Raise SettingError unless ``rows`` are a valid data set, as a source must load.

    ``name`` is the source's, for the message.
    """
    if not isinstance(rows, LoadedRows):
        raise SettingError(
            f"data: {name}.load returned a {type(rows).__name__}, expected a"
            " fedkd.data.sources.Rows"
        )
    count = FORMS[_form_of(rows)].check(rows, name)
    if not 0 < rows.train_size <= count:
        if rows.train_size == 0:
            raise SettingError("data: the training split has no rows")
        raise SettingError(
            f"data: {name} has train_size={rows.train_size}, expected from 1 to its {count} rows"
        )
    _check_labels(rows.labels, count, len(rows.class_names), name)
    for column, values in rows.columns.items():
        if np.shape(values) != (count,):
            raise SettingError(
                f"data: {name} has a column {column} of {_described(values)}, expected {count}"
                " values"
            )


def _check_labels(labels: object, count: int, classes: int, name: str) -> None:
    """Raise SettingError unless labels are ``count`` integers from 0 to ``classes - 1``.

    Args:
        labels: The labels.
        count: The number of rows.
        classes: The number of classes.
        name: The source's, for the message.
    """
    if (
        not isinstance(labels, np.ndarray)
        or labels.shape != (count,)
        or labels.dtype.kind not in "iu"
    ):
        raise SettingError(
            f"data: {name} has labels of {_described(labels)}, expected an array of {count} whole"
            " numbers"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise SettingError(
            f"data: {name} has labels from {labels.min()} to {labels.max()}, expected from 0 to"
            f" {classes - 1}: class_names has {classes}"
        )


def _check_images(rows: Rows, name: str) -> int:
    images: object = rows.images
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
    return len(pixels(images, f"{name}.images"))


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} and shape {list(value.shape)}"
    return f"type {type(value).__name__}"


def _write(rows: LoadedRows, folder: Path) -> None:
    form = _form_of(rows)
    FORMS[form].write(rows, folder)
    np.save(folder / "labels.npy", rows.labels)
    for i, values in enumerate(rows.columns.values()):
        values = values.astype(str) if values.dtype == object else values
        np.save(folder / f"column_{i}.npy", values)
    about = {
        "form": form,
        "train_size": int(rows.train_size),
        "class_names": [str(name) for name in rows.class_names],
        "columns": list(rows.columns),
    }
    (folder / "about.json").write_text(json.dumps(about))


def _read_images(
    folder: Path,
    labels: np.ndarray,
    train_size: int,
    class_names: tuple[str, ...],
    columns: Mapping[str, np.ndarray],
) -> Prepared:
    images = np.load(folder / "images.npy", mmap_mode="r")
    return Prepared(folder.name, images, labels, train_size, class_names, columns)


def _read_texts(
    folder: Path,
    labels: np.ndarray,
    train_size: int,
    class_names: tuple[str, ...],
    columns: Mapping[str, np.ndarray],
) -> PreparedTexts:
    return PreparedTexts(
        key=folder.name,
        content=np.load(folder / "texts.npy", mmap_mode="r"),
        ends=np.load(folder / "ends.npy"),
        labels=labels,
        train_size=train_size,
        class_names=class_names,
        columns=columns,
    )


@dataclass(frozen=True)
class Form:
    """A form in which rows are in memory and in the cache."""

    rows: type
    check: Callable[[Any, str], int]
    """Returns the number of rows, or raises SettingError; the second argument is the source's
    name."""
    write: Callable[[Any, Path], None]
    """Writes what is the form's own into a folder."""
    read: Callable[..., Labeled]
    """Reads it again: folder, labels, train_size, class_names, columns."""


FORMS: dict[str, Form] = {
    "images": Form(
        Rows,
        _check_images,
        lambda rows, folder: np.save(folder / "images.npy", pixels(rows.images, "images")),
        _read_images,
    ),
    "texts": Form(
        TextRows,
        lambda rows, name: len(rows.texts),
        lambda rows, folder: write_texts(rows.texts, folder),
        _read_texts,
    ),
    "tables": Form(TableRows, check_table, write_table, read_table),
    "series": Form(SeriesRows, check_series, write_series, read_series),
}
"""By the name that a folder of the cache has it under."""


def _form_of(rows: LoadedRows) -> str:
    return next(name for name, form in FORMS.items() if isinstance(rows, form.rows))
