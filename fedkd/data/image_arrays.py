"""Arrays of images as fedkd learns them: 8 bits a value, or floating-point numbers."""

import numpy as np

from fedkd.errors import SettingError

POSSIBLE = "images are uint8 or floats [n, height, width] or [n, height, width, channels]"


def checked_images(images: np.ndarray, name: str) -> np.ndarray:
    """Return images with their channels. Raises SettingError for what is none.

    ``name`` is what they were given as.
    """
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise SettingError(f"data: {name} is of shape {list(images.shape)}; {POSSIBLE}")
    if images.shape[-1] > 4 >= images.shape[1]:
        raise SettingError(
            f"data: {name} is of shape {list(images.shape)}, with channels first; put them last, as"
            f" in {name}.transpose(0, 2, 3, 1)"
        )
    return np.ascontiguousarray(pixels(images, name))


def pixels(images: np.ndarray, name: str) -> np.ndarray:
    """Return images as uint8, or as float32 where they are of any floats.

    Raises SettingError for other numbers, and for values that are none.
    """
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise SettingError(
            f"data: {name} is of {images.dtype}, expected uint8 from 0 to 255 or floats, as in"
            f" {name}.astype('float32')"
        )
    found = images.astype(np.float32, copy=False)
    broken = ~np.isfinite(found).reshape(len(found), -1).all(axis=1)
    if broken.any():
        raise SettingError(
            f"data: {name} has a value that is no finite number in image {int(broken.argmax()) + 1}"
            f" ({int(broken.sum())} of {len(found)} images)"
        )
    return found


def value_range(images: np.ndarray) -> float:
    """Return what values are divided by before they are normalized: 255 of 8 bits, 1 of floats."""
    return 255.0 if images.dtype == np.uint8 else 1.0
