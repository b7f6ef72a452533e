"""Images made worse, to ask how much a public set may be spoiled: five kinds, each of severity 1 to
5.

The kinds are those of Hendrycks & Dietterich (2019, arXiv 1903.12261); the strengths are our own,
linear in the severity and the same for images of any size, so figures do not compare with
ImageNet-C or CIFAR-10-C. With values x in [0, 1] and severity s, before cutting to [0, 1] and
rounding to 256 levels:

    gaussian_noise   x + 0.08 s g             g ~ N(0, 1) for each value (standard deviation 0.08 .. 0.40)
    impulse_noise    0 or 1 in place of x     for each value, either with probability 0.03 s (in all 6 % .. 30 %)
    blur             Gaussian of 0.4 s pixels at each channel (0.4 .. 2 pixels), edges repeated
    contrast         m + (1 - 0.18 s) (x - m) m the image's own mean by channel (factor 0.82 .. 0.10)
    brightness       x + 0.1 s                0.1 .. 0.5

The labels of corrupted images stay what they were.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

CorruptionName = Literal["gaussian_noise", "impulse_noise", "blur", "contrast", "brightness"]
Images = UInt8[np.ndarray, "n height width channels"]
Values = Float32[np.ndarray, "n height width channels"]
Corruption = Callable[[Values, int, np.random.Generator], Values]


def corrupt(
    images: Images, name: CorruptionName, severity: int, stream: np.random.Generator
) -> Images:
    """Return the images corrupted. ``stream`` is used by the two kinds of noise alone.

    An image's noise depends on its place among the images and not on how many follow. ``images``
    stay as they were.
    """
    values = CORRUPTIONS[name](images.astype(np.float32) / 255, severity, stream)
    found: Images = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return found


def _gaussian_noise(values: Values, severity: int, stream: np.random.Generator) -> Values:
    noisy: Values = values + np.float32(0.08 * severity) * stream.standard_normal(
        values.shape, dtype=np.float32
    )
    return noisy


def _impulse_noise(values: Values, severity: int, stream: np.random.Generator) -> Values:
    draw, either = stream.random(values.shape, dtype=np.float32), 0.03 * severity
    return np.where(draw < either, 0, np.where(draw >= 1 - either, 1, values)).astype(np.float32)


def _blur(values: Values, severity: int, stream: np.random.Generator) -> Values:
    from scipy.ndimage import gaussian_filter

    width = 0.4 * severity
    blurred: Values = gaussian_filter(values, sigma=(0, width, width, 0), mode="nearest")
    return blurred


def _contrast(values: Values, severity: int, stream: np.random.Generator) -> Values:
    mean = values.mean(axis=(1, 2), keepdims=True)
    faded: Values = mean + np.float32(1 - 0.18 * severity) * (values - mean)
    return faded


def _brightness(values: Values, severity: int, stream: np.random.Generator) -> Values:
    return values + np.float32(0.1 * severity)


CORRUPTIONS: dict[CorruptionName, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "impulse_noise": _impulse_noise,
    "blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
}
