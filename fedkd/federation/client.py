"""What a client does in a round: the steps of a download, over plain functions.

Knows nothing of Flower. ``take_part`` is one client's part of one message.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.errors import DeadlinePassed, Interrupted
from fedkd.federation.context import CODEC, OPTIMIZER, PRIVACY, ClientContext, PrecomputedUpdate
from fedkd.fusion import smooth, soften
from fedkd.knowledge import AdoptedKnowledge, PenaltyKnowledge
from fedkd.messages import (
    ClientCard,
    Download,
    Knowledge,
    Packed,
    Predictions,
    PrivacyEvent,
    Step,
    Upload,
)
from fedkd.models.factory import ModelInfo, borrowed_global_generator
from fedkd.models.features import forward_with_features
from fedkd.models.heads import phase_parameters
from fedkd.privacy.enforcement import SPENT
from fedkd.privacy.mechanisms.mechanism import ClientRound, TrainingLoop
from fedkd.runtime.seeding import numpy_stream, torch_seed
from fedkd.storage.client_states import MemoryStore
from fedkd.tasks.task import Examples
from fedkd.training.hyperparameters import DistillationSettings, TrainingSettings
from fedkd.training.loop import PREDICTION_BATCH, predict
from fedkd.training.losses import ON_LOGITS, distillation_target, find_loss, weighted
from fedkd.training.optimizers import Optimizer
from fedkd.training.relational_losses import match_similarities
from fedkd.training.targets import gate_by_confidence, margin_weights

TRAINING: frozenset[Step] = frozenset({"pretrain", "distill", "adopt", "train"})
"""The steps that change a client's model. In a download they come before all others."""


def describe(context: ClientContext, client_id: int) -> ClientCard:
    """Return what a client says of itself before the first round."""
    name = context.architectures[client_id].name
    return ClientCard(
        client_id=client_id,
        architecture=name,
        parameters=context.traits[name].parameters,
        train_size=context.stated_size(client_id),
        label_counts=context.label_counts(client_id) if context.needs.label_counts else None,
    )


def take_part(context: ClientContext, client_id: int, download: Download) -> Upload:
    """Do the steps of a download in order, keep the client's new state, and return what is
    uploaded.

    Nothing is kept if a step raises, but for the count of DP-SGD's steps: the client is then where
    it was before this message.
    """
    started = time.perf_counter()
    precomputed = context.precomputed.pop((client_id, download.round, download.steps), None)
    visit = LocalUpdate(context, client_id, download, precomputed)
    if visit.is_declined():
        _evaluate(visit)
        visit.keep()  # its model is as it was, but the next teacher may build on this one
        return Upload(
            client_id=client_id,
            round=download.round,
            metrics={**visit.metrics, "seconds": time.perf_counter() - started},
            declined=SPENT,
        )
    if precomputed is not None:
        started -= precomputed.seconds
    try:
        for step in download.steps:
            visit.check_interrupt()
            if precomputed is None or step not in TRAINING:
                _STEPS[step](visit)
        visit.keep()
    except BaseException:
        visit.keep_steps()
        raise
    return Upload(
        client_id=client_id,
        round=download.round,
        metrics={**visit.metrics, "seconds": time.perf_counter() - started},
        privacy=visit.event,
        knowledge=visit.knowledge,
        exposures=visit.exposures,
    )


def open_teacher(
    context: ClientContext, teacher: Packed, memory: Mapping[str, np.ndarray] | None
) -> tuple[Knowledge, Mapping[str, np.ndarray] | None]:
    """Return a teacher as its kind has it, and what the codec remembers afterwards."""
    assert context.codecs is not None, "what is packed was packed by one"
    assert context.kind is not None, "what is packed is of a kind"
    arrays, after = context.codecs.down.decode(teacher.arrays, memory)
    return context.kind.decode(arrays), after


def example_arrays(context: ClientContext) -> dict[str, np.ndarray]:
    """Return the arrays of an upload of client 0 on at most two public samples: their names, shapes
    and types.
    """
    assert context.kind is not None, "a run that exchanges nothing has no uploads"
    ids = torch.arange(min(2, context.task.public_size))
    untouched = replace(
        context, store=MemoryStore({}, (), ())
    )  # what a run left there is not to be looked at yet
    visit = LocalUpdate(untouched, 0, Download(round=0, steps=("share",), public_ids=ids))
    return context.kind.encode(context.kind.extract(visit))


class LocalUpdate:
    """One client handling one download: the model in its hands, and what it found so far.

    Also what a kind of knowledge finds there (``fedkd.knowledge.ClientView``).
    """

    def __init__(
        self,
        context: ClientContext,
        client_id: int,
        download: Download,
        precomputed: PrecomputedUpdate | None = None,
    ) -> None:
        """Take the client's model in hand: as it is kept, or where training steps that were
        rehearsed have led.
        """
        self.context = context
        self.client_id = client_id
        self.round = download.round
        self.classes = context.task.classes
        self.temperature = context.distillation.temperature
        self.download = download
        self.model, self.client_memory = context.model(
            client_id, None if precomputed is None else precomputed.state
        )
        self.teacher: Knowledge | None = download.teacher
        if isinstance(download.teacher, Packed):
            self.teacher, memory = open_teacher(context, download.teacher, self.remembered("down"))
            self.remember("down", memory)
        self.started = time.perf_counter()
        self.metrics: dict[str, float | tuple[float, ...]] = {}
        if precomputed is not None:
            self.metrics.update(precomputed.metrics)
            self.started -= precomputed.seconds
        self.exposures: dict[str, tuple[float, ...]] = {}
        self.event: PrivacyEvent | None = None
        self.knowledge: Knowledge | None = None

    def remembered(self, way: str) -> dict[str, np.ndarray] | None:
        """Return what a codec remembers of earlier messages in a direction; None if nothing."""
        prefix = f"{CODEC}{way}/"
        found = {
            n.removeprefix(prefix): tensor.numpy()
            for n, tensor in self.client_memory.items()
            if n.startswith(prefix)
        }
        return found or None

    def remember(self, way: str, memory: Mapping[str, np.ndarray] | None) -> None:
        """Keep what a codec remembers from now on."""
        prefix = f"{CODEC}{way}/"
        others = {
            name: tensor
            for name, tensor in self.client_memory.items()
            if not name.startswith(prefix)
        }
        self.client_memory = {
            **others,
            **{f"{prefix}{name}": torch.tensor(array) for name, array in (memory or {}).items()},
        }

    @property
    def privacy_memory(self) -> Mapping[str, Tensor]:
        """What the privacy mechanism remembers of this client."""
        return {
            name.removeprefix(PRIVACY): t
            for name, t in self.client_memory.items()
            if name.startswith(PRIVACY)
        }

    @privacy_memory.setter
    def privacy_memory(self, memory: Mapping[str, Tensor]) -> None:
        others = {
            name: tensor
            for name, tensor in self.client_memory.items()
            if not name.startswith(PRIVACY)
        }
        self.client_memory = {
            **others,
            **{f"{PRIVACY}{name}": tensor for name, tensor in memory.items()},
        }

    @property
    def traits(self) -> ModelInfo:
        return self.context.traits[self.context.architectures[self.client_id].name]

    def public_ids(self) -> Int[Tensor, "N"]:
        assert self.download.public_ids is not None, (
            "knowledge was asked for without saying on what"
        )
        return self.download.public_ids

    def public_inputs(self) -> Tensor:
        x, ids = self.context.public_inputs, self.public_ids()
        return x if len(ids) == len(x) else x[ids.to(self.context.device)]

    @cached_property
    def private(self) -> tuple[Tensor, Tensor]:
        return self.context.training_set(self.client_id)

    def private_inputs(self) -> Tensor:
        return self.private[0]

    def private_labels(self) -> Int[Tensor, "n"]:
        return self.private[1]

    def public_logits(self) -> Float[Tensor, "N C"]:
        logits = self.context.task.ask(self.public_ids()).predict(self.model).cpu()
        if len(logits):
            self.metrics["label_leakage"] = _label_leakage(
                logits, self.context.label_counts(self.client_id)
            )
        return logits

    def private_logits(self) -> Float[Tensor, "n C"]:
        return predict(self.model, self.private_inputs()).cpu()

    def private_features(self) -> Float[Tensor, "n d"]:
        return self._features(self.private_inputs())

    def public_features(self) -> Float[Tensor, "N d"]:
        return self._features(self.public_inputs())

    def _features(self, inputs: Tensor) -> Tensor:
        head = self.head()
        self.model.eval()
        with torch.no_grad():
            parts = [
                forward_with_features(self.model, head, batch)[1]
                for batch in torch.split(inputs, PREDICTION_BATCH)
            ]
        return torch.cat(parts).cpu()

    def head(self) -> str:
        head = self.traits.head
        assert head is not None, "declared in needs"
        return head

    def stream(self, purpose: str) -> np.random.Generator:
        return numpy_stream(self.context.seed, *self.stream_path(purpose))

    def check_interrupt(self) -> None:
        """Raise if the run was asked to stop, or the client is past its deadline."""
        if self.context.stopped():
            raise Interrupted
        if (
            self.context.deadline is not None
            and time.perf_counter() - self.started > self.context.deadline
        ):
            raise DeadlinePassed(f"missed the deadline of {self.context.deadline:g} s")

    def stream_path(self, purpose: str) -> tuple[str | int, ...]:
        return ("client", self.client_id, "round", self.download.round, purpose)

    def optimize(
        self,
        purpose: str,
        size: int,
        batch_loss: Callable[[Tensor], Tensor],
        phase: TrainingSettings | DistillationSettings,
        epochs: int,
    ) -> float | None:
        """Run one phase with its own streams; models that draw from the global generator borrow it,
        one at a time.
        """
        optimizer = Optimizer(phase_parameters(self.model, distills=purpose == "distill"), phase)
        prefix = f"{OPTIMIZER}{purpose}/"
        client_memory = {
            name.removeprefix(prefix): tensor
            for name, tensor in self.client_memory.items()
            if name.startswith(prefix)
        }
        if client_memory:
            optimizer.restore(client_memory)
        seed = torch_seed(self.context.seed, *self.stream_path(f"{purpose} dropout"))
        with (
            borrowed_global_generator(seed)
            if self.traits.draws_randomness
            else contextlib.nullcontext()
        ):
            loop = TrainingLoop(
                model=self.model,
                size=size,
                batch_loss=batch_loss,
                phase=phase,
                epochs=epochs,
                optimizer=optimizer,
                batches=self.stream(f"{purpose} batches"),
                check_interrupt=self.check_interrupt,
            )
            loss = self.train_privately(loop) if purpose == "train" else loop.run()
        if client_memory:
            now = {f"{prefix}{name}": tensor for name, tensor in optimizer.tensors().items()}
            self.client_memory = {**self.client_memory, **now}
        return loss

    def train_privately(self, loop: TrainingLoop) -> float | None:
        def remember(memory: Mapping[str, Tensor]) -> None:
            self.privacy_memory = memory

        return self.context.enforcer.train(loop, self.turn(), remember)

    def turn(self) -> ClientRound:
        return self.context.enforcer.client_round(
            self.client_id,
            self.round,
            self.context.public_sizes[self.client_id],
            self.privacy_memory,
        )

    def keep(self) -> None:
        """Keep the client as it is now, where this message may have changed it: its model, or what
        codecs remember.
        """
        context = self.context
        if TRAINING & set(self.download.steps) or (
            context.codecs is not None and context.codecs.stateful
        ):
            context.store.put(
                self.client_id, self.round, {**self.model.state_dict(), **self.client_memory}
            )

    def keep_steps(self) -> None:
        """Keep what the mechanism must remember of a visit that failed, with the client as it was
        before.
        """
        context = self.context
        names = {f"{PRIVACY}{name}" for name in context.enforcer.mechanism.survives_failure}
        now = {name: t for name, t in self.client_memory.items() if name in names}
        if not now:
            return
        before = context.store.get(self.client_id) or context.initial_state(self.client_id)
        blank = torch.zeros(0)
        if any(not torch.equal(t, before.get(name, blank)) for name, t in now.items()):
            context.store.put(self.client_id, self.round, {**before, **now})

    def is_declined(self) -> bool:
        """Return whether the client's privacy budget does not cover its part of this message."""
        if "train" not in self.download.steps:
            return False
        return not self.context.enforcer.mechanism.covers_round(self.turn())

    def fit(self, purpose: str, examples: Examples, epochs: int) -> float | None:
        """Minimize the task's own loss on examples."""
        task, (x, y) = self.context.task, examples
        return self.optimize(
            purpose,
            len(y),
            lambda batch: task.training_loss(self.model, x[batch], y[batch]),
            self.context.training,
            epochs,
        )


def _pretrain(visit: LocalUpdate) -> None:
    context = visit.context
    visit.fit("pretrain", context.task.public_set(), context.training.public_epochs)


def _train(visit: LocalUpdate) -> None:
    context, kind, task = visit.context, visit.context.kind, visit.context.task
    x, y = visit.private
    penalty = kind.penalty(visit, visit.teacher) if isinstance(kind, PenaltyKnowledge) else None
    if penalty is None:
        loss = visit.fit("train", (x, y), context.training.epochs)
    else:
        assert isinstance(kind, PenaltyKnowledge), "only such a kind has one"
        head = visit.head() if kind.uses_features else None

        def batch_loss(batch: Tensor) -> Tensor:
            if head is None:
                logits, features = task.logits(visit.model, x[batch]), None
            else:
                logits, features = forward_with_features(visit.model, head, x[batch])
            return task.loss(logits, y[batch]) + penalty(batch, logits, features)

        loss = visit.optimize(
            "train", len(y), batch_loss, context.training, context.training.epochs
        )
    if loss is not None:
        visit.metrics["train_loss"] = loss


def _adopt(visit: LocalUpdate) -> None:
    kind, teacher = visit.context.kind, visit.teacher
    if teacher is not None:
        assert isinstance(kind, AdoptedKnowledge), "only such a kind has teachers that are weights"
        kind.adopt(visit.model, teacher)


def _distill(visit: LocalUpdate) -> None:
    context = visit.context
    teacher: Predictions | None = visit.teacher
    if teacher is None:
        return
    settings = context.distillation
    asked = context.task.ask(teacher.ids)
    values = teacher.values.to(context.device)
    target: Float[Tensor, "N C"] = distillation_target(
        context.loss, values, teacher.scale, settings.temperature
    )
    loss = find_loss(context.loss, settings.loss_skew)
    if settings.confidence_gate:
        target = gate_by_confidence(
            target, soften(asked.predict(visit.model), settings.temperature)
        )
    probs = (
        target
        if teacher.scale == "probs" or context.loss not in ON_LOGITS
        else soften(values, settings.temperature)
    )
    weights = margin_weights(probs) if settings.margin_weights else None
    if settings.student_augmentation == "shift":
        asked = asked.moved(visit.stream("student view"))

    def batch_loss(batch: Tensor) -> Tensor:
        def compared(logits: Tensor, rows: Tensor) -> Tensor:
            if weights is None:
                found = loss(logits, target[rows], settings.temperature)
            else:
                found = weighted(loss, logits, target[rows], weights[rows], settings.temperature)
            if settings.relational_weight is not None:
                found = found + settings.relational_weight * match_similarities(
                    logits, probs[rows], settings.temperature
                )
            return found

        return asked.taught_loss(visit.model, batch, compared)

    visit.privacy_memory = context.enforcer.mechanism.after_teaching(teacher, visit.turn())
    mean = visit.optimize("distill", asked.size, batch_loss, settings, settings.epochs)
    if mean is not None:
        visit.metrics["distill_loss"] = mean


def _evaluate(visit: LocalUpdate) -> None:
    context, metrics, task = visit.context, visit.metrics, visit.context.task
    own = task.evaluate(visit.model, context.samples(context.division.test[visit.client_id]))
    metrics["personal_accuracy"], metrics["personal_nll"] = own.accuracy, own.nll
    found = task.evaluate(visit.model, context.global_test)
    metrics["global_accuracy"], metrics["global_ece"], metrics["global_nll"] = (
        found.accuracy,
        found.ece,
        found.nll,
    )
    held_out = context.division.validation[visit.client_id]
    if len(held_out):
        metrics["validation_accuracy"] = task.evaluate(
            visit.model, context.samples(held_out)
        ).accuracy
    teacher = visit.teacher
    if "distill" in visit.download.steps and isinstance(teacher, Predictions):
        quality = dict(context.quality(teacher))
        if task.classes != len(context.prepared.class_names):
            quality.pop("teacher_by_class", None)  # tokens are too many for a table
        metrics.update(quality)
    _look_for_secrets(visit, "peers")


def _share(visit: LocalUpdate) -> None:
    context = visit.context
    assert context.kind is not None, "knowledge was asked for in a run that exchanges none"
    _look_for_secrets(visit, "own_model")
    knowledge = context.kind.extract(visit)
    enforcer, scores = context.enforcer, None
    if enforcer.mechanism.detector is not None:
        assert isinstance(knowledge, Predictions), "checked before the run"
        hints = context.task.hints(enforcer.mechanism.detector, knowledge.ids)
        scores = enforcer.suspicion(knowledge, visit.privacy_memory, hints)
    if scores is not None:
        visit.metrics.update(context.task.judged(scores, knowledge.ids))
    visit.knowledge, visit.event, visit.privacy_memory = enforcer.protect(
        knowledge, visit.turn(), scores
    )
    if context.codecs is not None:
        memory = None if visit.download.start_over else visit.remembered("up")
        coded, after = context.codecs.up.encode(context.kind.encode(visit.knowledge), memory)
        visit.knowledge = Packed(coded)
        visit.remember("up", after)


def _look_for_secrets(visit: LocalUpdate, whose: Literal["own_model", "peers"]) -> None:
    """Measure, in the last round, how far a client's model exposes its own secrets or the others',
    then controls.
    """
    context = visit.context
    if context.kind is None or visit.round != context.last_round:
        return
    found = context.task.exposures(visit.model, visit.client_id, whose)
    if found is not None:
        visit.exposures[whose] = found


def _label_leakage(logits: Float[Tensor, "N C"], label_counts: tuple[int, ...]) -> float:
    """Return ``KL(true label distribution || mean soft label)`` in nats: small means that
    predictions give it away.
    """
    counts = torch.tensor(label_counts, dtype=torch.float64)
    truth = counts / counts.sum()
    estimate = smooth(soften(logits.to(torch.float64)).mean(dim=0)[None], 1e-3)[0]
    return torch.xlogy(truth, truth / estimate).sum().item()


_STEPS: dict[Step, Callable[[LocalUpdate], None]] = {
    "pretrain": _pretrain,
    "distill": _distill,
    "adopt": _adopt,
    "train": _train,
    "evaluate": _evaluate,
    "share": _share,
}
