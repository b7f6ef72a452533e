"""Another view of images: each moved a little, its edges repeated. Labels stay, whatever the images
are of.
"""

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

Images = Shaped[Tensor, "n channels height width"]


def shifted(images: Images, stream: np.random.Generator) -> Images:
    """Return each image moved by up to an eighth of its height and width (at least a pixel), drawn
    for each alone.

    Moves are whole pixels, uniform, and may be none; what comes in at an edge repeats it. No image
    is flipped: a digit would become another.

    >>> shifted(torch.zeros(2, 1, 8, 8), np.random.default_rng(0)).shape
    torch.Size([2, 1, 8, 8])
    """
    count, _, height, width = images.shape
    down = _places(height, count, stream).to(images.device)
    right = _places(width, count, stream).to(images.device)
    each = torch.arange(count, device=images.device)[:, None, None]
    # [n, height, width, channels]: the two indices in a row come first.
    moved: Tensor = images.permute(0, 2, 3, 1)[each, down[:, :, None], right[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def _places(side: int, count: int, stream: np.random.Generator) -> Tensor:
    """Return where each of ``count`` images' rows (or columns) come from [count, side]."""
    reach = max(1, side // 8)
    moves = torch.from_numpy(stream.integers(-reach, reach + 1, count))
    return (torch.arange(side)[None] + moves[:, None]).clamp(0, side - 1)
