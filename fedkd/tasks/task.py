"""What is learned: the one place where images with labels and text with next tokens differ.

A ``Task`` says how rows become what a model takes, what a batch costs, how a model answers on
public samples, and what is measured. Everything above it (rounds, strategies, kinds, codecs,
engines) sees rows of logits [N, C] and public ids. Not for: who has which rows
(``fedkd.data.division``), when anything is done (``fedkd.federation.client``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.models.factory import Factory, ModelInfo, ModelSpec
from fedkd.privacy.mechanisms import Detector, Hints

Examples = tuple[Tensor, Tensor]
"""Inputs and targets, a row of each for what one place in a batch stands for: an image and its
label, or a window of text and the next token at each of its positions."""


Compare = Callable[[Tensor, Tensor], Tensor]
"""A loss from logits [m, C] and which of the public samples they are of [m]."""


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on a test set: ``accuracy`` in [0, 1], ``nll`` in nats."""

    accuracy: float
    nll: float
    calibration: Callable[[], float]
    """Finds ``ece``, for which not everybody asks."""

    @property
    def ece(self) -> float:
        """The expected calibration error, in [0, 1]."""
        return self.calibration()


@runtime_checkable
class Asked(Protocol):
    """Public samples that somebody asked about, in the order of their ids: N rows of logits."""

    @property
    def size(self) -> int:
        """How many inputs hold them: what a batch is drawn from."""

    def answers(
        self, model: nn.Module, batch: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, "m C"], Int[Tensor, "m"]]:
        """Return the logits of a batch of inputs, and which of the N samples they are of. Gradients
        flow.
        """

    def taught_loss(
        self, model: nn.Module, batch: Int[Tensor, "b"], compare: Compare
    ) -> Float[Tensor, ""]:
        """Return what distilling a batch minimizes: ``compare`` of its answers, unless heads say
        otherwise.
        """

    def predict(self, model: nn.Module) -> Float[Tensor, "N C"]:
        """Return the logits of all samples in evaluation mode, without gradients."""

    def moved(self, stream: np.random.Generator) -> "Asked":
        """Return the samples, each moved a little, where samples can be."""


@runtime_checkable
class Task(Protocol):
    """What the clients of a run learn, on one machine. Safe to use from many threads."""

    @property
    def classes(self) -> int:
        """C."""

    @property
    def public_size(self) -> int:
        """N, all public samples of the run with their views."""

    @property
    def public_inputs(self) -> Tensor:
        """The inputs that hold the public set."""

    @property
    def public_labels(self) -> Int[Tensor, "N"]:
        """The labels of the public samples, -1 where the simulation does not know them."""

    @property
    def sendable(self) -> np.ndarray | None:
        """The public inputs for other processes of this machine; None where each makes its own."""

    def architecture(self, name: str, *, without_heads: bool = False) -> ModelSpec:
        """Return what models of a name are built from; ``plain`` leaves out further heads that
        clients have.
        """

    def probe(self, architecture: ModelSpec, *, features: bool) -> ModelInfo:
        """Build a model once, run a batch through it, and return its traits; SettingError where it
        does not fit.
        """

    def factory(self, name: str) -> Factory:
        """Return the function behind a model's name, whose code names what it makes."""

    def training_set(self, rows: np.ndarray, owners: Sequence[int]) -> Examples:
        """Return what clients train on: their ``rows``, with what else only the ``owners`` have."""

    def test_set(self, rows: np.ndarray) -> Examples:
        """Return rows to be measured on."""

    def public_set(self) -> Examples:
        """Return the public set as examples to train on."""

    def training_size(self, rows: np.ndarray, owners: Sequence[int]) -> int:
        """Return how many examples ``training_set`` has."""

    def label_counts(self, rows: np.ndarray, owners: Sequence[int]) -> tuple[int, ...]:
        """Return how often each of the C classes is a target in ``training_set``."""

    def logits(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Return all that the loss of a batch is made of, by example. Gradients flow."""

    def loss(self, logits: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        """Return the mean over a batch's examples of each one's loss in nats, which depends on no
        other example.
        """

    def training_loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        """Return what private training minimizes: ``loss`` of ``logits``, unless a model's heads
        say otherwise.
        """

    def evaluate(self, model: nn.Module, examples: Examples) -> Evaluation:
        """Return how good a model is on a test set."""

    def exposures(
        self, model: nn.Module, client_id: int, whose: Literal["own_model", "peers"]
    ) -> tuple[float, ...] | None:
        """Return the exposure in bits of a client's own secrets, or its peers', to its model, then
        of the controls.

        None where there are no secrets.
        """

    def hints(self, detector: Detector, ids: Int[Tensor, "N"]) -> Hints:
        """Return what a detector of private rows must know of public samples."""

    def judged(self, scores: Float[Tensor, "N"], ids: Int[Tensor, "N"]) -> Mapping[str, float]:
        """Return how well a detector's scores find what is private, where the simulation knows;
        else nothing.
        """

    def ask(self, ids: Int[Tensor, "N"] | None = None) -> Asked:
        """Return public samples by id; all of them by default."""
