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


def cnn_512(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return the 4-layer network of HtFLlib and others: conv 32, pool, conv 64, pool, 512, classes.

    Its kernels are 5 x 5 without padding, so that 32 x 32 become 1,600 inputs of the first linear
    layer. Images below 16 x 16 are padded, so that they fit from 4 x 4.
    """
    channels, height, width = input_shape
    if min(height, width) < 4:
        raise SettingError(
            f"models: cnn_512 needs images of at least 4 x 4, these are {height} x {width}"
        )
    padding = 2 if min(height, width) < 16 else 0
    lost = 0 if padding else 3  # 4 pixels before the first pooling, and 4 before the second
    pixels = (height // 4 - lost) * (width // 4 - lost)
    return nn.Sequential(
        nn.Conv2d(channels, 32, kernel_size=5, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, kernel_size=5, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * pixels, 512),
        nn.ReLU(),
        nn.Linear(512, classes),
    )
