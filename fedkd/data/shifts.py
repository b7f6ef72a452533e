"""Augmentation of images: small random shifts, which keep labels of any kind, and mirroring."""

from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

Augmentation = Literal["none", "flip", "crop", "flip_crop"]
AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)
Images = Shaped[Tensor, "n channels height width"]


def shifted(images: Images, stream: np.random.Generator) -> Images:
    """Return each image shifted by up to an eighth of its height and width, at least a pixel.

    Shifts are drawn per image, in whole pixels, uniformly, and may be 0. Edges are repeated. No
    image is flipped, since a flipped digit may be another digit.

    >>> shifted(torch.zeros(2, 1, 8, 8), np.random.default_rng(0)).shape
    torch.Size([2, 1, 8, 8])
    """
    count, _, height, width = images.shape
    rows = _source_indices(height, count, stream).to(images.device)
    columns = _source_indices(width, count, stream).to(images.device)
    each = torch.arange(count, device=images.device)[:, None, None]
    # [n, height, width, channels], so that the three indexed axes come first.
    moved: Tensor = images.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def flipped(images: Images, stream: np.random.Generator) -> Images:
    """Return each image mirrored from left to right, or as it is, by a fair coin of its own.

    >>> image = torch.arange(2.0).view(1, 1, 1, 2).expand(6, 1, 1, 2)
    >>> flipped(image, np.random.default_rng(0))[:, 0, 0, 0].tolist()
    [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    """
    mirrored = torch.from_numpy(stream.random(len(images)) < 0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def augmented(images: Images, how: Augmentation, stream: np.random.Generator) -> Images:
    """Return images as training is to see them this time: mirrored, shifted, both or neither."""
    if how in ("flip", "flip_crop"):
        images = flipped(images, stream)
    return shifted(images, stream) if how in ("crop", "flip_crop") else images


def _source_indices(side: int, count: int, stream: np.random.Generator) -> Tensor:
    """Return, for each shifted image, the source index of each row or column [count, side]."""
    reach = max(1, side // 8)
    shifts = torch.from_numpy(stream.integers(-reach, reach + 1, count))
    return (torch.arange(side)[None] + shifts[:, None]).clamp(0, side - 1)
