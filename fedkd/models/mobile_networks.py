"""Light networks: MobileNetV2 (Sandler et al. 2018) and ShuffleNetV2 (Ma et al. 2018).

Images below 64 x 64, such as CIFAR's, are not halved by the first layers, as is usual for them.
"""

import torch
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.models.normalization import Norm, convolved, is_small

INVERTED = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Of each stage of MobileNetV2: expansion, channels, blocks, stride of the first one (table 2)."""
SHUFFLED = {0.5: (48, 96, 192), 1.0: (116, 232, 464), 1.5: (176, 352, 704)}
"""Channels of the three stages of ShuffleNetV2 by width (table 5); they have 4, 8 and 4 blocks."""


class _Inverted(nn.Module):
    """A block that widens, convolves each channel by itself, and narrows without activation."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, norm: Norm) -> None:
        super().__init__()
        wide = inputs * expansion
        widen = [] if expansion == 1 else [convolved(inputs, wide, 1, norm, activation=nn.ReLU6)]
        self.inner = nn.Sequential(
            *widen,
            convolved(wide, wide, 3, norm, stride=stride, groups=wide, activation=nn.ReLU6),
            convolved(wide, outputs, 1, norm, activation=None),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.inner(x)
        return x + inner if self.adds else inner


def mobilenet_v2(
    input_shape: tuple[int, int, int], classes: int, norm: Norm = "batch"
) -> nn.Module:
    """Return MobileNetV2 (Sandler et al. 2018), with BatchNorm or norm=group."""
    small, before = is_small(input_shape), 32
    layers: list[nn.Module] = [
        convolved(input_shape[0], before, 3, norm, stride=1 if small else 2, activation=nn.ReLU6)
    ]
    for stage, (expansion, channels, blocks, stride) in enumerate(INVERTED):
        first = 1 if small and stage == 1 else stride
        for block in range(blocks):
            layers.append(_Inverted(before, channels, expansion, 1 if block else first, norm))
            before = channels
    return nn.Sequential(
        *layers,
        convolved(before, 1280, 1, norm, activation=nn.ReLU6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(1280, classes),
    )


class _Shuffled(nn.Module):
    """A block whose halves of channels are mixed behind it; the first of a stage halves images."""

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.halves, half = inputs != outputs, outputs // 2
        stride = 2 if self.halves else 1
        self.left = (
            nn.Identity()
            if not self.halves
            else nn.Sequential(
                convolved(inputs, inputs, 3, norm, stride=2, groups=inputs, activation=None),
                convolved(inputs, half, 1, norm),
            )
        )
        self.right = nn.Sequential(
            convolved(inputs if self.halves else half, half, 1, norm),
            convolved(half, half, 3, norm, stride=stride, groups=half, activation=None),
            convolved(half, half, 1, norm),
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = (x, x) if self.halves else x.chunk(2, dim=1)
        both = torch.stack([self.left(left), self.right(right)], dim=2)  # channels in turn
        return both.flatten(1, 2)


def shufflenet_v2(
    input_shape: tuple[int, int, int], classes: int, width: float = 1.0, norm: Norm = "batch"
) -> nn.Module:
    """Return ShuffleNetV2 (Ma et al. 2018), of width=0.5, 1 or 1.5, BatchNorm or norm=group.

    Args:
        input_shape: Channels, height and width of the images.
        classes: C.
        width: Which of the paper's widths it has.
        norm: ``batch`` or ``group``.
    """
    if width not in SHUFFLED:
        raise SettingError(f"models: the width of shufflenet_v2 is 0.5, 1 or 1.5, got {width}")
    small, before = is_small(input_shape), 24
    layers: list[nn.Module] = [convolved(input_shape[0], before, 3, norm, stride=1 if small else 2)]
    if not small:
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    for channels, blocks in zip(SHUFFLED[width], (4, 8, 4), strict=True):
        for _ in range(blocks):
            layers.append(_Shuffled(before, channels, norm))
            before = channels
    return nn.Sequential(
        *layers,
        convolved(before, 1024, 1, norm),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(1024, classes),
    )
