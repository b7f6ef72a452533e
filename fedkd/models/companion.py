"""A companion: a second model at a client, with what the client puts between it and its own."""

from collections.abc import Mapping

from torch import Tensor, nn


class Companion(nn.Module):
    """A second model (``shared``), and modules of the client's own beside it (``beside``).

    The weights of ``shared`` may travel; those of ``beside``, such as a projection, never do.
    """

    def __init__(self, shared: nn.Module, beside: nn.Module | None = None) -> None:
        """Hold both."""
        super().__init__()
        self.shared = shared
        self.beside = nn.Identity() if beside is None else beside
        self.before: Mapping[str, Tensor] = {}
        """The floating point tensors of ``shared`` when training began; empty without any."""
