"""A convolutional network in the manner of LeNet-5 (LeCun et al. 1998), with ReLU and max pooling.

Both convolutions are padded, so that images down to 4 x 4 fit: 107,786 parameters on 28 x 28 grey,
10 classes.
"""

from torch import nn

from fedkd.errors import SettingError


def cnn(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a network conv 6, pool, conv 16, pool, 120, 84, classes; images from 4 x 4."""
    channels, height, width = input_shape
    if min(height, width) < 4:
        raise SettingError(
            f"models: cnn needs images of at least 4 x 4, these are {height} x {width}"
        )
    return nn.Sequential(
        nn.Conv2d(channels, 6, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * (height // 4) * (width // 4), 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )
