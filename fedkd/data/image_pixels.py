"""Pictures of any size and mode as pixels of one shape."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from fedkd.errors import SettingError, one_line

Mode = Literal["grey", "rgb"]
DEEP = ("I", "F")
"""How Pillow's modes of more than 8 bits a channel begin."""


def pixels_of(
    dataset: Any, column: str, sides: tuple[int, int] | None, mode: Mode | None
) -> Iterator[np.ndarray]:
    """Yield the pictures of a split as pixels [height, width, channels], uint8.

    Raises SettingError for a picture that is missing or cannot be read.

    Args:
        dataset: The split.
        column: The column of pictures.
        sides: Height and width that they are resized to, bilinearly; None leaves them.
        mode: What they are converted to; None leaves grey ones grey and makes all others rgb.
    """
    pictures = iter(dataset.with_format(None)[column])
    for row in range(len(dataset)):
        try:
            picture = next(pictures)
            deep = getattr(picture, "mode", "").startswith(DEEP)
            array = None if picture is None else _pixels(picture, sides, mode)
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's for damaged files
            raise SettingError(
                f"data: {position_of([dataset], column, row)} cannot be read as a picture:"
                f" {one_line(error)}"
            ) from error
        if deep:
            raise SettingError(
                f"data: {position_of([dataset], column, row)} is a picture of more than 8 bits a"
                f" channel (mode {picture.mode}), which would be cut off at 255; give such values"
                " as floats, by data=npz"
            )
        if array is None:
            raise SettingError(f"data: column {column!r} has no image in row {row + 1}")
        yield array


def _pixels(picture: Any, sides: tuple[int, int] | None, mode: Mode | None) -> np.ndarray:
    """Return a picture as pixels [height, width, channels]; the settings are ``pixels_of``'s."""
    from PIL import Image

    is_grey = mode == "grey" if mode else picture.mode in ("L", "1")
    converted = picture.convert("L" if is_grey else "RGB")
    if sides is not None and converted.size != sides[::-1]:
        converted = converted.resize(sides[::-1], Image.Resampling.BILINEAR)
    array = np.asarray(converted, dtype=np.uint8)
    return array if array.ndim == 3 else array[..., None]


def position_of(datasets: Sequence[Any], column: str, row: int) -> str:
    """Return where a picture is in splits, one behind the other: its row, and its file if any.

    Args:
        datasets: The splits.
        column: The column of pictures.
        row: The row, from 0, of all splits.
    """
    from datasets import Image

    at, counted = row, f"row {row + 1}"
    for dataset in datasets:
        if at < len(dataset):
            stored = dataset.cast_column(column, Image(decode=False))[at][column]
            is_file = stored is not None and stored["bytes"] is None
            return f"{counted}, {stored['path']}" if is_file else counted
        at -= len(dataset)
    return counted


def one_shape(
    pictures: Sequence[np.ndarray], column: str, position: Callable[[int], str]
) -> np.ndarray:
    """Return pictures as one array [n, height, width, channels].

    Raises SettingError for pictures of several shapes, with the settings that make them one.

    Args:
        pictures: The pictures.
        column: Where they are from, for the message.
        position: Says where a picture is.
    """
    sizes = Counter(picture.shape[:2] for picture in pictures)
    channels = Counter(picture.shape[2] for picture in pictures)
    if len(sizes) <= 1 and len(channels) <= 1:
        return np.stack(pictures)
    found, cures = [], []
    if len(sizes) > 1:
        (height, width), _ = sizes.most_common(1)[0]
        odd = next(i for i, one in enumerate(pictures) if one.shape[:2] != (height, width))
        shown = " x ".join(map(str, pictures[odd].shape[:2]))
        found.append(f"{len(sizes)} sizes (most {height} x {width}, {position(odd)}, {shown})")
        cures.append(f"data.size=[{height},{width}] to resize them")
    if len(channels) > 1:
        few = min(channels, key=lambda count: channels[count])
        odd = next(i for i, one in enumerate(pictures) if one.shape[2] == few)
        kind = "grey" if few == 1 else "in color"
        found.append(f"{channels[1]} grey and {channels[3]} in color ({position(odd)}, is {kind})")
        cures.append("data.mode=rgb or data.mode=grey to convert them")
    raise SettingError(
        f"data: column {column!r} holds images of {' and '.join(found)}; all must be alike: say"
        f" {' and '.join(cures)}"
    )
