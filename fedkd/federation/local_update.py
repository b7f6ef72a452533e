"""One client's local update: what it has in hand while it handles one message.

Data, and the few functions that begin and store it; the steps are ``fedkd.federation.local_steps``.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.errors import DeadlinePassed, Interrupted
from fedkd.federation.context import (
    CODEC,
    COMPANION,
    PRIVACY,
    ClientContext,
    PrecomputedUpdate,
    load_weights,
    memory_of,
)
from fedkd.messages import EVALUATES, Download, Knowledge, Packed, PrivacyEvent, Step
from fedkd.models.companion import Companion
from fedkd.models.factory import ModelInfo
from fedkd.privacy.mechanisms.mechanism import ClientRound
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.measuring_points import MeasuringPoint
from fedkd.tasks.task import Examples

TRAINING: frozenset[Step] = frozenset({"pretrain", "warm_up", "distill", "adopt", "train"})
"""The steps that change a client's model."""
MEASURING: frozenset[Step] = frozenset({*EVALUATES.values(), "inspect"})
"""The steps that look at it, and change nothing."""


class ClientMemory:
    """What a client remembers apart from its model: named tensors, in sections by prefix."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin with what is stored of the client."""
        self.tensors = dict(tensors)

    def section(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with ``prefix``, without it."""
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }

    def replace(self, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        """Put ``tensors`` in the place of all whose names begin with ``prefix``."""
        others = {n: tensor for n, tensor in self.tensors.items() if not n.startswith(prefix)}
        self.tensors = {**others, **{f"{prefix}{name}": t for name, t in tensors.items()}}

    def codec(self, way: str) -> dict[str, np.ndarray] | None:
        """Return what a codec remembers of one direction, ``up`` or ``down``; None if nothing."""
        found = {name: t.numpy() for name, t in self.section(f"{CODEC}{way}/").items()}
        return found or None

    def replace_codec(self, way: str, memory: Mapping[str, np.ndarray] | None) -> None:
        """Remember what a codec needs of one direction from now on."""
        arrays = (memory or {}).items()
        self.replace(f"{CODEC}{way}/", {name: torch.tensor(array) for name, array in arrays})


@dataclass
class Released:
    """What leaves a client once it has shared, and the event that states its cost."""

    knowledge: Knowledge | None = None
    event: PrivacyEvent | None = None


@dataclass(kw_only=True)
class LocalUpdate:
    """One client handling one download: its model, and what the steps found so far."""

    context: ClientContext
    client_id: int
    download: Download
    borrow: Callable[[], nn.Module]
    """Returns the model; a message whose steps were all done ahead needs none."""
    memory: ClientMemory
    teacher: Knowledge | None
    """The download's teacher, decoded."""
    started: float
    """When the update began, by ``time.perf_counter``; earlier where steps were precomputed."""
    ahead: PrecomputedUpdate | None = None
    """What was done of the message before it came."""
    metrics: dict[str, float | tuple[float, ...]] = field(default_factory=dict)
    exposures: dict[str, tuple[float, ...]] = field(default_factory=dict)
    released: Released = field(default_factory=Released)
    companion: Companion | None = None
    """This thread's module with the weights of the client's second model; None without one."""

    @cached_property
    def model(self) -> nn.Module:
        """This thread's module with the client's weights, until the thread's next client."""
        return self.borrow()

    @property
    def round(self) -> int:
        """The round, from 1."""
        return self.download.round

    @property
    def info(self) -> ModelInfo:
        """What is known of the client's architecture."""
        return self.context.traits[self.context.architectures[self.client_id].name]

    @property
    def draws_randomness(self) -> bool:
        """Whether training the client's models draws from the global generator."""
        plan = self.context.companion
        return self.info.draws_randomness or (plan is not None and plan.draws_randomness)

    @cached_property
    def private_examples(self) -> Examples:
        """The inputs and targets that the client trains on."""
        return self.context.training_set(self.client_id)

    def stream_path(self, purpose: str) -> tuple[str | int, ...]:
        """Return the name of the client's random stream of this round for a purpose."""
        return ("client", self.client_id, "round", self.round, purpose)

    def stream(self, purpose: str) -> np.random.Generator:
        """Return the client's random stream of this round for a purpose."""
        return numpy_stream(self.context.seed, *self.stream_path(purpose))

    def privacy_round(self) -> ClientRound:
        """Return the client's part of this round as its privacy mechanism sees it."""
        return self.context.enforcer.client_round(
            self.client_id,
            self.round,
            self.context.public_sizes[self.client_id],
            self.memory.section(PRIVACY),
        )

    def check_interrupt(self) -> None:
        """Raise if the run was asked to stop, or the client is past its deadline."""
        if self.context.stopped():
            raise Interrupted
        deadline = self.context.deadline
        if deadline is not None and time.perf_counter() - self.started > deadline:
            raise DeadlinePassed(f"missed the deadline of {deadline:g} s")


def begin_update(
    context: ClientContext,
    client_id: int,
    download: Download,
    precomputed: PrecomputedUpdate | None = None,
) -> LocalUpdate:
    """Return a client's update before its first step.

    Args:
        context: What the clients share.
        client_id: The client.
        download: The message.
        precomputed: The result of the message's training steps, where they are done already.
    """
    context = context.seen_by(client_id)
    weights = None if precomputed is None else precomputed.state
    stored = context.state_of(client_id)
    memory, teacher = ClientMemory(memory_of(stored)), download.teacher
    if isinstance(teacher, Packed):
        teacher, after = open_teacher(context, client_id, teacher, memory.codec("down"))
        memory.replace_codec("down", after)
    return LocalUpdate(
        context=context,
        client_id=client_id,
        download=download,
        borrow=lambda: context.borrow_module(client_id, stored, weights),
        memory=memory,
        teacher=teacher,
        started=time.perf_counter() - (0.0 if precomputed is None else precomputed.seconds),
        ahead=precomputed,
        metrics={} if precomputed is None else dict(precomputed.metrics),
        companion=context.borrow_companion(client_id, memory.section(COMPANION)),
    )


@contextlib.contextmanager
def precomputed_weights(
    update: LocalUpdate, precomputed: PrecomputedUpdate | None, step: Step
) -> Iterator[None]:
    """Give the model the weights that it has at a step, where training was done ahead.

    They are others than at the end where the model is measured before private training.
    """
    halfway = None if precomputed is None else precomputed.distilled
    if precomputed is None or halfway is None or step != "evaluate_distilled":
        yield
        return
    if is_measured(update, "distillation"):
        yield
        return
    load_weights(update.model, halfway)
    yield
    load_weights(update.model, precomputed.state)


def is_measured(update: LocalUpdate, point: MeasuringPoint) -> bool:
    """Return whether the model was measured ahead on all that is asked for at a point."""
    context, quality = update.context, {} if update.ahead is None else update.ahead.quality
    if len(context.division.validation[update.client_id]):
        return False
    return all((where, point) in quality for where in context.measurement.evaluate_on)


def open_teacher(
    context: ClientContext,
    client_id: int,
    teacher: Packed,
    memory: Mapping[str, np.ndarray] | None,
) -> tuple[Knowledge, Mapping[str, np.ndarray] | None]:
    """Return a packed teacher as its kind has it, and what the codec remembers afterwards.

    Args:
        context: Has the codec and the kind.
        client_id: Who was sent it.
        teacher: What came.
        memory: What the codec remembers.
    """
    assert context.codecs is not None, "what is packed was packed by one"
    assert context.kind is not None, "what is packed is of a kind"
    arrays, after = context.codecs.down.of_client(client_id).decode(teacher.arrays, memory)
    return context.kind.decode(arrays), after


def is_declined(update: LocalUpdate) -> bool:
    """Return whether the client's privacy budget does not cover its part of this message."""
    if "train" not in update.download.steps:
        return False
    return not update.context.enforcer.mechanism.covers_round(update.privacy_round())


def store(update: LocalUpdate) -> None:
    """Store the client as it is now, where this message may have changed it.

    Its model may have changed by training, its memory by what codecs remember.
    """
    context = update.context
    if update.companion is not None:
        update.memory.replace(COMPANION, update.companion.state_dict())
    stateful = context.codecs is not None and context.codecs.stateful
    if stateful or TRAINING & set(update.download.steps):
        untouched = update.ahead if "model" not in vars(update) else None
        weights = update.model.state_dict() if untouched is None else untouched.state
        state = {**weights, **update.memory.tensors}
        context.store.put(update.client_id, update.round, state)


def store_after_failure(update: LocalUpdate) -> None:
    """Store what the mechanism must not forget, with the client as it was before the message."""
    context = update.context
    names = {f"{PRIVACY}{name}" for name in context.enforcer.mechanism.survives_failure}
    now = {name: t for name, t in update.memory.tensors.items() if name in names}
    if not now:
        return
    before = context.store.get(update.client_id) or context.initial_state(update.client_id)
    blank = torch.zeros(0)
    if any(not torch.equal(t, before.get(name, blank)) for name, t in now.items()):
        context.store.put(update.client_id, update.round, {**before, **now})
