"""The seam between the protocol and what travels in it."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.messages import AcceptedUploads, Fusion, Knowledge, ServerModels, Upload
from fedkd.settings.conditions import Compatible, LearnedBy, RunConditions
from fedkd.settings.reply_limits import LIMITS
from fedkd.training.losses import Scale

Penalty = Callable[
    [Int[Tensor, "batch"], Float[Tensor, "batch *rows C"], Float[Tensor, "batch wide"] | None],
    Float[Tensor, ""],
]
"""A term of the private training's loss: from places among the private examples, their logits (of
text a row a token), and their features (None unless the kind ``uses_features``)."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SharedCompanion:
    """The second model of every client, its companion, as the server knows it."""

    start: Mapping[str, Tensor]
    """The state that all clients begin with."""
    features: int | None = None
    """The width of its features, where the strategy needs them."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of its state."""
        return {name: tuple(tensor.shape) for name, tensor in self.start.items()}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the server asked for this round, and so what it accepts.

    ``label_counts`` by client id, ``public_labels`` [N] and ``server`` are None unless the strategy
    declared that it needs them. ``architectures`` are by client id, of all clients. ``round_ids``
    are the round's public samples, where a strategy asked for fewer of them.
    """

    round: int
    classes: int
    public_ids: Int[Tensor, "N"]
    temperature: float
    train_sizes: Mapping[int, int]
    label_counts: Mapping[int, tuple[int, ...]] | None = None
    public_labels: Int[Tensor, "N"] | None = None
    round_ids: Int[Tensor, "M"] | None = None
    sequences: Int[Tensor, "N"] | None = None
    """Which sequence of public text each sample is a position of; None where samples are none."""
    architectures: tuple[str, ...] = ()
    server: ServerModels | None = None
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    """By architecture: the shapes of a model's state, where weights travel."""
    features: Mapping[str, int] = field(default_factory=dict)
    """By architecture: the width of a model's features, where the strategy needs them."""
    heads: Mapping[str, str] = field(default_factory=dict)
    """By architecture: the name of a model's last linear layer, where the strategy needs
    features."""
    companion: SharedCompanion | None = None
    """The clients' second model, where the strategy declares one."""
    taught: frozenset[int] = frozenset()
    """The clients for which there was a teacher when the round began, where a round begins with
    one."""

    def on(self, ids: Int[Tensor, "N"]) -> "Request":
        """Return what is asked of some samples, from what is known of all of them."""
        labels, sequences = self.public_labels, self.sequences
        return replace(
            self,
            public_ids=ids,
            public_labels=None if labels is None else labels[ids],
            sequences=None if sequences is None else sequences[ids],
        )


@dataclass(frozen=True, kw_only=True)
class SideRelease:
    """Something that leaves a client once beside its knowledge, with Gaussian noise.

    It depends on private records, any one of which moves it by at most ``sensitivity`` in L2;
    ``sigma`` is the noise's standard deviation. The ledger counts it as a side release.
    """

    sensitivity: float
    sigma: float


@dataclass(frozen=True, kw_only=True)
class Teachers:
    """Teachers of a fusion: ``personal`` by client id, or else ``common`` to all."""

    common: Knowledge | None = None
    personal: Mapping[int, Knowledge] = field(default_factory=dict)

    def of(self, client_id: int) -> Knowledge | None:
        """Return a client's teacher, or None where there is none for it."""
        return self.personal.get(client_id, self.common)


@runtime_checkable
class ClientView(Protocol):
    """A client as a kind of knowledge sees it: model, private set, requested public samples.

    Everything is computed once for a message, in evaluation mode and without gradients.
    """

    @property
    def client_id(self) -> int:
        """The client."""

    @property
    def round(self) -> int:
        """The round, from 1."""

    @property
    def classes(self) -> int:
        """C."""

    @property
    def temperature(self) -> float:
        """The distillation temperature."""

    @property
    def model(self) -> nn.Module:
        """The model. Only ``adopt`` changes it."""

    @property
    def head(self) -> str | None:
        """The name of its last linear layer; None where the strategy needs no features."""

    @property
    def teacher(self) -> Knowledge | None:
        """What came with the request: None where the server had nothing for this client."""

    @property
    def pair(self) -> object:
        """The model and its companion (``fedkd.knowledge.ModelPair``); None without one."""

    @property
    def beside(self) -> nn.Module | None:
        """The client's own modules beside its model (``ModularKnowledge.beside``), or None."""

    def public_ids(self) -> Int[Tensor, "N"]:
        """Return the public samples asked for."""

    def public_inputs(self) -> Tensor:
        """Return their inputs [N, channels, height, width]."""

    def all_public_inputs(self) -> Tensor:
        """Return the inputs of the whole public set."""

    def private_inputs(self) -> Tensor:
        """Return the inputs of the private training set [n, channels, height, width]."""

    def private_labels(self) -> Int[Tensor, "n"]:
        """Return the labels of the private training set."""

    def public_logits(self) -> Float[Tensor, "N C"]:
        """Return the model's logits on the public samples asked for, on the CPU."""

    def private_logits(self) -> Float[Tensor, "n C"]:
        """Return the model's logits on the private training set, on the CPU."""

    def private_features(self) -> Float[Tensor, "n d"]:
        """Return the model's features on the private training set, on the CPU.

        They are the input of its last linear layer.
        """

    def features_of(self, inputs: Tensor) -> Float[Tensor, "n d"]:
        """Return the model's features of inputs, on the CPU."""

    def public_features(self) -> Float[Tensor, "N d"]:
        """Return the model's features on the requested public samples, on the CPU.

        They are the input of its last linear layer.
        """

    def stream(self, purpose: str) -> np.random.Generator:
        """Return this client's random stream of this round for a purpose."""

    def lasting_stream(self, purpose: str) -> np.random.Generator:
        """Return this client's random stream for a purpose, the same in all rounds."""

    @property
    def memory(self) -> Mapping[str, Tensor]:
        """What the kind had the client remember (``KnowledgeType.remember``), by name."""

    @property
    def records(self) -> int:
        """How many private examples anybody may know that the client has."""

    def features_with_gradient(self, ids: Int[Tensor, "N"]) -> Float[Tensor, "N d"]:
        """Return the model's features of public samples as it is now; gradients flow."""

    def fitted(
        self, inputs: Tensor, labels: Int[Tensor, "n"], purpose: str, epochs: int
    ) -> Callable[[Tensor], Float[Tensor, "N C"]]:
        """Return the logits, on the CPU, of a fresh model of the client's architecture.

        It is trained on these samples as ``train`` says, without augmentation.

        Args:
            inputs: Samples, >= 1 of them.
            labels: Their labels.
            purpose: Names its random streams.
            epochs: Passes over the samples; an estimator is fitted once.
        """


@runtime_checkable
class KnowledgeType(Compatible, Protocol):
    """One kind of knowledge: a frozen value with the settings of its strategy that clients need.

    Derive from it. Client, server and codecs ask a kind for what it is through its properties,
    never for its class; their defaults are those of a kind that is not predictions.
    """

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with models that cannot learn from a teacher of this kind."""
        return conflict_with_estimators(self, conditions)

    @property
    @abstractmethod
    def learned_by(self) -> LearnedBy:
        """How clients learn from a teacher."""

    @property
    def in_words(self) -> str:
        """What clients send, after "clients send"."""
        return f"knowledge of the kind {type(self).__name__}"

    @property
    def asks_about_public(self) -> bool:
        """Whether clients are told a round's public samples; by default where they distil."""
        return self.learned_by == "distill"

    @property
    def predicts(self) -> bool:
        """Whether an upload is predictions on public samples (``fedkd.messages.Predictions``)."""
        return False

    @property
    def all_answer(self) -> bool:
        """Whether every client predicts on every public sample asked for."""
        return False

    @property
    def learn_alike(self) -> bool:
        """Whether all clients distil on the same public samples."""
        return self.all_answer

    @property
    def upload_scale(self) -> Scale | None:
        """What uploaded predictions are; None where no predictions are uploaded."""
        return None

    @property
    def reveals_model_only(self) -> bool:
        """Whether an upload depends on private data through the model alone.

        False also where the kind adds a term to the loss of private training. A kind of one's own
        that overrides it answers for it: a claim that rests on it names the class.
        """
        return False

    @property
    def sends_models(self) -> bool:
        """Whether uploads and teachers are whole models, by which anybody who has them predicts."""
        return False

    @property
    def predicts_alone(self) -> bool:
        """Whether clients predict by their model alone, so that its figures go with it."""
        return True

    def misfit(self, request: Request) -> str | None:
        """Return why the clients' models cannot exchange this kind; None if they can.

        Asked before the run, with what the server is to ask of its clients.
        """
        return None

    @property
    def vouches(self) -> type:
        """The class that says what uploads reveal (``reveals_model_only``)."""
        return type(self)

    @property
    def uploads_scores(self) -> bool:
        """Whether an upload has numbers beside the rows that a mechanism may add noise to."""
        return False

    def side_release(self, records: int) -> SideRelease | None:
        """Return what else leaves a client with noise, once in a run; None by default.

        ``records`` is the public size of its private set.
        """
        return None

    @property
    def remembers(self) -> bool:
        """Whether clients remember something of private training (``remember``)."""
        return False

    def remember(
        self, view: "ClientView", moment: Literal["before training", "after training"]
    ) -> Mapping[str, Tensor] | None:
        """Return what a client is to remember from now on; None leaves it as it is.

        Asked before and after each private training where the kind ``remembers``. The tensors are
        stored with the client's state, and are ``view.memory`` from then on.
        """
        return None

    @property
    def adds_penalty(self) -> bool:
        """Whether the kind adds a term to the loss of private training."""
        return self.learned_by == "train"

    def most_values(self, request: Request, client_id: int) -> int:
        """Return how many numbers a client's knowledge has at most.

        A message that says that it has more is not decoded.
        """
        return LIMITS.array_values

    @abstractmethod
    def extract(self, view: ClientView) -> Knowledge:
        """Return a client's knowledge."""

    @abstractmethod
    def encode(self, knowledge: Knowledge) -> dict[str, np.ndarray]:
        """Return the named arrays that travel."""

    @abstractmethod
    def decode(self, arrays: Mapping[str, np.ndarray]) -> Knowledge:
        """Return the knowledge that ``arrays`` encode.

        Raises:
            UploadRejected: The arrays are not of this kind.
        """

    @abstractmethod
    def check(self, knowledge: Knowledge, request: Request, client_id: int) -> None:
        """Raise UploadRejected unless this is what the server asked a client for."""

    @abstractmethod
    def stack(self, uploads: Sequence[Upload], request: Request) -> AcceptedUploads:
        """Return the cohort of accepted uploads, by client id: the argument of ``fuse``."""

    @abstractmethod
    def check_fusion(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> None:
        """Raise RunError unless a fusion's weights and teachers have the right shape and range.

        Args:
            fusion: What the strategy's ``fuse`` returned.
            client_ids: The cohort's clients.
            request: What the server asked for this round.
            scale: What the strategy declares that it teaches, ``probs`` or ``logits``.
        """

    @abstractmethod
    def teachers(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> Teachers:
        """Return each client's teacher from a checked fusion.

        Args:
            fusion: What the strategy's ``fuse`` returned.
            client_ids: The cohort's clients.
            request: What the server asked for this round.
            scale: What the strategy declares that it teaches, ``probs`` or ``logits``.
        """


def narrowed(knowledge: Knowledge, made_of: type[T]) -> T:
    """Return knowledge as the class that its kind makes; TypeError for anything else."""
    if not isinstance(knowledge, made_of):
        raise TypeError(f"expected a {made_of.__name__}, got a {type(knowledge).__name__}")
    return knowledge


def conflict_with_estimators(kind: KnowledgeType, conditions: RunConditions) -> str | None:
    """Return the conflict of a kind that is learned by weights or gradients with estimators."""
    if kind.learned_by == "distill":
        return None
    if kind.learned_by == "adopt":
        why = f"clients of strategy={conditions.strategy} take over weights"
    else:
        why = f"strategy={conditions.strategy} adds a term to the loss of private training"
    cure = "use a strategy that exchanges predictions on a public set, such as dsfl or knfu"
    return conditions.conflict_with_estimators(why, cure)


def conflict_without_classes(conditions: RunConditions, exchanged: str) -> str | None:
    """Return the conflict of a kind that speaks of classes with data whose targets are tokens.

    ``exchanged`` completes "it ...", such as "exchanges what images of a class have in common".
    """
    if conditions.has_classes:
        return None
    return (
        f"strategy={conditions.strategy} does not go with data={conditions.name_of('data')}: it"
        f" {exchanged}, and next tokens are no classes; use one whose clients predict on public"
        " samples, or exchange weights"
    )


@runtime_checkable
class RowKnowledge(KnowledgeType, Protocol):
    """A kind whose uploads can be fused one by one: each is a matrix of rows."""

    def values(self, knowledge: Knowledge) -> Float[Tensor, "N C"]:
        """Return accepted knowledge as rows [N, C] for a stream, equal to those of ``stack``."""


@runtime_checkable
class PenaltyKnowledge(KnowledgeType, Protocol):
    """A kind that takes part in the loss of private training."""

    @property
    def uses_features(self) -> bool:
        """Whether its penalty takes the features of a batch."""

    def penalty(self, view: ClientView, teacher: Knowledge | None) -> Penalty | None:
        """Return a term of the training loss; None without one, as in the first round."""


@runtime_checkable
class ModularKnowledge(KnowledgeType, Protocol):
    """A kind for which a client has modules of its own beside its model."""

    @abstractmethod
    def beside(self, own_width: int | None, companion_width: int | None) -> nn.Module:
        """Return new modules, ``view.beside`` from then on.

        They are trained with the model on private data, stored with the client, and never sent.
        Weights are drawn from the global generator. ``own_width`` is that of the model's features;
        there is no companion, so that ``companion_width`` is None.
        """


@runtime_checkable
class ClassifyingKnowledge(KnowledgeType, Protocol):
    """A kind by whose teachers clients can also predict, in place of their model's last layer."""

    def classify(self, view: ClientView, teacher: Knowledge, inputs: Tensor) -> Int[Tensor, "n"]:
        """Return the class that a teacher gives each input, -1 for none."""


@runtime_checkable
class AdoptedKnowledge(KnowledgeType, Protocol):
    """A kind whose teachers replace weights of a client."""

    def adopt(self, view: ClientView, teacher: Knowledge) -> None:
        """Make the teacher's weights the client's, in place."""


@runtime_checkable
class PredictorKnowledge(KnowledgeType, Protocol):
    """A kind by which clients may predict otherwise than by their model alone."""

    def predictor(self, view: ClientView, teacher: Knowledge | None) -> nn.Module | None:
        """Return what a client's accuracy is that of; None where it is its model's.

        It gives logits [n, C], as a model does, in evaluation mode.
        """
