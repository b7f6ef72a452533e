"""The seam of models that are fitted to rows as a whole, where others are trained by gradients.

Generic code asks a model for it (``FitsItself``) and never for its class. Not for: which rows a
client has been taught (``fedkd.federation.fit_data``), the libraries behind such models
(``fedkd.models.estimators``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FitData:
    """Everything that a model is to be fitted to, on the CPU."""

    inputs: Float[Tensor, "n *shape"]
    """Samples with labels; perhaps none."""
    labels: Int[Tensor, "n"]
    """Their labels; each counts 1."""
    taught_inputs: Float[Tensor, "N *shape"]
    """Public samples with a teacher's soft labels; perhaps none."""
    probs: Float[Tensor, "N C"]
    """The soft labels."""
    weights: Float[Tensor, "N"]
    """How much each public sample counts beside the others; of mean 1 where all count."""
    taught_weight: float
    """What all public samples with soft labels count together, as a multiple of all samples with
    labels. Without the latter the former count 1 each."""


@dataclass(frozen=True)
class Exported:
    """A fitted model in files that its own library reads, and Python that loads them."""

    imports: str
    """Lines that import what ``loads`` needs."""
    loads: str
    """An expression of the loaded estimator; ``HERE`` is the folder."""
    classes: tuple[int, ...]
    """The classes of the columns of its ``predict_proba``."""


@runtime_checkable
class FitsItself(Protocol):
    """A module without gradients, whose state is what it was taught. Derive from nn.Module too."""

    def learn(self, data: Callable[[], FitData] | None, seed: int) -> None:
        """Take what the model is fitted to in place of what it was before; None is nothing yet.

        It is fitted when it is first asked for a prediction. ``seed`` and data alone decide on
        its predictions, to the bit.
        """

    def fit(self) -> None:
        """Fit the model now. Raises FitFailed where its library cannot."""

    def write(self, folder: Path) -> Exported:
        """Write the fitted model into a folder; SettingError where that cannot be done."""


def empty_fit_data(input_shape: Sequence[int], classes: int) -> FitData:
    """Return no data, on inputs of a shape, to fill in from."""
    return FitData(
        inputs=torch.zeros(0, *input_shape),
        labels=torch.zeros(0, dtype=torch.int64),
        taught_inputs=torch.zeros(0, *input_shape),
        probs=torch.zeros(0, classes),
        weights=torch.zeros(0),
        taught_weight=1.0,
    )
