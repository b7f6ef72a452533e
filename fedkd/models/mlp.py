"""A perceptron with one hidden layer of 128 units.

It has 101,770 parameters on 28 x 28 grey images of 10 classes.
"""

from torch import nn

HIDDEN = 128


def mlp(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a perceptron pixels-128-classes with ReLU, for images of any size."""
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * height * width, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, classes),
    )
