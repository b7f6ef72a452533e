"""Arrays of images as fedkd learns them."""

import numpy as np

from fedkd.errors import SettingError

POSSIBLE = "images are uint8 [n, height, width] or [n, height, width, channels]"


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
    if images.dtype != np.uint8:
        raise SettingError(
            f"data: {name} is of {images.dtype}, expected uint8 from 0 to 255, as in"
            f" (255 * {name}).round().astype('uint8') where it is from 0 to 1"
        )
    return np.ascontiguousarray(images)
