"""A perceptron with one hidden layer of 128 units.

It has 101,770 parameters on 28 x 28 grey images of 10 classes.
"""

import math

from torch import nn

HIDDEN = 128


def mlp(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a perceptron inputs-128-classes with ReLU, for inputs of any shape."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, classes),
    )
