"""Data, models, settings and states that a run's clients share on one machine."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.codecs import Codecs
from fedkd.data.client_shifts import InputNoise
from fedkd.data.division import Division
from fedkd.data.prepare import Labeled
from fedkd.federation.batching import Batching
from fedkd.federation.companion_plan import CompanionPlan
from fedkd.federation.fit_data import FITTED_TO, teach
from fedkd.federation.measurement import Measurement
from fedkd.federation.step_graphs import StepGraphs
from fedkd.knowledge import KnowledgeType
from fedkd.messages import Download, Predictions, Step
from fedkd.models.companion import Companion
from fedkd.models.factory import ModelInfo, ModelSpec
from fedkd.privacy.enforcement import PrivacyEnforcer
from fedkd.runtime.devices import copy_into, sent
from fedkd.runtime.seeding import torch_seed
from fedkd.settings.measuring_points import MeasuringPoint
from fedkd.storage.client_states import ClientState, ClientStore
from fedkd.storage.start_states import StartStates
from fedkd.strategy import Needs
from fedkd.tasks.task import Examples, Task
from fedkd.training.hyperparameters import DistillationSettings, TrainingSettings
from fedkd.training.metrics import teacher_quality
from fedkd.training.precision import Precision, in_precision

T = TypeVar("T")

OPTIMIZER = "optimizer of "
"""How the names of optimizer tensors begin in a client's state: ``optimizer of
train/0/exp_avg``."""
CODEC = "codec "
"""How the names begin of what codecs remember: ``codec up/probs``, ``codec down/probs``."""
PRIVACY = "privacy "
"""How the names begin of what the privacy mechanism remembers: ``privacy steps``, ``privacy answers
ids``."""
COMPANION = "companion "
"""How the names begin of a client's second model: ``companion shared.0.weight``."""
REMEMBERED = "knowledge "
"""How the names begin of what a kind of knowledge has a client remember: ``knowledge before``."""
MEMORY = (OPTIMIZER, CODEC, PRIVACY, FITTED_TO, COMPANION, REMEMBERED)
"""How the names begin of what a client remembers apart from its model."""

SMALL_TEACHER = 2**20
"""Values of a teacher up to which the host says how right it is, for whom no device is waited, and
what students learn from is kept for the next client."""
Quality3 = tuple[float, float, float]
"""Accuracy, negative log likelihood and expected calibration error of a model on a test set."""
Quality = Mapping[str, float | tuple[float, ...]]


@dataclass(frozen=True)
class PrecomputedUpdate:
    """The result of a client's training steps that were done ahead of its message."""

    state: ClientState
    metrics: Mapping[str, float]
    seconds: float
    distilled: ClientState | None = None
    """The weights after distillation, where they are measured before private training."""
    quality: Mapping[tuple[str, MeasuringPoint], Quality3] = field(default_factory=dict)
    """Figures on test sets, ``private`` and ``global``, by the point of the round."""
    logits: Tensor | None = None
    """The logits on the public samples asked about, on the CPU."""


class ClientWorkspace:
    """What changes while clients of a context work: modules, updates done ahead, a judged teacher.

    Each thread has a module of each architecture, whose weights its clients take turns in. Nothing
    here changes a figure.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._precomputed: dict[tuple[int, int, tuple[Step, ...]], PrecomputedUpdate] = {}
        self._threads = threading.local()
        self.step_graphs = StepGraphs()

    def put(self, client_id: int, download: Download, update: PrecomputedUpdate) -> None:
        """Hold an update that was done ahead, until the client's message takes it."""
        self._precomputed[client_id, download.round, download.steps] = update

    def take(self, client_id: int, download: Download) -> PrecomputedUpdate | None:
        """Return and forget the update that was done ahead of a message, if there is one."""
        return self._precomputed.pop((client_id, download.round, download.steps), None)

    def module(self, name: str, build: Callable[[], nn.Module]) -> nn.Module:
        """Return this thread's module of an architecture, built when it is first asked for."""
        modules: dict[str, nn.Module] = self._threads.__dict__.setdefault("modules", {})
        if name not in modules:
            modules[name] = build()
        return modules[name]

    def once(self, what: str, teacher: Predictions, make: Callable[[], T]) -> T:
        """Return what is made of a teacher, once where clients in a row have the same teacher.

        Args:
            what: Its name.
            teacher: The teacher.
            make: Makes it.
        """
        made: dict[str, tuple[Predictions, T]] = self._threads.__dict__.setdefault("made", {})
        if what not in made or not _same(made[what][0], teacher):
            made[what] = (teacher, make())
        return made[what][1]


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a model weights by name; on a device all in one call."""
    first = next(model.parameters(), None)
    if first is not None and first.device.type != "cpu":
        own = model.state_dict()
        if own.keys() == weights.keys():
            copy_into(own, weights)
            return
    model.load_state_dict(weights)


def memory_of(state: ClientState) -> ClientState:
    """Return what is stored of a client beside its model."""
    return {name: tensor for name, tensor in state.items() if name.startswith(MEMORY)}


def _same(one: Predictions, other: Predictions) -> bool:
    return (
        one.scale == other.scale
        and torch.equal(one.ids, other.ids)
        and torch.equal(one.values, other.values)
    )


@dataclass(frozen=True, kw_only=True)
class ClientContext:
    """Data, models and settings that a run's clients share on one machine.

    Safe to use from many threads.
    """

    prepared: Labeled
    division: Division
    public_sizes: tuple[int, ...]
    """By client: how many examples anybody may know it to train on. Those that an audit's coins
    left out count too."""
    task: Task
    """What is learned, and what rows are as model inputs."""
    architectures: tuple[ModelSpec, ...]
    """By client id."""
    traits: Mapping[str, ModelInfo]
    """By the architecture's name."""
    training: TrainingSettings
    distillation: DistillationSettings
    loss: str
    kind: KnowledgeType | None
    """None where the strategy exchanges nothing."""
    needs: Needs
    enforcer: PrivacyEnforcer
    codecs: Codecs | None
    """None where everything travels in full."""
    store: ClientStore
    seed: int
    device: torch.device
    measurement: Measurement = field(default_factory=Measurement)
    input_noise: InputNoise | None = None
    """The noise on private inputs; None without any."""
    deadline: float | None = None
    """Seconds that a client may take for one message."""
    optimizer_states: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """By architecture: the optimizer states that stay with a client, as they are before its first
    step."""
    precision: Precision = "default"
    """What models compute in."""
    batching: Batching = field(default_factory=Batching)
    """Which clients are trained several at once."""
    stopped: Callable[[], bool] = lambda: False
    sends_metrics: bool = True
    """Whether clients send what they measure, for the researcher's record."""
    companion: CompanionPlan | None = None
    """The second model of every client; None without one."""
    start: StartStates | None = None
    """The models that clients begin with; None where they begin anew."""
    last_round: int | None = None
    """The round in which secrets are looked for, where there are any."""
    workspace: ClientWorkspace = field(default_factory=ClientWorkspace, repr=False)

    def seen_by(self, client_id: int) -> "ClientContext":
        """Return the context with the task as a client sees it; this one where all see the same."""
        task = self.task.for_client(client_id)
        return self if task is self.task else replace(self, task=task)

    @property
    def public_inputs(self) -> Tensor:
        """The public set as model inputs, made once."""
        return self.task.public_inputs

    @property
    def public_labels(self) -> Tensor:
        """The labels of the public set, for the record of how right teachers are."""
        return self.task.public_labels

    @cached_property
    def public_labels_on_host(self) -> Tensor:
        """The labels of the public set in the host's memory, where teachers come."""
        return self.public_labels.cpu()

    @cached_property
    def global_test(self) -> Examples:
        """The balanced test set as model inputs and targets, made once."""
        return self.samples(self.division.global_test)

    def samples(self, rows: np.ndarray) -> Examples:
        """Return rows of the data set as model inputs and targets."""
        return self._with_noise(self.task.test_set(rows), rows)

    def training_set(self, client_id: int) -> Examples:
        """Return what a client trains on as model inputs and targets."""
        rows = self.train_rows(client_id)
        return self._with_noise(self.task.training_set(rows, self.owners(client_id)), rows)

    def _with_noise(self, examples: Examples, rows: np.ndarray) -> Examples:
        if self.input_noise is None:
            return examples
        inputs, targets = examples
        return self.input_noise.added(inputs, rows), targets

    def training_size(self, client_id: int) -> int:
        """Return how many examples a client trains on."""
        return self.task.training_size(self.train_rows(client_id), self.owners(client_id))

    def stated_size(self, client_id: int) -> int:
        """Return how many examples a client says that it trains on.

        Its public size where a mechanism claims something.

        An audit's coins decide on its true size, and a claim that is to hide them takes the size
        for public.
        """
        if self.enforcer.claims:
            return self.public_sizes[client_id]
        return self.task.training_size(self.division.train[client_id], (client_id,))

    def owners(self, client_id: int) -> Sequence[int]:
        """Return whose private sets a client trains on."""
        return range(len(self.division.train)) if self.needs.pooled_data else (client_id,)

    def train_rows(self, client_id: int) -> np.ndarray:
        """Return the rows that a client trains on: its own, or everybody's if pooled."""
        return self.pooled_rows if self.needs.pooled_data else self.division.train[client_id]

    @cached_property
    def pooled_rows(self) -> np.ndarray:
        """The rows of all private training sets, sorted."""
        return np.sort(np.concatenate(self.division.train))

    def label_counts(self, client_id: int) -> tuple[int, ...]:
        """Return how many training targets of each class a client has."""
        return self.task.label_counts(self.division.train[client_id], (client_id,))

    def public_inputs_of(self, ids: Tensor) -> Tensor:
        """Return the model inputs of public samples."""
        x = self.public_inputs
        return x if len(ids) == len(x) else x[sent(ids, self.device)]

    def borrow_model(
        self, client_id: int, weights: Mapping[str, Tensor] | None = None
    ) -> tuple[nn.Module, ClientState]:
        """Return this thread's module with a client's weights, and what else is stored of it.

        Borrowed: the thread's next call loads another client's weights into the same module.
        ``weights`` take the place of the stored ones.
        """
        state = self.state_of(client_id)
        return self.borrow_module(client_id, state, weights), memory_of(state)

    def state_of(self, client_id: int) -> ClientState:
        """Return what is stored of a client, or what it begins with. Not to be changed."""
        return self.store.get(client_id) or self.initial_state(client_id)

    def borrow_module(
        self, client_id: int, state: ClientState, weights: Mapping[str, Tensor] | None = None
    ) -> nn.Module:
        """Return this thread's module with the weights of a client's state.

        Args:
            client_id: The client.
            state: What is stored of it.
            weights: Take the place of the stored ones.
        """
        architecture = self.architectures[client_id]
        model = self.workspace.module(architecture.name, lambda: self.module(architecture))
        weights = weights or {
            name: tensor for name, tensor in state.items() if not name.startswith(MEMORY)
        }
        load_weights(model, weights)
        teach(model, self, client_id, state)
        return model

    def borrow_companion(self, client_id: int, memory: Mapping[str, Tensor]) -> Companion | None:
        """Return this thread's companion module with a client's weights; None without companions.

        ``memory`` are the tensors of its state; empty where the client never trained.
        """
        plan, name = self.companion, self.architectures[client_id].name
        if plan is None:
            return None
        own = self.traits[name]

        def build() -> nn.Module:
            return in_precision(plan.module(own).to(self.device), self.precision, self.device)

        found = self.workspace.module(f"companion of {name}", build)
        assert isinstance(found, Companion), "made here"
        found.before = {}
        found.load_state_dict(dict(memory) or plan.initial(own, client_id).state_dict())
        return found

    def module(self, architecture: ModelSpec) -> nn.Module:
        """Return a new module of an architecture on the device, in the run's precision."""
        model = architecture.build(seed=0).to(self.device)
        return in_precision(model, self.precision, self.device)

    def own_model(self, client_id: int, store: ClientStore | None = None) -> nn.Module:
        """Return a new module with the weights stored of a client, in ``store`` or here.

        For predictions: training it changes nothing that is stored.
        """
        architecture = self.architectures[client_id]
        state = (store or self.store).get(client_id) or self.initial_state(client_id)
        model = self.module(architecture)
        model.load_state_dict({name: state[name] for name in model.state_dict()})
        teach(model, self, client_id, state)
        return model

    def quality(self, teacher: Predictions) -> Quality:
        """Return how right a teacher is on the public set."""

        def judge() -> Quality:
            ids, values, labels = teacher.ids, teacher.values, self.public_labels_on_host
            if values.numel() > SMALL_TEACHER:
                ids, values = ids.to(self.device), values.to(self.device)
                labels = self.public_labels
            temperature = self.distillation.temperature
            return teacher_quality(values, teacher.scale, labels[ids], temperature)

        return self.workspace.once("quality", teacher, judge)

    def initial_state(self, client_id: int) -> ClientState:
        """Return the state of a client that never took part.

        Its own initial weights, and blank optimizers.

        Where the strategy needs a common start, they are those of its architecture. A run that
        starts from another has the weights that the client ended with there.
        """
        architecture = self.architectures[client_id]
        blank = self.optimizer_states.get(architecture.name, {})
        if self.start is not None:
            stored = self.start.of(client_id)
            return {**{k: t for k, t in stored.items() if not k.startswith(MEMORY)}, **blank}
        own = (
            ("architecture", architecture.name)
            if self.needs.shared_initialization
            else ("client", client_id)
        )
        model = architecture.build(torch_seed(self.seed, *own, "weights"))
        return {**model.state_dict(), **blank}
