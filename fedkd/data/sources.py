"""Data sets by name: scikit-learn's digits, and image data sets of the Hugging Face hub.

Not for: preparing them (``fedkd.data.prepare``) or dividing them (``fedkd.data.division``).
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedkd.data.cache import cached
from fedkd.errors import SettingError
from fedkd.settings.validators import user_path


@dataclass(frozen=True)
class Rows:
    """A data set of images in memory, before it is prepared."""

    images: np.ndarray
    """[n, height, width, channels], uint8, those of the training split first."""
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
class HubImages:
    """An image data set of the Hugging Face hub, or of a local folder in the same layout."""

    path: str
    """Hub id (`ylecun/mnist`), or local folder that datasets.load_dataset reads: train.parquet and
    test.parquet, or pictures as train/CLASS/NAME.png and test/CLASS/NAME.png."""
    image_column: str | None = None
    """Column of images; null is the first one of that type."""
    label_column: str | None = None
    """Column of class labels; null is `label`, or else the first one of that type."""
    train_split: str = "train"
    """Split that the private sets and the public set are taken from."""
    test_split: str | None = "test"
    """Split that the global test set is drawn from; null takes it from the training split."""

    def content_key(self) -> str:
        """Return a hash of the rows and of the chosen columns."""
        return content_key(self, self.path, self._content_hash)

    def _content_hash(self) -> str:
        return splits_hash((self.image_column, self.label_column), self._splits)

    def load(self) -> Rows:
        """Return all rows, decoded. Raises SettingError for images of several shapes."""
        splits = self._splits
        train = splits["train"]
        image_column, label_column = self._columns(train)
        images = [_decode(dataset, image_column) for dataset in splits.values()]
        shapes = sorted({x.shape[1:] for x in images})
        if len(shapes) != 1:
            raise SettingError(
                f"data.path={self.path}: the splits' images differ in shape: {shapes}"
            )
        labels = np.concatenate([np.asarray(d[label_column]) for d in splits.values()])
        feature = train.features[label_column]
        names = getattr(feature, "names", None)
        if names is None:
            names, labels = np.unique(labels, return_inverse=True)
        if labels.min() < 0:
            raise SettingError(
                f"data.path={self.path}: column {label_column!r} has rows without a label (below 0)"
            )
        others = {
            name: np.concatenate([np.asarray(d[name]) for d in splits.values()])
            for name in train.column_names
            if name not in (image_column, label_column)
            and getattr(train.features[name], "dtype", "") in ("string", "int64", "int32")
        }
        return Rows(
            np.concatenate(images),
            labels.astype(np.int64),
            len(train),
            tuple(str(n) for n in names),
            others,
        )

    def _columns(self, dataset: Any) -> tuple[str, str]:
        """Return the names of the image column and of the label column."""
        from datasets import ClassLabel, Image

        features = dataset.features
        images = [n for n, f in features.items() if isinstance(f, Image)]
        labels = [n for n, f in features.items() if isinstance(f, ClassLabel)]
        if "label" in features and "label" not in labels[:1]:
            labels.insert(0, "label")
        chosen = []
        for setting, given, found in (
            ("image_column", self.image_column, images),
            ("label_column", self.label_column, labels),
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
        return open_splits(self.path, self.train_split, self.test_split, "ylecun/mnist")


def content_key(source: object, path: str, content_hash: Callable[[], str]) -> str:
    """Return the key of the content of a data set of the hub, or of a folder in its layout.

    A local folder's key is cached as long as no file in it changes, so that a run on prepared data
    need not import ``datasets``.
    """
    folder = user_path(path, "data.path")
    if not folder.is_dir():
        return content_hash()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    stats_hash = hashlib.sha256(repr((source, stats)).encode()).hexdigest()[:32]
    entry = cached(
        "sources", stats_hash, lambda staging: (staging / "key").write_text(content_hash())
    )
    return (entry / "key").read_text(encoding="utf-8")


def splits_hash(columns: object, splits: Mapping[str, Any]) -> str:
    """Return a hash of the rows in the files of ``splits``, and of the chosen columns."""
    digest = hashlib.sha256(repr(columns).encode())
    for split, dataset in splits.items():
        digest.update(split.encode())
        for file in dataset.cache_files:
            with Path(file["filename"]).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]


def open_splits(
    path: str, train_split: str, test_split: str | None, example: str
) -> dict[str, Any]:
    """Return splits as ``datasets`` reads them, training first.

    Raises SettingError if they cannot be read.

    Args:
        path: A hub id or a local folder.
        train_split: The name of the training split.
        test_split: The name of the test split, or None.
        example: A hub id, for messages.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    folder = user_path(path, "data.path")
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1 or folder.exists()
    if looks_local and not folder.is_dir():
        raise SettingError(
            f"data.path={path}: no such folder; give a folder that holds the data set as on the hub"
            f" ({{train,test}}.parquet, or train/CLASS/NAME.png), or a hub id such as {example}"
        )
    with _quiet():
        try:
            dataset = load_dataset(str(folder) if looks_local else path)
        except DatasetNotFoundError as error:
            raise SettingError(f"data.path={path}: the hub has no such data set") from error
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SettingError(
                f"data.path={path} could not be read: {reason}. Give a hub id that this machine"
                " can reach, or a local folder with {train,test}.parquet or train/CLASS/NAME.png;"
                " for other forms, such as NumPy's, write a data set of your own"
                " (docs/extending.md)"
            ) from error
    wanted = {"train": train_split, **({"test": test_split} if test_split else {})}
    for setting, split in wanted.items():
        if split not in dataset:
            raise SettingError(
                f"data.{setting}_split={split}: the splits of {path} are {', '.join(dataset)}"
            )
    return {role: dataset[split] for role, split in wanted.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bars and log lines of ``datasets`` within the context."""
    import datasets

    bars, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    hub = logging.getLogger("huggingface_hub")
    hub_level = hub.level
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.ERROR)
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        hub.setLevel(hub_level)
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()


def _decode(dataset: Any, column: str) -> np.ndarray:
    """Return the images of a split [n, height, width, channels] as uint8.

    Grey images have one channel; all others are converted to RGB.
    """
    arrays = []
    for image in dataset.with_format(None)[column]:
        mode = "L" if image.mode in ("L", "1", "I;16") else "RGB"
        array = np.asarray(image.convert(mode), dtype=np.uint8)
        arrays.append(array if array.ndim == 3 else array[..., None])
    shapes = {a.shape for a in arrays}
    if len(shapes) != 1:
        raise SettingError(
            f"data: column {column!r} holds images of {len(shapes)} shapes, for example"
            f" {sorted(shapes)[:3]}; all must be of one size"
        )
    return np.stack(arrays)


@dataclass(frozen=True)
class Named:
    """A data set class, with the fields that its name implies."""

    cls: type
    fields: Mapping[str, str]


DATA: dict[str, Named] = {
    "digits": Named(Digits, {}),
    "mnist": Named(HubImages, {"path": "ylecun/mnist"}),
    "fashion_mnist": Named(HubImages, {"path": "zalando-datasets/fashion_mnist"}),
    "cifar10": Named(HubImages, {"path": "uoft-cs/cifar10"}),
    "images": Named(HubImages, {}),
}
