"""A small residual network (He et al. 2016) with GroupNorm: about 78,000 parameters.

GroupNorm (Wu & He 2018), not BatchNorm: per-sample gradients exist, no statistics of other clients'
batches leak into a model, and a batch of one works.
"""

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (16, 32, 64)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(8, channels), channels)


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = _norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = _norm(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


def resnet(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a residual network of one block each of 16, 32 and 64 channels; images of any size.

    Before the blocks is a convolution, after them a linear head.
    """
    channels = input_shape[0]
    blocks = [
        _Block(inputs, outputs, stride=1 if inputs == outputs else 2)
        for inputs, outputs in zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False)
    ]
    return nn.Sequential(
        nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False),
        _norm(WIDTHS[0]),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(WIDTHS[-1], classes),
    )
