"""What clients learn: the seam that images with labels and texts with next tokens are behind.

A ``Task`` turns rows of a data set into model inputs, predicts on public samples, and evaluates.
Rounds, strategies, kinds, codecs and engines see rows of logits [N, C] and public ids alone. A data
set names its task (``fedkd.tasks.find_task``). Not for: which client has which rows
(``fedkd.data.division``), when anything is done (``fedkd.federation.client``).
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.data.division import Division, Public
from fedkd.data.prepare import Labeled
from fedkd.data.public import PublicSource
from fedkd.errors import SettingError
from fedkd.fusion import soften
from fedkd.models.adapters import Adapters, NoAdapters
from fedkd.models.factory import Factory, ModelInfo, ModelSpec, find_factory
from fedkd.models.heads import Heads, label_logits
from fedkd.privacy.mechanisms import Detector, Hints
from fedkd.settings.conditions import RunConditions
from fedkd.settings.measuring_points import MeasuringPoint
from fedkd.settings.metric_names import MetricName
from fedkd.training.class_metrics import class_metric
from fedkd.training.hyperparameters import Phase
from fedkd.training.loop import accuracy, predict
from fedkd.training.metrics import (
    expected_calibration_error,
    negative_log_likelihood,
    quality_in_one_read,
)

Examples = tuple[Tensor, Tensor]
"""Inputs and targets, a row of each for one example of a batch: an image and its label, or a window
of text and the next token at each of its positions."""


Compare = Callable[[Tensor, Tensor], Tensor]
"""A loss from logits [m, C] and the indices [m] of the public samples that they are of."""


@dataclass(frozen=True)
class Evaluation:
    """Quality of a model on a test set: ``accuracy`` in [0, 1], ``nll`` in nats."""

    accuracy: float
    nll: float
    calibration: Callable[[], float]
    """Computes ``ece``, only when it is asked for."""
    predictions: Callable[[], Examples] | None = None
    """Returns probabilities [n, C] and labels [n], for metrics that are asked for; None where a
    task of one's own has none."""

    @property
    def ece(self) -> float:
        """The expected calibration error, in [0, 1]."""
        return self.calibration()

    def metrics(self, names: Sequence[MetricName]) -> dict[MetricName, float]:
        """Return further metrics, without those that are not defined on this test set."""
        if not names:
            return {}
        if self.predictions is None:
            raise SettingError(f"metrics=[{','.join(names)}]: this task measures accuracy alone")
        probs, labels = self.predictions()
        found = {name: class_metric(name, probs, labels) for name in names}
        return {name: value for name, value in found.items() if value is not None}


def evaluation_of(
    logits: Float[Tensor, "n C"], labels: Int[Tensor, "n"], found: tuple[float, float, float]
) -> Evaluation:
    """Return the quality of logits on a device, from their accuracy, likelihood and calibration."""
    right, surprisal, error = found
    return Evaluation(right, surprisal, lambda: error, lambda: (soften(logits), labels))


@dataclass(frozen=True, kw_only=True)
class TaskSetup:
    """The data and settings that a task is made of."""

    prepared: Labeled
    """The data set as it was loaded: public samples and normalization are made of it."""
    trained_on: Labeled
    """The data set with what an audit planted: private samples are its rows."""
    division: Division
    """Which client has which rows."""
    public: Public
    """The settings of the public set."""
    public_source: PublicSource
    """Where public samples come from that are not of the clients' own data set."""
    heads: Heads
    """What is put on every client's model."""
    preprocessing: Any
    """The section ``preprocessing``, for tasks of tables and series."""
    tokens: Any
    """The section ``tokens``, for tasks of text."""
    text_canaries: Any
    """The component ``text_canaries``, for tasks of text."""
    reference: tuple[str, Phase]
    """The first client's model, and how long one trains it in a whole run."""
    seed: int
    device: torch.device
    adapters: Adapters = field(default_factory=NoAdapters)
    """What of every client's model is trained and kept."""
    models: tuple[str, ...] = ()
    """The names of all clients' models, each once."""
    separates_records: bool = False
    """Whether a training example may hold the data of one record alone."""
    public_inputs: Tensor | None = None
    """The public set as model inputs, where another process of the machine has made it."""


@runtime_checkable
class PlantedSecrets(Protocol):
    """Made-up secrets in private texts, and how far they come out of a model."""

    @property
    def ceiling(self) -> float:
        """The largest exposure that can be measured, in bits."""

    @property
    def chance(self) -> float:
        """The mean exposure of a secret that the model knows nothing of, in bits."""

    @property
    def references(self) -> int | None:
        """How many others were drawn to rank a secret among; None where all are known."""

    @property
    def student(self) -> str | None:
        """The architecture of the server's students; None is the first client's."""

    @property
    def upload_history(self) -> bool:
        """Whether an adversary is measured that keeps a client's uploads of all rounds."""

    @property
    def inserted(self) -> Sequence[Any]:
        """All clients' secrets."""

    @property
    def controls(self) -> Sequence[Any]:
        """Secrets that no client holds."""

    def of(self, client_id: int) -> Sequence[Any]:
        """Return a client's secrets."""

    def exposures(
        self, model: nn.Module, groups: Sequence[Sequence[Any]]
    ) -> tuple[tuple[float, ...], ...]:
        """Return the exposure in bits of each secret of several groups to one model."""


@runtime_checkable
class Asked(Protocol):
    """Public samples of a request, in the order of their ids: N rows of logits.

    A class that looks up on the host what a batch holds has an attribute ``batches_on``.
    """

    @property
    def size(self) -> int:
        """The number of inputs that hold them: a batch is drawn from these."""

    def answers(
        self, model: nn.Module, batch: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, "m C"], Int[Tensor, "m"]]:
        """Return the logits of a batch of inputs, and the indices of their samples among the N.

        Gradients flow.
        """

    def taught_loss(
        self, model: nn.Module, batch: Int[Tensor, "b"], compare: Compare
    ) -> Float[Tensor, ""]:
        """Return the distillation loss of a batch: ``compare`` of its answers, or that of heads."""

    def predict(self, model: nn.Module) -> Float[Tensor, "N C"]:
        """Return the logits of all samples in evaluation mode, without gradients."""

    def moved(self, stream: np.random.Generator) -> "Asked":
        """Return the samples, each shifted at random, where samples can be."""


def batch_device(asked: Asked) -> torch.device | None:
    """Return where the indices of batches of a request are to be; None is the model's device."""
    found: torch.device | None = getattr(asked, "batches_on", None)
    return found


@runtime_checkable
class Task(Protocol):
    """What the clients of a run learn, on one machine. Derive from it. Safe to use from threads.

    The class answers for its data before any are loaded (``data_kind`` to ``make``), an instance is
    the task of one run.
    """

    data_kind: ClassVar[str] = "rows"
    """What private samples are: ``images``, ``texts``, ``labeled texts``, or a task's own word."""
    examples: ClassVar[str] = "samples"
    """What one row of a training batch is called, in the plural."""
    dealt: ClassVar[str] = "samples"
    """What a partition deals to clients, in the plural."""
    has_classes: ClassVar[bool] = True
    """Whether targets are classes of private samples, rather than tokens of a vocabulary."""
    record: ClassVar[str] = "record"
    """What one row that a partition deals is called, where it makes several training examples."""
    augmentations: ClassVar[tuple[str, ...]] = ()
    """The values of ``train.augment`` that ``augmented`` knows, beside ``none``."""
    takes_heads: ClassVar[bool] = False
    """Whether further heads can be put on its models."""
    audits_records: ClassVar[bool] = False
    """Whether an audit can plant and attack its rows as records with a label."""
    has_reference: ClassVar[bool] = False
    """Whether there are soft labels of a model that learned public data alone, to compare with."""

    @classmethod
    def conflict(cls, conditions: RunConditions) -> str | None:
        """Return why such a run cannot have this task; None if it can."""
        return None

    @classmethod
    def factory(cls, name: str) -> Factory:
        """Return the function behind a model's name; SettingError for an unknown one."""
        return find_factory(name)

    @classmethod
    @abstractmethod
    def make(cls, setup: TaskSetup) -> "Task":
        """Return the task of a run; SettingError where the settings do not fit the data."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """C."""

    @property
    def public_size(self) -> int:
        """N, all public samples of the run with their views."""
        return len(self.public_labels)

    @property
    @abstractmethod
    def public_inputs(self) -> Tensor:
        """The inputs that hold the public set."""

    @property
    @abstractmethod
    def public_labels(self) -> Int[Tensor, "N"]:
        """The labels of the public samples, -1 where the simulation does not know them."""

    @property
    def public_sequences(self) -> Int[Tensor, "N"] | None:
        """Which sequence each public sample is a part of; None where each is a sample by itself."""
        return None

    @property
    def sendable(self) -> np.ndarray | None:
        """The public inputs for other processes of this machine; None where each makes its own."""
        return None

    @property
    def planted(self) -> PlantedSecrets | None:
        """The made-up secrets in private samples; None where there are none."""
        return None

    def for_client(self, client_id: int) -> "Task":
        """Return the task as a client sees it: with its own inputs for the same public ids.

        By default the task itself: all clients see the same.
        """
        return self

    def describe(self, public: Public, source: str) -> str:
        """Return the public set in words; ``source`` is the name chosen as ``public_data``."""
        return f"{self.public_size} samples"

    def preprocessing(self) -> Mapping[str, object]:
        """Return what turns raw samples into a model's inputs, as plain values; by default {}."""
        return {}

    @abstractmethod
    def architecture(self, name: str, *, without_heads: bool = False) -> ModelSpec:
        """Return the specification of models of a name; further heads are left out on request."""

    def probe(self, architecture: ModelSpec, *, features: bool) -> ModelInfo:
        """Return what a trial of a model shows; SettingError where it does not fit the task."""
        return architecture.probe(features=features)

    def reason_unbatched(self) -> str | None:
        """Return why no clients can be trained in one batched call; None if some can."""
        return "only image models are trained together"

    @abstractmethod
    def training_set(self, rows: np.ndarray, owners: Sequence[int]) -> Examples:
        """Return the training examples of ``rows``, with what only their ``owners`` have."""

    def test_set(self, rows: np.ndarray) -> Examples:
        """Return rows as examples to evaluate on."""
        return self.training_set(rows, ())

    def public_set(self) -> Examples:
        """Return the public set as examples to train on."""
        return self.public_inputs, self.public_labels

    def training_size(self, rows: np.ndarray, owners: Sequence[int]) -> int:
        """Return the number of examples in ``training_set``."""
        return len(self.training_set(rows, owners)[0])

    def group_size(self, rows: np.ndarray, owners: Sequence[int]) -> tuple[int, bool]:
        """Return the most examples in ``training_set`` that hold data of one row; by default 1.

        With it comes whether a setting bounds them, so that the number does not depend on data.
        Asked where a mechanism hides single records (``TaskSetup.separates_records``).
        """
        return 1, False

    def label_counts(self, rows: np.ndarray, owners: Sequence[int]) -> tuple[int, ...]:
        """Return how often each of the C classes is a target in ``training_set``."""
        targets = self.training_set(rows, owners)[1]
        return tuple(torch.bincount(targets, minlength=self.classes).tolist())

    def logits(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Return the outputs that the loss of a batch is made of, by example. Gradients flow.

        By default the logits [b, C] of a batch, with those of further heads that learn from labels.
        """
        return label_logits(model, inputs)

    def loss(self, logits: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        """Return the mean over examples of the loss in nats; each depends on no other example.

        By default the cross-entropy with classes.
        """
        return F.cross_entropy(logits, targets)

    def augmented(self, inputs: Tensor, how: str, stream: np.random.Generator) -> Tensor:
        """Return the inputs of a training batch as a model is to see them this time.

        ``how`` is one of ``augmentations``, of which there are none by default.
        """
        return inputs

    def training_loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        """Return the loss of private training: ``loss`` of ``logits``, or that of heads."""
        return self.loss(self.logits(model, inputs), targets)

    def evaluate(self, model: nn.Module, examples: Examples) -> Evaluation:
        """Return a model's quality on a test set; by default of one class an example."""
        inputs, labels = examples
        logits = predict(model, inputs)
        if logits.device.type != "cpu":
            return evaluation_of(logits, labels, quality_in_one_read(logits, labels))
        probs = soften(logits)
        calibration = partial(expected_calibration_error, probs, labels)
        right, surprisal = accuracy(logits, labels), negative_log_likelihood(probs, labels)
        return Evaluation(right, surprisal, calibration, lambda: (probs, labels))

    def exposures(
        self, model: nn.Module, client_id: int, whose: Literal["own_model", "peers"]
    ) -> tuple[float, ...] | None:
        """Return the exposures in bits of a client's secrets, or its peers', to a model.

        Those of the controls follow. None without secrets.
        """
        return None

    def hints(self, detector: Detector, ids: Int[Tensor, "N"]) -> Hints:
        """Return the facts on public samples that a detector of private rows needs."""
        return Hints()

    def judged(self, scores: Float[Tensor, "N"], ids: Int[Tensor, "N"]) -> Mapping[str, float]:
        """Return how well a detector finds private rows, where the simulation knows them."""
        return {}

    def summary(self, last: Mapping[str, Any], after: MeasuringPoint) -> Mapping[str, Any]:
        """Return further entries of a run's summary, from the figures of its last round.

        ``after`` is the point of the round that the run reports first.
        """
        return {}

    @abstractmethod
    def ask(self, ids: Int[Tensor, "N"] | None = None) -> Asked:
        """Return public samples by id; all of them by default."""
