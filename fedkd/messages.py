"""What travels: frozen values with their shapes stated.

Nothing here knows how a value is encoded (``fedkd.flower.records``) or checked
(``fedkd.knowledge``). K clients, N public samples, C classes. Tensors are CPU tensors; nobody
writes into them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fedkd.codecs.size import coded_bytes, raw_bytes
from fedkd.fusion import soften
from fedkd.runtime.parallel import map_chunks
from fedkd.settings.measuring_points import MeasuringPoint
from fedkd.training.losses import Scale

Step = Literal[
    "pretrain",
    "warm_up",
    "distill",
    "adopt",
    "train",
    "evaluate_distilled",
    "evaluate_trained",
    "inspect",
    "share",
]
"""The steps of a client's part of a round. Before its first round a client may ``pretrain`` on the
labels of the public set and ``warm_up`` on its private ones. ``distill`` learns from a teacher on
the public set,
``adopt`` takes over weights, ``train`` learns private labels (some kinds add a term for a teacher
to its loss), ``evaluate_...`` measures the model at one of the round's two points, ``inspect`` what
else the researcher asks for at the end of a round, ``share`` makes the knowledge to upload."""
EVALUATES: Mapping[MeasuringPoint, Step] = {
    "distillation": "evaluate_distilled",
    "training": "evaluate_trained",
}
Status = Literal["ok", "rejected", "failed", "absent"]


Knowledge = object
"""A client's knowledge, or a teacher: ``Predictions``, or the values of another kind of knowledge.

None where there is none. Only its kind (``fedkd.knowledge``) looks inside: it narrows what it gets
to the class that it makes (``fedkd.knowledge.narrowed``)."""


StrategyState = object
"""A strategy's memory from round to round: None at first. Only the strategy looks inside."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions on public samples: a row of ``values`` [N, C] for each of the ``ids`` [N].

    An upload may have ``scores`` [S] beside them, a teacher ``weights`` [N] of its samples.
    Shapes are not enforced here: what comes from a client is checked, and rejected, by its kind of
    knowledge.
    """

    ids: Tensor
    values: Tensor
    scale: Scale
    scores: Tensor | None = None
    weights: Tensor | None = None


@dataclass(frozen=True)
class MessageSize:
    """Bytes of arrays: as they travel, and under an ideal entropy coder."""

    bytes: int = 0
    entropy_bytes: float = 0.0

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "MessageSize":
        """Return the size of named arrays."""
        return cls(raw_bytes(arrays), coded_bytes(arrays))

    def __add__(self, other: "MessageSize") -> "MessageSize":
        return MessageSize(self.bytes + other.bytes, self.entropy_bytes + other.entropy_bytes)


@dataclass(frozen=True, eq=False)
class Packed:
    """Knowledge as the named arrays that travel: its kind reads them, after the codec if any.

    Two of them are equal if they are the same object.
    """

    arrays: Mapping[str, np.ndarray] = field(repr=False)

    @cached_property
    def size(self) -> MessageSize:
        """The arrays' size, found once however many clients they are sent to."""
        return MessageSize.of(self.arrays)


@dataclass(frozen=True, kw_only=True)
class PrivacyEvent:
    """The protection of one release, and whether anything may be claimed for it.

    No upload exists without one. ``claims`` False means that no guarantee is given, for the stated
    reason. ``spent`` are the spendings for the ledger, as JSON (``fedkd.privacy.ledger.Spending``).
    Spendings on a model and on uploads are stated whole each time, so that a message that is lost
    loses none; all others are of this release alone.
    """

    mechanism: str
    claims: bool
    reason: str
    spent: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClientCard:
    """A client's description of itself, sent once before the first round.

    ``train_size`` is how many examples it trains on; where a mechanism claims something, its public
    size, which counts the candidates that an audit left out. ``label_counts`` are None unless the
    strategy needs them.
    """

    client_id: int
    architecture: str
    parameters: int
    train_size: int
    label_counts: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Download:
    """Server to client: the steps to take, one after the other, and their inputs.

    ``public_ids`` are the public samples to predict on; ``teacher`` is None where there is none to
    learn from. ``start_over`` asks for an upload that builds on no earlier one: the server has lost
    those.
    """

    round: int
    steps: tuple[Step, ...]
    public_ids: Int[Tensor, "N"] | None = None
    teacher: Knowledge = None
    start_over: bool = False

    def request_arrays(self) -> dict[str, np.ndarray]:
        """Return the public ids as the array that travels; empty where none are asked about.

        They are int32: public sets have fewer than 2^31 rows.
        """
        return {} if self.public_ids is None else {"ids": self.public_ids.numpy().astype(np.int32)}


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Client to server: knowledge with its privacy event, and measurements for the record.

    ``metrics`` (accuracies, losses, seconds) and ``exposures`` are for the researcher's record.
    They are no part of the protocol and of no privacy claim. A client that keeps them
    (``report.client_metrics``) sends its seconds alone.
    """

    client_id: int
    round: int
    metrics: Mapping[str, float | tuple[float, ...]]
    privacy: PrivacyEvent | None = None
    knowledge: Knowledge = None
    declined: str = ""
    """Why the client did not take part, as when its privacy budget is spent; empty where it did.
    A client that declines sends no knowledge, and spends nothing."""
    exposures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Exposures in bits of the secrets that the client looked for in its model, those of control
    secrets last, by adversary: ``own_model`` or ``peers``."""

    @property
    def has_declined(self) -> bool:
        """Whether the client declined, and kept to it by sending no knowledge."""
        return bool(self.declined) and self.knowledge is None


@runtime_checkable
class ServerModels(Protocol):
    """Models of the server's own, for strategies that declare them. Their states are named tensors.

    A strategy carries such a state in ``Fusion.state``. Random streams are derived from the round
    and ``purpose``.
    """

    @property
    def architectures(self) -> tuple[str, ...]:
        """Every client's architecture, by client id."""

    def initial(self, architecture: str) -> Mapping[str, Tensor]:
        """Return the state of a fresh model, the same in every round."""

    def predict(
        self, architecture: str, state: Mapping[str, Tensor], ids: Int[Tensor, "N"] | None = None
    ) -> Float[Tensor, "N C"]:
        """Return a model's logits on public samples; on all of them by default."""

    def distill(
        self,
        architecture: str,
        state: Mapping[str, Tensor],
        teacher: Predictions,
        *,
        loss: str,
        purpose: str,
        round: int,
        epochs: int,
    ) -> Mapping[str, Tensor]:
        """Return the state after distilling a teacher, stepping as the setting ``distill`` says.

        Args:
            architecture: The model's architecture.
            state: Its state before.
            teacher: Predictions on public samples.
            loss: Name of the distillation loss.
            purpose: Names the random streams.
            round: The round.
            epochs: Passes over the teacher's samples.
        """

    def fit(
        self,
        architecture: str,
        state: Mapping[str, Tensor],
        ids: Int[Tensor, "N"],
        labels: Int[Tensor, "N"],
        *,
        purpose: str,
        round: int,
        epochs: int,
    ) -> Mapping[str, Tensor]:
        """Return the state after training on public labels, stepping as ``distill`` says.

        Args:
            architecture: The model's architecture.
            state: Its state before.
            ids: The public samples [N].
            labels: Their labels [N].
            purpose: Names the random streams.
            round: The round.
            epochs: Passes over the samples.
        """

    def accuracy(self, architecture: str, state: Mapping[str, Tensor]) -> float:
        """Return a model's accuracy on the balanced test set, as a measurement for the record."""

    def measured(self, model: nn.Module) -> float:
        """Return the same of any module that gives logits, such as an ensemble."""

    def module(self, architecture: str, state: Mapping[str, Tensor]) -> nn.Module:
        """Return a new module with a state, through which gradients can flow."""

    def example(self, architecture: str) -> Tensor:
        """Return one input of an architecture, for its shape and type."""


@dataclass(frozen=True, kw_only=True)
class AcceptedUploads:
    """The accepted uploads of one round, by client id; each kind of knowledge adds its own."""

    round: int
    client_ids: tuple[int, ...]
    train_sizes: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """K, the number of clients whose uploads were accepted."""
        return len(self.client_ids)


def _times_written(values: Tensor) -> int:
    """Return how often a tensor was written into, as torch counts; 0 where it does not."""
    return 0 if values.is_inference() else values._version


@dataclass(frozen=True, kw_only=True)
class Cohort(AcceptedUploads):
    """The accepted predictions of one round, stacked by client id: what most strategies fuse.

    ``values`` [K, N, C] are what the clients uploaded, on ``scale``. ``probs`` are soft labels at
    the scenario's distillation temperature, ``probs_at(T)`` at any other. ``label_counts`` [K, C],
    ``public_labels`` [N] and ``server`` are None unless the strategy declares that it needs them.
    ``answered`` [K, N] is None where every client predicts on every sample; else it says who did,
    and rows that are missing are zeros, which mean nothing. ``scores`` [K, S] are None unless the
    strategy's kind has a scorer (``fedkd.knowledge.Scorer``). ``round_ids`` are the round's public
    samples where the strategy asked for fewer (``strategy.SelectsQueries``). ``sequences`` [N] says
    which window of public text a sample is a position of; it is None where samples are no text.
    """

    public_ids: Int[Tensor, "N"]
    values: Float[Tensor, "K N C"]
    scale: Scale = "logits"
    temperature: float = 1.0
    label_counts: Float[Tensor, "K C"] | None = None
    public_labels: Int[Tensor, "N"] | None = None
    answered: Bool[Tensor, "K N"] | None = None
    scores: Float[Tensor, "K S"] | None = None
    round_ids: Int[Tensor, "M"] | None = None
    sequences: Int[Tensor, "N"] | None = None
    architectures: tuple[str, ...] = ()
    server: ServerModels | None = None

    @property
    def logits(self) -> Float[Tensor, "K N C"]:
        """The uploaded logits; TypeError where the clients uploaded soft labels."""
        if self.scale != "logits":
            raise TypeError(
                "the clients uploaded soft labels; declare knowledge = 'logits' to fuse logits"
            )
        return self.values

    @cached_property
    def probs(self) -> Float[Tensor, "K N C"]:
        """Soft labels at the distillation temperature."""
        if self.scale != "logits":
            return self.values
        probs = self._softened(self.temperature)
        self.__dict__["_made_at"] = _times_written(probs)
        return probs

    def marked(self) -> int:
        """Return a mark of the uploads as they are, for ``written_into``."""
        return _times_written(self.values)

    def written_into(self, mark: int) -> str:
        """Return the name of a tensor that was written into since ``mark``; empty for none."""
        if _times_written(self.values) != mark:
            return "values"
        made_at: int | None = self.__dict__.get("_made_at")
        return "probs" if made_at is not None and _times_written(self.probs) != made_at else ""

    def probs_at(self, temperature: float) -> Float[Tensor, "K N C"]:
        """Return soft labels at a temperature; uploaded soft labels as they came, at any."""
        if self.scale == "probs":
            return self.values
        # The usual temperature is softened once.
        return self.probs if temperature == self.temperature else self._softened(temperature)

    def _softened(self, temperature: float) -> Float[Tensor, "K N C"]:
        probs = torch.empty_like(self.values)

        def compute(part: slice) -> None:
            # A client at a time, which takes little memory.
            for values, softened in zip(self.values[part], probs[part], strict=True):
                soften(values, temperature, out=softened)

        map_chunks(compute, len(probs))
        return probs


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """A strategy's result for a round: teachers, and how much each client teaches each other one.

    ``weights[i, j]`` [K, K] is how much client j teaches client i. ``teachers`` [K, N, C] are
    personal, [N, C] common, on the strategy's ``teaches`` scale; kinds of knowledge other than
    predictions say what theirs are. ``state`` comes back with the next round's cohort: tensors,
    numbers and text in dictionaries, lists and tuples. ``taught_rows`` [N] or [K, N] says which
    rows are taught at all; None teaches all. ``sample_weights`` [N] say how much each row counts in
    the loss, which they multiply; None is 1. ``public_ids`` [N] are the teachers' public samples
    where they are not the cohort's. ``metrics`` are recorded with the round. The kind of knowledge
    checks the shapes.
    """

    weights: Tensor
    teachers: object
    state: StrategyState = None
    taught_rows: Tensor | None = None
    sample_weights: Tensor | None = None
    public_ids: Tensor | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
