"""Images as model inputs: floating point, channels first, normalized with public statistics."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from fedkd.data.image_arrays import value_range
from fedkd.data.prepare import Prepared
from fedkd.runtime.devices import sent

Images = Real[np.ndarray, "n height width channels"]
"""8 bits a value, or floats."""


MOST_BYTES = 2**31
"""The largest data set that lies on a device as a whole."""


@dataclass(frozen=True)
class Normalization:
    """A normalization per channel, ``(pixel / 255 - mean) / std``; floats are not divided by 255.

    Its statistics are those of public images, so that they reveal nothing of private ones.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


def statistics(images: Images) -> Normalization:
    """Return the images' mean and standard deviation per channel.

    Standard deviations are at least 0.001. Without images 0.5 and 0.5; of floats, which are then
    taken as they are, 0 and 1.
    """
    channels = images.shape[-1]
    if len(images) == 0:
        mean, std = (0.5, 0.5) if images.dtype == np.uint8 else (0.0, 1.0)
        return Normalization((mean,) * channels, (std,) * channels)
    pixels = images.reshape(-1, channels).astype(np.float64) / value_range(images)
    std = np.maximum(pixels.std(axis=0), 1e-3)
    return Normalization(tuple(pixels.mean(axis=0).tolist()), tuple(std.tolist()))


def normalized(
    images: Images,
    normalization: Normalization,
    device: torch.device,
) -> Float[Tensor, "n channels height width"]:
    """Return images as model inputs on ``device``."""
    return _scaled(_pixels(images).to(device), _on(normalization, device))


def _pixels(images: Images) -> Tensor:
    array = np.ascontiguousarray(images)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _on(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (
        torch.tensor(x, device=device).view(1, -1, 1, 1)
        for x in (normalization.mean, normalization.std)
    )
    return mean, std


def _scaled(pixels: Tensor, by: tuple[Tensor, Tensor]) -> Tensor:
    """Return pixels as model inputs, by the mean and standard deviation of each channel."""
    mean, std = by
    scaled = pixels.permute(0, 3, 1, 2).to(torch.float32, copy=True)
    if pixels.dtype == torch.uint8:
        scaled.div_(255)
    scaled.sub_(mean).div_(std)
    # With one channel several memory layouts are possible, and convolutions round differently in
    # each: the view fixes one.
    return scaled.contiguous().view(-1).view(scaled.shape)


class ImagesOnDevice:
    """A data set of images that lies on a device once, from which rows are gathered there."""

    def __init__(
        self, prepared: Prepared, normalization: Normalization, device: torch.device
    ) -> None:
        """Copy the data set to the device."""
        self._pixels = _pixels(prepared.images).to(device)
        self._labels = torch.from_numpy(np.array(prepared.labels, dtype=np.int64)).to(device)
        self._by, self._device = _on(normalization, device), device

    @staticmethod
    def is_worth_it(prepared: Prepared, device: torch.device) -> bool:
        """Return whether a device other than the CPU has room for the data set."""
        return device.type != "cpu" and prepared.images.nbytes <= MOST_BYTES

    def examples(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return rows as model inputs and labels."""
        index = sent(torch.from_numpy(np.asarray(rows, dtype=np.int64)), self._device)
        return _scaled(self._pixels.index_select(0, index), self._by), self._labels[index]


def inputs(
    prepared: Prepared, rows: np.ndarray, normalization: Normalization, device: torch.device
) -> Float[Tensor, "n channels height width"]:
    """Return the images of ``rows`` as model inputs on ``device``.

    Args:
        prepared: The data set.
        rows: Indices of its rows.
        normalization: Of the images.
        device: Of the result.
    """
    return normalized(prepared.images[rows], normalization, device)


def labels(prepared: Prepared, rows: np.ndarray, device: torch.device) -> Int[Tensor, "n"]:
    """Return the labels of ``rows`` on ``device``."""
    return torch.from_numpy(np.asarray(prepared.labels[rows], dtype=np.int64)).to(device)
