"""The normalization of convolutional networks: over the groups of one sample, or over a batch."""

import math

from torch import nn

from fedkd.errors import SettingError

Norm = str
"""``group`` or ``batch``: what a user writes, so that another word is told."""


def normalized(channels: int, norm: Norm) -> nn.Module:
    """Return GroupNorm of at most 8 groups, or BatchNorm, as ``norm`` says.

    BatchNorm is what most papers have. It keeps statistics of the batches of a client, which travel
    with its weights, and DP-SGD refuses it.

    >>> normalized(20, "group")  # doctest: +ELLIPSIS
    GroupNorm(4, 20, ...)
    """
    if norm == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    raise SettingError(f"models: norm must be group or batch, got {norm!r}")


def convolved(
    inputs: int,
    outputs: int,
    size: int,
    norm: Norm,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Return a convolution without bias, its normalization and its activation.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        size: The kernel's side, odd; images are padded to keep theirs.
        norm: The normalization.
        stride: By which the image's side is divided.
        groups: Groups of channels that do not see one another.
        activation: The activation's class; None for none.
    """
    convolution = nn.Conv2d(
        inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False
    )
    last = [] if activation is None else [activation()]
    return nn.Sequential(convolution, normalized(outputs, norm), *last)


def is_small(input_shape: tuple[int, int, int]) -> bool:
    """Return whether images are as small as CIFAR's, for which papers leave first strides out."""
    return min(input_shape[1:]) < 64
