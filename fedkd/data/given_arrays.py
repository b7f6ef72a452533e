"""From data in memory to a data set: arrays, a data frame, or two of them for training and test.

The rows go into the cache under their hash, and a scenario names them ``data=arrays`` with it: a
run on them is repeated for as long as the cache has them. Not for: data sets by name or of one's
own class (``fedkd.data.sources``).
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedkd.data.prepare import store_rows
from fedkd.data.sources import Arrays, Rows
from fedkd.errors import SettingError

TARGETS = ("label", "target", "y")
"""How the column of classes of a data frame may be called where nobody names it."""
POSSIBLE = (
    "fedkd learns images here: uint8 [n, height, width] or [n, height, width, channels], with a"
    " class for each"
)


def hold_data(given: object) -> Arrays:
    """Return the data set of data in memory, whose rows are put into the cache.

    ``given`` is ``(X, y)``, a data frame with a column of images and one of classes, ``(frame,
    "column of classes")``, or a pair of such for training and test. Raises SettingError.
    """
    train, test = _parts(given)
    images, labels = _arrays(train)
    sizes = len(images)
    if test is not None:
        more, their_labels = _arrays(test)
        if more.shape[1:] != images.shape[1:]:
            raise SettingError(
                f"data: images for training are of shape {list(images.shape[1:])}, those for test"
                f" of {list(more.shape[1:])}; give both alike"
            )
        images = np.concatenate([images, more])
        labels = np.concatenate([labels, their_labels])
    classes, codes = np.unique(labels, return_inverse=True)
    rows = Rows(
        np.ascontiguousarray(images), codes.astype(np.int64), sizes, tuple(map(str, classes)), {}
    )
    source = Arrays(sha256=_hash(rows))
    store_rows(source, rows)
    return source


def _hash(rows: Rows) -> str:
    """Return the SHA-256 of rows, with their shapes and the names of their classes."""
    digest = hashlib.sha256(repr((rows.images.shape, rows.train_size, rows.class_names)).encode())
    digest.update(rows.images.tobytes())
    digest.update(rows.labels.tobytes())
    return digest.hexdigest()


def _parts(given: object) -> tuple[object, object | None]:
    """Return what is for training, and what for test or None."""
    if isinstance(given, tuple | list) and len(given) == 2:
        first, second = given
        if _is_frame(second) or (isinstance(second, tuple | list) and _is_pair(second)):
            return first, second
    return given, None


def _is_pair(value: Sequence[object]) -> bool:
    """Return whether a value is a frame or images, with classes or the name of their column."""
    return len(value) == 2 and (_is_frame(value[0]) or np.ndim(np.asarray(value[0])) >= 2)


def _is_frame(value: object) -> bool:
    return hasattr(value, "columns") and hasattr(value, "iloc")


def _arrays(given: object) -> tuple[np.ndarray, np.ndarray]:
    """Return images [n, height, width, channels] and their classes [n]. Raises SettingError."""
    if _is_frame(given):
        return _of_frame(given, None)
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise SettingError(
            f"data: a {type(given).__name__} was given, expected (X, y), a data frame with a column"
            f" of classes, or a pair of such for training and test; {POSSIBLE}"
        )
    if _is_frame(given[0]) and isinstance(given[1], str):
        return _of_frame(given[0], given[1])
    return _checked(_array(given[0], "X"), _array(given[1], "y"))


def _of_frame(frame: Any, target: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and classes of a data frame; ``target`` names the column of classes."""
    columns = [str(name) for name in frame.columns]
    found = [name for name in ([target] if target else TARGETS) if name in columns]
    if not found:
        said = f"no column {target!r}" if target else f"no column {', '.join(TARGETS)}"
        raise SettingError(
            f"data: the data frame has {said}, its columns are {', '.join(columns[:8])}; name that"
            ' of the classes, as in data=(frame, "species")'
        )
    others = [name for name in frame.columns if str(name) != found[0]]
    if len(others) != 1 or np.ndim(np.asarray(frame[others[0]].iloc[0])) < 2:
        raise SettingError(
            f"data: the data frame has {len(others)} columns beside {found[0]}, expected one of"
            f" images; {POSSIBLE}. Columns of pixels become images by X ="
            f" frame.drop(columns={found[0]!r}).to_numpy('uint8').reshape(-1, HEIGHT, WIDTH); other"
            " tables cannot be learned yet"
        )
    images = [np.asarray(image) for image in frame[others[0]]]
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise SettingError(
            f"data: column {others[0]!r} holds images of {len(shapes)} shapes, expected one; make"
            " them alike"
        )
    return _checked(np.stack(images), np.asarray(frame[found[0]]))


def _array(value: Any, name: str) -> np.ndarray:
    """Return an array or tensor as an array. Raises SettingError for what is neither."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        found = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise SettingError(f"data: {name} is no array: {error}") from error
    if found.dtype == object and name == "X":
        raise SettingError(f"data: X is no array of numbers, but of {type(value).__name__}")
    return found


def _checked(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images with their channels, and classes. Raises SettingError for others."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise SettingError(
            f"data: X is of shape {list(images.shape)}; {POSSIBLE}. Tables of numbers cannot be"
            " learned yet"
        )
    if images.shape[-1] > 4 >= images.shape[1]:
        raise SettingError(
            f"data: X is of shape {list(images.shape)}, with channels first; put them last, as in"
            " X.transpose(0, 2, 3, 1)"
        )
    if images.dtype != np.uint8:
        raise SettingError(
            f"data: X is of {images.dtype}, expected uint8 from 0 to 255, as in"
            " (255 * X).round().astype('uint8') where it is from 0 to 1"
        )
    if labels.shape != (len(images),):
        raise SettingError(
            f"data: y is of shape {list(labels.shape)}, expected [{len(images)}], a class for each"
            " image of X"
        )
    if labels.dtype.kind not in "iubUSOT":
        raise SettingError(
            f"data: y is of {labels.dtype}, expected classes: whole numbers or names"
        )
    return images, labels
