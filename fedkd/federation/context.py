"""What the clients of one run share on one machine: data, models, settings, and where their states
are kept.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.codecs import Codecs
from fedkd.data.division import Division
from fedkd.data.prepare import Labeled
from fedkd.knowledge import KnowledgeType
from fedkd.messages import Predictions, Step
from fedkd.models.factory import ModelInfo, ModelSpec
from fedkd.privacy.enforcement import PrivacyEnforcer
from fedkd.runtime.seeding import torch_seed
from fedkd.storage.client_states import ClientState, ClientStore
from fedkd.strategy import Needs
from fedkd.tasks.task import Examples, Task
from fedkd.training.hyperparameters import DistillationSettings, TrainingSettings
from fedkd.training.metrics import teacher_quality

OPTIMIZER = "optimizer of "
"""How the names of optimizer tensors begin in a client's state: ``optimizer of
train/0/exp_avg``."""
CODEC = "codec "
"""How the names begin of what codecs remember: ``codec up/probs``, ``codec down/probs``."""
PRIVACY = "privacy "
"""How the names begin of what the privacy mechanism remembers: ``privacy steps``, ``privacy answers
ids``."""
KEPT = (OPTIMIZER, CODEC, PRIVACY)
"""What a client keeps beside its model."""


@dataclass(frozen=True)
class PrecomputedUpdate:
    """What a client's training steps came to where they were done before its visit."""

    state: ClientState
    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ClientContext:
    """Data, models and settings that the clients of one run share on one machine. Safe to use from
    many threads.
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
    deadline: float | None = None
    """Seconds that a client may take for one message."""
    optimizer_states: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """By architecture: the optimizer states that stay with a client, as they are before its first
    step."""
    batch_clients: frozenset[str] = frozenset()
    """Architectures whose clients are trained several at once
    (``fedkd.federation.batched_clients``)."""
    precomputed: dict[tuple[int, int, tuple[Step, ...]], PrecomputedUpdate] = field(
        default_factory=dict, repr=False
    )
    """By client, round and steps: training that is done already, until the client's visit takes
    it."""
    stopped: Callable[[], bool] = lambda: False
    last_round: int | None = None
    """The round in which secrets are looked for, where there are any."""
    _threads: threading.local = field(default_factory=threading.local, repr=False)

    @property
    def public_inputs(self) -> Tensor:
        """The public set as model inputs, made once."""
        return self.task.public_inputs

    @property
    def public_labels(self) -> Tensor:
        """The labels of the public set, for the record of how right teachers are."""
        return self.task.public_labels

    @cached_property
    def global_test(self) -> Examples:
        """The balanced test set as model inputs and targets, made once."""
        return self.samples(self.division.global_test)

    def samples(self, rows: np.ndarray) -> Examples:
        """Return rows of the data set as model inputs and targets."""
        return self.task.test_set(rows)

    def training_set(self, client_id: int) -> Examples:
        """Return what a client trains on as model inputs and targets."""
        return self.task.training_set(self.train_rows(client_id), self.owners(client_id))

    def training_size(self, client_id: int) -> int:
        """Return how many examples a client trains on."""
        return self.task.training_size(self.train_rows(client_id), self.owners(client_id))

    def stated_size(self, client_id: int) -> int:
        """Return how many examples a client says that it trains on: its public size where a
        mechanism claims something.

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
        """Return the rows that a client trains on: its own, or everybody's where the strategy pools
        them.
        """
        return self.pooled_rows if self.needs.pooled_data else self.division.train[client_id]

    @cached_property
    def pooled_rows(self) -> np.ndarray:
        """The rows of all private training sets, sorted."""
        return np.sort(np.concatenate(self.division.train))

    def label_counts(self, client_id: int) -> tuple[int, ...]:
        """Return how many training targets of each class a client has."""
        return self.task.label_counts(self.division.train[client_id], (client_id,))

    def model(
        self, client_id: int, weights: Mapping[str, Tensor] | None = None
    ) -> tuple[nn.Module, ClientState]:
        """Return this thread's module of the client's architecture with the client's weights, and
        what else it keeps.

        One live module a thread and architecture: clients are states in the store. Valid until the
        thread's next call. ``weights`` are loaded in the place of those that the client keeps.
        """
        architecture = self.architectures[client_id]
        modules: dict[str, nn.Module] = self._threads.__dict__.setdefault("modules", {})
        if architecture.name not in modules:
            modules[architecture.name] = architecture.build(seed=0).to(self.device)
        model = modules[architecture.name]
        state = self.store.get(client_id) or self.initial_state(client_id)
        weights = weights or {
            name: tensor for name, tensor in state.items() if not name.startswith(KEPT)
        }
        model.load_state_dict(weights)
        return model, {name: tensor for name, tensor in state.items() if name.startswith(KEPT)}

    def own_model(self, client_id: int, store: ClientStore | None = None) -> nn.Module:
        """Return a module with the weights that a client keeps in ``store``, or here: to be asked,
        not to be trained.

        It is the caller's, whatever this thread's other calls do.
        """
        architecture = self.architectures[client_id]
        state = (store or self.store).get(client_id) or self.initial_state(client_id)
        model = architecture.build(seed=0).to(self.device)
        model.load_state_dict({name: state[name] for name in model.state_dict()})
        return model

    def quality(self, teacher: Predictions) -> Mapping[str, float | tuple[float, ...]]:
        """Return how right a teacher is on the public set, found once where clients in a row have
        the same.
        """
        before: Predictions | None = self._threads.__dict__.get("judged")
        same = (
            before is not None
            and before.scale == teacher.scale
            and torch.equal(before.ids, teacher.ids)
        )
        if before is None or not same or not torch.equal(before.values, teacher.values):
            ids, values = teacher.ids.to(self.device), teacher.values.to(self.device)
            labels, temperature = self.public_labels[ids], self.distillation.temperature
            self._threads.judgement = teacher_quality(values, teacher.scale, labels, temperature)
            self._threads.judged = teacher
        found: Mapping[str, float | tuple[float, ...]] = self._threads.judgement
        return found

    def initial_state(self, client_id: int) -> ClientState:
        """Return the state of a client that never took part: its own initial weights, and blank
        optimizers.

        Where the strategy needs a common start, they are those of its architecture.
        """
        architecture = self.architectures[client_id]
        own = (
            ("architecture", architecture.name)
            if self.needs.shared_initialization
            else ("client", client_id)
        )
        model = architecture.build(torch_seed(self.seed, *own, "weights"))
        return {**model.state_dict(), **self.optimizer_states.get(architecture.name, {})}
