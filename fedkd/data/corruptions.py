"""Corruptions of images: five kinds, each of severity 1 to 5, to degrade a public set.

The kinds are those of Hendrycks & Dietterich (2019, arXiv 1903.12261). Departure from the paper:
strengths are linear in the severity and the same for images of any size, so that figures do not
compare with ImageNet-C or CIFAR-10-C. With values x in [0, 1] and severity s, before clipping to
[0, 1] and rounding to 256 levels:

    gaussian_noise   x + 0.08 s g, with g ~ N(0, 1) per value
                     (standard deviation 0.08 to 0.40)
    impulse_noise    x replaced by 0, or by 1, each with probability 0.03 s
                     (6 % to 30 % of the values in all)
    blur             a Gaussian filter of 0.4 s pixels per channel, edges repeated
                     (0.4 to 2 pixels)
    contrast         m + (1 - 0.18 s) (x - m), with m the image's mean per channel
                     (factor 0.82 to 0.10)
    brightness       x + 0.1 s
                     (0.1 to 0.5)

Labels do not change.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float32, Real

from fedkd.errors import SettingError

CorruptionName = Literal["gaussian_noise", "impulse_noise", "blur", "contrast", "brightness"]
Images = Real[np.ndarray, "n height width channels"]
Values = Float32[np.ndarray, "n height width channels"]
Corruption = Callable[[Values, int, np.random.Generator], Values]


def corrupt(
    images: Images, name: CorruptionName, severity: int, stream: np.random.Generator
) -> Images:
    """Return corrupted copies of the images.

    An image's noise depends on its index and not on the number of images after it.

    Args:
        images: The images, which do not change.
        name: The kind of corruption.
        severity: From 1 to 5.
        stream: Used by the two kinds of noise alone.
    """
    if images.dtype != np.uint8:
        raise SettingError(
            f"public.corruption={name} is of images of 8 bits, and those of this public set are"
            " floats; leave it out"
        )
    values = CORRUPTIONS[name](images.astype(np.float32) / 255, severity, stream)
    corrupted: Images = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return corrupted


def _gaussian_noise(values: Values, severity: int, stream: np.random.Generator) -> Values:
    noisy: Values = values + np.float32(0.08 * severity) * stream.standard_normal(
        values.shape, dtype=np.float32
    )
    return noisy


def _impulse_noise(values: Values, severity: int, stream: np.random.Generator) -> Values:
    draw, rate = stream.random(values.shape, dtype=np.float32), 0.03 * severity
    return np.where(draw < rate, 0, np.where(draw >= 1 - rate, 1, values)).astype(np.float32)


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
