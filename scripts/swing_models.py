"""Language models of fifty thousand parameters for the study of swing, small enough for minutes on
two cores.
"""

from torch import nn

from fedkd.tasks.text.language_models import Decoder, Gru


def gru(vocabulary: int, context: int) -> nn.Module:
    """Return gated recurrent units, 96 wide."""
    return Gru(vocabulary, width=32, hidden=96, layers=1)


def decoder(vocabulary: int, context: int) -> nn.Module:
    """Return a transformer decoder of two layers, 48 wide."""
    return Decoder(vocabulary, context, width=48, heads=4, layers=2)
