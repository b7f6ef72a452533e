"""Pictures of any size and mode as pixels of one shape."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from fedkd.errors import SettingError

Mode = Literal["grey", "rgb"]


def pixels_of(
    dataset: Any, column: str, sides: tuple[int, int] | None, mode: Mode | None
) -> Iterator[np.ndarray]:
    """Yield the pictures of a split as pixels [height, width, channels], uint8.

    Args:
        dataset: The split.
        column: The column of pictures.
        sides: Height and width that they are resized to, bilinearly; None leaves them.
        mode: What they are converted to; None leaves grey ones grey and makes all others rgb.
    """
    from PIL import Image

    for row, picture in enumerate(dataset.with_format(None)[column]):
        if picture is None:
            raise SettingError(f"data: column {column!r} has no image in row {row + 1}")
        is_grey = mode == "grey" if mode else picture.mode in ("L", "1", "I;16")
        converted = picture.convert("L" if is_grey else "RGB")
        if sides is not None and converted.size != sides[::-1]:
            converted = converted.resize(sides[::-1], Image.Resampling.BILINEAR)
        array = np.asarray(converted, dtype=np.uint8)
        yield array if array.ndim == 3 else array[..., None]


def file_name(datasets: Sequence[Any], column: str, row: int) -> str | None:
    """Return the file of a picture in splits, one behind the other; None where it has none.

    Args:
        datasets: The splits.
        column: The column of pictures.
        row: The row, from 0, of all splits.
    """
    from datasets import Image

    for dataset in datasets:
        if row < len(dataset):
            stored = dataset.cast_column(column, Image(decode=False))[row][column]
            path: str | None = stored["path"] if stored["bytes"] is None else None
            return path
        row -= len(dataset)
    return None


def one_shape(
    pictures: Sequence[np.ndarray], column: str, file_of: Callable[[int], str | None]
) -> np.ndarray:
    """Return pictures as one array [n, height, width, channels].

    Raises SettingError for pictures of several shapes, with the settings that make them one.

    Args:
        pictures: The pictures.
        column: Where they are from, for the message.
        file_of: The file of a picture by its place; None where it has none of its own.
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
        file = file_of(odd)
        where = f"row {odd + 1}" if file is None else f"row {odd + 1}, {file},"
        found.append(f"{len(sizes)} sizes (most {height} x {width}, {where} {shown})")
        cures.append(f"data.size=[{height},{width}] to resize them")
    if len(channels) > 1:
        found.append(f"{channels[1]} grey and {channels[3]} in color")
        cures.append("data.mode=rgb or data.mode=grey to convert them")
    raise SettingError(
        f"data: column {column!r} holds images of {' and '.join(found)}; all must be alike: say"
        f" {' and '.join(cures)}"
    )
