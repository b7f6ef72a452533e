"""Residual networks for CIFAR-10: ResNet-8, ResNet-20 (He et al. 2016, section 4.2).

Three stages of 16, 32 and 64 channels; where a shape changes, the shortcut takes every second pixel
and fills new channels with zeros (the paper's option A, without parameters).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.models.normalization import Norm, convolved

STAGES = (16, 32, 64)


class _Residual(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.stride, self.added = (1 if inputs == outputs else 2), outputs - inputs
        self.inner = nn.Sequential(
            convolved(inputs, outputs, 3, norm, stride=self.stride),
            convolved(outputs, outputs, 3, norm, activation=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.added:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return F.relu(self.inner(x) + shortcut)


def _resnet(input_shape: tuple[int, int, int], classes: int, blocks: int, norm: Norm) -> nn.Module:
    layers: list[nn.Module] = [convolved(input_shape[0], STAGES[0], 3, norm)]
    before = STAGES[0]
    for channels in STAGES:
        for _ in range(blocks):
            layers.append(_Residual(before, channels, norm))
            before = channels
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(STAGES[-1], classes)
    )


def resnet8(input_shape: tuple[int, int, int], classes: int, norm: Norm = "group") -> nn.Module:
    """Return ResNet-8 for small images, with GroupNorm or norm=batch."""
    return _resnet(input_shape, classes, 1, norm)


def resnet20(input_shape: tuple[int, int, int], classes: int, norm: Norm = "group") -> nn.Module:
    """Return ResNet-20 for small images (He et al. 2016), with GroupNorm or norm=batch."""
    return _resnet(input_shape, classes, 3, norm)
