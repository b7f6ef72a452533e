"""Data sets by name: scikit-learn's digits, and image data sets of the Hugging Face hub.

Not for: preparing them (``fedkd.data.prepare``) or dividing them (``fedkd.data.division``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from fedkd.data.hub_splits import content_key, open_splits, splits_hash
from fedkd.data.image_pixels import one_shape, pixels_of, position_of
from fedkd.errors import SettingError
from fedkd.settings.validators import at_least, check_choices


@dataclass(frozen=True)
class Rows:
    """A data set of images in memory, before it is prepared."""

    images: np.ndarray
    """[n, height, width, channels], uint8 or floats, those of the training split first."""
    labels: np.ndarray
    """[n], from 0."""
    train_size: int
    """The number of rows of the training split; the rest is the test split, which may be empty."""
    class_names: tuple[str, ...]
    columns: Mapping[str, np.ndarray]
    """Other columns of numbers or text, [n] each, for partitions by a natural id."""


@dataclass(frozen=True, kw_only=True)
class Digits:
    """scikit-learn's digits: 1,797 handwritten digits, 8 x 8 grey, 10 classes; no download.

    From the optical recognition data set of the UCI repository (Alpaydin & Kaynak 1998). It has one
    split, so that the global test set is taken from it.
    """

    def content_key(self) -> str:
        """Return a constant key: the data never changes."""
        return "digits-1"

    def load(self) -> Rows:
        """Return the rows; grey values 0..16 are scaled to 0..240."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = (digits.images * 15).astype(np.uint8)[..., None]
        return Rows(
            images, digits.target.astype(np.int64), len(images), tuple(map(str, range(10))), {}
        )


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """Data that were given from Python, by their hash: fedkd.run(..., data=(X, y))."""

    lies_in_cache: ClassVar[bool] = True

    sha256: str
    """SHA-256 of the rows, under which the cache has them. fedkd.run writes it."""
    kind: str = "images"
    """What they are: images, tables, series or texts."""

    @property
    def task(self) -> str:
        """The name of their task, which is that of their kind."""
        return self.kind

    def content_key(self) -> str:
        """Return the hash."""
        return f"arrays-{self.sha256[:32]}"

    def load(self) -> Rows:
        """Raise SettingError: what is not in the cache is nowhere."""
        raise SettingError(
            f"data=arrays: the cache has no arrays of SHA-256 {self.sha256[:12]} (any more); give"
            " them again from Python, as in fedkd.run(..., data=(X, y)) or"
            " fedkd.resume(FOLDER, data=(X, y))"
        )


@dataclass(frozen=True, kw_only=True)
class HubImages:
    """An image data set of the Hugging Face hub, or of a local folder in the same layout."""

    refuses: ClassVar[Mapping[str, str]] = {
        "image_column": "it is now data.inputs, as for all kinds of data",
        "label_column": "it is now data.target, as for all kinds of data",
    }

    path: str
    """Hub id (`ylecun/mnist`), or local folder that datasets.load_dataset reads: train.parquet and
    test.parquet, or pictures as train/CLASS/NAME.png and test/CLASS/NAME.png."""
    target: str | None = None
    """Column of classes; null is `label`, or else the first one of that type."""
    inputs: tuple[str, ...] | None = None
    """Column of images, one; null is the first one of that type."""
    train_split: str = "train"
    """Split that the private sets and the public set are taken from."""
    test_split: str | None = "test"
    """Split that the global test set is drawn from; null takes it from the training split."""
    size: int | tuple[int, int] | None = None
    """Height and width that images are resized to, one number for squares; null leaves them, and
    all must be of one size. Bilinear; the aspect ratio may change."""
    mode: Literal["grey", "rgb"] | None = None
    """Channels that images are converted to; null leaves grey images grey and makes all others rgb,
    and all must be of one mode."""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.inputs is not None and len(self.inputs) != 1:
            raise SettingError(
                f"inputs must name one column of images, got [{','.join(self.inputs)}]"
            )
        for side in self._sides or ():
            at_least(1, size=side)

    @property
    def _input(self) -> str | None:
        return None if self.inputs is None else self.inputs[0]

    @property
    def _sides(self) -> tuple[int, int] | None:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def content_key(self) -> str:
        """Return a hash of the rows, of the chosen columns, and of how images are converted."""
        return content_key(self, self.path, self._content_hash)

    def _content_hash(self) -> str:
        columns = (self._input, self.target)
        converted = () if self.size is None and self.mode is None else (self._sides, self.mode)
        return splits_hash(columns + converted, self._splits)

    def load(self) -> Rows:
        """Return all rows, decoded. Raises SettingError for images of several shapes."""
        splits = self._splits
        train = splits["train"]
        image_column, label_column = self._columns(train)
        position = partial(position_of, [*splits.values()], image_column)
        labels, names = self._labels(splits, label_column)
        _check_splits(labels, len(train), names, position)
        images = one_shape(
            [
                pixels
                for dataset in splits.values()
                for pixels in pixels_of(dataset, image_column, self._sides, self.mode)
            ],
            image_column,
            position,
        )
        others = {
            name: np.concatenate([np.asarray(d[name]) for d in splits.values()])
            for name in train.column_names
            if name not in (image_column, label_column)
            and getattr(train.features[name], "dtype", "") in ("string", "int64", "int32")
        }
        return Rows(images, labels, len(train), names, others)

    def _labels(self, splits: Mapping[str, Any], column: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the classes of all rows, and their names."""
        values = np.concatenate([np.asarray(split[column]) for split in splits.values()])
        names = getattr(splits["train"].features[column], "names", None)
        is_whole = values.dtype.kind in "iubU" or all(isinstance(v, str) for v in values)
        if values.ndim != 1 or not is_whole:
            raise SettingError(
                f"data.target={column} holds {_held(splits['train'].features[column])};"
                " labels are whole numbers or text, one for every row"
            )
        if names is None:
            names, values = np.unique(values, return_inverse=True)
        if values.min() < 0:
            raise SettingError(
                f"data.path={self.path}: column {column!r} has rows without a label (below 0)"
            )
        return values.astype(np.int64), tuple(map(str, names))

    def _columns(self, dataset: Any) -> tuple[str, str]:
        """Return the names of the image column and of the label column."""
        from datasets import ClassLabel, Image

        features = dataset.features
        images = [n for n, f in features.items() if isinstance(f, Image)]
        labels = [n for n, f in features.items() if isinstance(f, ClassLabel)]
        if "label" in features and "label" not in labels[:1]:
            labels.insert(0, "label")
        given_input = self._input
        if given_input in features and given_input not in images:
            raise SettingError(
                f"data.inputs={given_input} holds {_held(features[given_input])}; columns of images"
                f" in {self.path} are {', '.join(images) or 'none'}"
            )
        chosen = []
        for setting, given, found in (
            ("inputs", given_input, images),
            ("target", self.target, labels),
        ):
            if given is not None and given not in features:
                raise SettingError(
                    f"data.{setting}={given}: the columns of {self.path} are {', '.join(features)}"
                )
            if given is None and not found:
                raise SettingError(
                    f"data.path={self.path} has no such column; name it with data.{setting}=NAME,"
                    f" of {list(features)}"
                )
            chosen.append(given or found[0])
        return chosen[0], chosen[1]

    @property
    def _splits(self) -> dict[str, Any]:
        """The chosen splits as ``datasets`` reads them, training first."""
        return open_splits(
            self.path, self.train_split, self.test_split, "ylecun/mnist", "train/CLASS/NAME.png"
        )


def _check_splits(
    labels: np.ndarray, train_size: int, names: Sequence[str], position: Callable[[int], str]
) -> None:
    """Raise SettingError for training rows of one class, and for a class of test rows alone.

    Args:
        labels: The classes of all rows, those of the training split first.
        train_size: The number of these.
        names: What the classes are called.
        position: Says where a row is.
    """
    trained = np.unique(labels[:train_size])
    if len(trained) == 1:
        raise SettingError(
            f"data: all training images are of class {names[trained[0]]!r}; two are needed"
        )
    stray = ~np.isin(labels, trained)
    if stray.any():
        row = int(stray.argmax())
        raise SettingError(
            f"data: {position(row)}: class {names[labels[row]]!r} is in the test split only; leave"
            " such images out, or put some into the training split"
        )


def _held(feature: Any) -> str:
    """Return what a column of the data set library holds, in words."""
    names = getattr(feature, "names", None)
    if names is not None:
        return f"{len(names)} classes"
    dtype = str(getattr(feature, "dtype", None) or type(feature).__name__)
    return "images" if dtype == "PIL.Image.Image" else dtype


@dataclass(frozen=True)
class Named:
    """A data set class, with the fields that its name implies."""

    cls: type
    fields: Mapping[str, str | None]


DATA: dict[str, Named] = {
    "digits": Named(Digits, {}),
    "mnist": Named(HubImages, {"path": "ylecun/mnist"}),
    "fashion_mnist": Named(HubImages, {"path": "zalando-datasets/fashion_mnist"}),
    "cifar10": Named(HubImages, {"path": "uoft-cs/cifar10"}),
    "cifar100": Named(HubImages, {"path": "uoft-cs/cifar100", "target": "fine_label"}),
    "femnist": Named(
        HubImages,
        {"path": "flwrlabs/femnist", "target": "character", "test_split": None},
    ),
    "images": Named(HubImages, {}),
    "arrays": Named(Arrays, {}),
}
