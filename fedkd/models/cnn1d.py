"""A convolutional network over the steps of series, as ``cnn`` is over pixels.

12,458 parameters on 8 channels of length 8, 10 classes. GroupNorm, so that DP-SGD and batched
training may have it.
"""

from torch import nn

WIDTHS = (32, 64)


def cnn1d(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a network conv 32, conv 64, mean over steps, classes; series of any length."""
    channels, _ = input_shape
    layers: list[nn.Module] = []
    for inputs, outputs in zip((channels, *WIDTHS), WIDTHS, strict=False):
        layers += [
            nn.Conv1d(inputs, outputs, kernel_size=5, padding=2),
            nn.GroupNorm(8, outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], classes)
    )
