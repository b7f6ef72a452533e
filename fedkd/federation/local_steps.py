"""The steps of a client's local update: pretrain, warm up, train, adopt, distill, measure, share.

Each is a function of the update, which it changes: the model, the memory, the metrics.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.federation.companion_plan import floats
from fedkd.federation.context import (
    OPTIMIZER,
    PRIVACY,
    REMEMBERED,
    SMALL_TEACHER,
    ClientContext,
)
from fedkd.federation.knowledge_view import KnowledgeView, feature_layer, public_logits
from fedkd.federation.local_update import LocalUpdate, Released
from fedkd.federation.measurement import TestSetName
from fedkd.fusion import smooth, soften
from fedkd.knowledge import (
    AdoptedKnowledge,
    ClassifyingKnowledge,
    JointKnowledge,
    JointLearning,
    PenaltyKnowledge,
    PredictorKnowledge,
    narrowed,
)
from fedkd.knowledge.knowledge_type import Penalty
from fedkd.messages import Packed, Predictions, Step
from fedkd.models.factory import borrowed_global_generator
from fedkd.models.features import forward_with_features
from fedkd.models.heads import phase_parameters
from fedkd.privacy.mechanisms.mechanism import TrainingLoop
from fedkd.runtime.capabilities import offers
from fedkd.runtime.devices import sent
from fedkd.runtime.seeding import torch_seed
from fedkd.settings.measuring_points import MeasuringPoint, column
from fedkd.tasks.task import Evaluation, batch_device
from fedkd.training.hyperparameters import DistillationSettings, Phase, TrainingSettings
from fedkd.training.losses import (
    ON_LOGITS,
    distillation_target,
    symmetric_cross_entropy,
    weighted,
)
from fedkd.training.model_parts import head_parameters, partly_frozen
from fedkd.training.optimizers import Optimizer
from fedkd.training.relational_losses import match_similarities
from fedkd.training.schedules import RoundOfRun
from fedkd.training.targets import gate_by_confidence, margin_weights

LabelLoss = Callable[[Tensor, Tensor], Tensor]
LOSS_METRICS: Mapping[str, str] = {"train": "train_loss", "distill": "distill_loss"}
"""The metric that a training step's mean loss is recorded as; before the first round it is not."""


def pretrain(update: LocalUpdate) -> None:
    """Train on the labels of the public set."""
    x, y = update.context.task.public_set()
    optimize_phase(update, "pretrain", len(y), task_loss(update, "pretrain", x, y))


def warm_up(update: LocalUpdate) -> None:
    """Train on private data before the first round, alone."""
    x, y = update.private_examples
    optimize_phase(update, "warm_up", len(y), task_loss(update, "warm_up", x, y))


def train(update: LocalUpdate) -> None:
    """Train on private data, and remember what the kind of knowledge asks for."""
    remember(update, "before training")
    _train(update)
    remember(update, "after training")


def _train(update: LocalUpdate) -> None:
    kind, (x, y) = update.context.kind, update.private_examples
    if offers(kind, JointKnowledge) and kind.joint is not None:
        optimize_phase(update, "train", len(y), joint_loss(update, kind.joint, x, y))
        return
    penalty: Penalty | None = None
    if offers(kind, PenaltyKnowledge):
        penalty = kind.penalty(KnowledgeView(update), update.teacher)
    if penalty is None:
        loss = task_loss(update, "train", x, y)
    else:
        assert isinstance(kind, PenaltyKnowledge), "only such a kind has one"
        layer = feature_layer(update) if kind.uses_features else None
        loss = penalized_loss(update, x, y, penalty, layer)
    optimize_phase(update, "train", len(y), loss)


def remember(update: LocalUpdate, moment: Literal["before training", "after training"]) -> None:
    """Have the client remember what its kind of knowledge asks for, where it asks for anything."""
    kind = update.context.kind
    if kind is None or not kind.remembers:
        return
    found = kind.remember(KnowledgeView(update), moment)
    if found is not None:
        update.memory.replace(REMEMBERED, {name: t.detach().cpu() for name, t in found.items()})


def adopt(update: LocalUpdate) -> None:
    """Take over the teacher's weights."""
    kind = update.context.kind
    if update.teacher is not None:
        assert isinstance(kind, AdoptedKnowledge), "only such a kind has teachers that are weights"
        kind.adopt(KnowledgeView(update), update.teacher)


def distill(update: LocalUpdate) -> None:
    """Learn from the teacher's predictions on public samples."""
    taken = take_teacher(update)
    if taken is None:
        return
    teacher, loss = taken
    asked, model = update.context.task.ask(teacher.ids), update.model
    if update.context.distillation.student_augmentation == "shift":
        asked = asked.moved(update.stream("student view"))
    optimize_phase(
        update,
        "distill",
        asked.size,
        lambda batch: asked.taught_loss(model, batch, loss),
        batch_device(asked),
    )


def take_teacher(update: LocalUpdate) -> "tuple[Predictions, DistillationLoss] | None":
    """Return the teacher with the loss of distilling it, which a mechanism hears of; or None."""
    context = update.context
    if update.teacher is None:
        return None
    teacher = narrowed(update.teacher, Predictions)
    gated = context.distillation.confidence_gate
    own = context.task.ask(teacher.ids).predict(update.model) if gated else None
    memory = context.enforcer.mechanism.after_teaching(teacher, update.privacy_round())
    update.memory.replace(PRIVACY, memory)
    return teacher, distillation_loss(context, teacher, own)


def evaluate(update: LocalUpdate, point: MeasuringPoint) -> None:
    """Measure the model on test sets, at a point of the round."""
    context, task, figures = update.context, update.context.task, dict[str, float]()
    asked, model = context.measurement, cache(partial(predictor, update))
    if "private" in asked.evaluate_on:
        found = measured_ahead(update, "private", point) or task.evaluate(
            model(), context.samples(context.division.test[update.client_id])
        )
        figures |= {"personal_accuracy": found.accuracy, "personal_nll": found.nll}
        figures |= {f"personal_{name}": v for name, v in found.metrics(asked.metrics).items()}
    if "global" in asked.evaluate_on:
        found = measured_ahead(update, "global", point) or task.evaluate(
            model(), context.global_test
        )
        figures |= {"global_accuracy": found.accuracy, "global_ece": found.ece}
        figures |= {"global_nll": found.nll}
        figures |= {f"global_{name}": v for name, v in found.metrics(asked.metrics).items()}
    validation = context.division.validation[update.client_id]
    if len(validation):
        examples = context.samples(validation)
        figures["validation_accuracy"] = task.evaluate(model(), examples).accuracy
    update.metrics.update({column(name, point): value for name, value in figures.items()})


def predictor(update: LocalUpdate) -> nn.Module:
    """Return what the client predicts with: its model, unless its kind of knowledge has another."""
    kind, found = update.context.kind, None
    if offers(kind, PredictorKnowledge):
        found = kind.predictor(KnowledgeView(update), update.teacher)
    return update.model if found is None else found


def measured_ahead(
    update: LocalUpdate, where: TestSetName, point: MeasuringPoint
) -> Evaluation | None:
    """Return the model's quality where a batch of clients was measured at once; else None.

    Args:
        update: The update.
        where: The test set.
        point: The point of the round.
    """
    quality = {} if update.ahead is None else update.ahead.quality
    if (where, point) not in quality:
        return None
    accuracy, nll, error = quality[where, point]
    return Evaluation(accuracy, nll, lambda: error)


def inspect(update: LocalUpdate) -> None:
    """Measure how right the teacher was, and what of its peers' secrets the model exposes."""
    context, metrics, task = update.context, update.metrics, update.context.task
    if offers(context.kind, ClassifyingKnowledge) and update.teacher is not None:
        inputs, labels = context.samples(context.division.test[update.client_id])
        found = context.kind.classify(KnowledgeView(update), update.teacher, inputs)
        metrics["knowledge_accuracy"] = (found == labels.cpu()).float().mean().item()
    if "distill" in update.download.steps and isinstance(update.teacher, Predictions):
        quality = dict(context.quality(update.teacher))
        if task.classes != len(context.prepared.class_names):
            quality.pop("teacher_by_class", None)  # tokens are too many for a table
        metrics.update(quality)
    look_for_secrets(update, "peers")


def share(update: LocalUpdate) -> None:
    """Make the client's knowledge, protect it, and encode it for the upload."""
    context, kind = update.context, update.context.kind
    assert kind is not None, "knowledge was asked for in a run that exchanges none"
    look_for_secrets(update, "own_model")
    logits = public_logits(update) if kind.predicts else None
    if logits is not None and len(logits):
        counts = context.label_counts(update.client_id)
        update.metrics["label_leakage"] = label_leakage(logits, counts)
    protect(update, kind.extract(KnowledgeView(update, logits)))
    if context.codecs is not None:
        memory = None if update.download.start_over else update.memory.codec("up")
        codec = context.codecs.up.of_client(update.client_id)
        arrays, after = codec.encode(kind.encode(update.released.knowledge), memory)
        update.released.knowledge = Packed(arrays)
        update.memory.replace_codec("up", after)


STEPS: Mapping[Step, Callable[[LocalUpdate], None]] = {
    "pretrain": pretrain,
    "warm_up": warm_up,
    "distill": distill,
    "adopt": adopt,
    "train": train,
    "evaluate_distilled": partial(evaluate, point="distillation"),
    "evaluate_trained": partial(evaluate, point="training"),
    "inspect": inspect,
    "share": share,
}


def preparation(training: TrainingSettings) -> tuple[Step, ...]:
    """Return what clients do before their first round."""
    pretrain: tuple[Step, ...] = ("pretrain",) if training.public_epochs else ()
    return (*pretrain, "warm_up") if training.warm_up_epochs else pretrain


def protect(update: LocalUpdate, knowledge: object) -> None:
    """Put what may leave the client into the update, with the event that states its cost."""
    enforcer, task, scores = update.context.enforcer, update.context.task, None
    detector = enforcer.mechanism.detector
    if detector is not None:
        assert isinstance(knowledge, Predictions), "checked before the run"
        hints = task.hints(detector, knowledge.ids)
        scores = enforcer.suspicion(knowledge, update.memory.section(PRIVACY), hints)
        if scores is not None:
            update.metrics.update(task.judged(scores, knowledge.ids))
    turn = update.privacy_round()
    protected, event, memory = enforcer.protect(knowledge, turn, scores)
    update.released = Released(protected, event)
    update.memory.replace(PRIVACY, memory)


def phase_of(context: ClientContext, purpose: str) -> tuple[Phase, int | None]:
    """Return the settings of a training step, and its epochs where they are not the settings'."""
    if purpose == "distill":
        return context.distillation, None
    training = context.training
    before = {"pretrain": training.public_epochs, "warm_up": training.warm_up_epochs}
    return training, before.get(purpose)


def round_of(update: LocalUpdate, purpose: str) -> RoundOfRun | None:
    """Return the round that a training step is part of; None before the first one."""
    rounds = update.context.last_round
    if purpose not in LOSS_METRICS or rounds is None:
        return None
    return RoundOfRun(update.round, rounds)


def label_smoothed(context: ClientContext) -> LabelLoss:
    """Return the loss of logits and labels: the task's own, smoothed labels', or symmetric."""
    smoothing, reverse = context.training.label_smoothing, context.training.reverse_weight
    if reverse is not None:
        return partial(symmetric_cross_entropy, reverse_weight=reverse)
    return partial(F.cross_entropy, label_smoothing=smoothing) if smoothing else context.task.loss


def optimize_phase(
    update: LocalUpdate,
    purpose: str,
    size: int,
    batch_loss: Callable[[Tensor], Tensor],
    batches_on: torch.device | None = None,
) -> None:
    """Train the update's model in one step, with streams of its own, and record its mean loss.

    Models that draw from the global generator borrow it, one at a time.

    Args:
        update: The update, whose model is trained in place.
        purpose: The step: ``pretrain``, ``warm_up``, ``train`` or ``distill``.
        size: Examples to train on.
        batch_loss: Maps indices below ``size`` to the mean loss of those examples.
        batches_on: Where it takes them; None is the model's device.
    """
    context, (phase, epochs) = update.context, phase_of(update.context, purpose)
    model, head = update.model, update.info.head
    beside = update.companion if purpose == "train" else None
    prefix = f"{OPTIMIZER}{purpose}/"
    before = update.memory.section(prefix)
    with random_draws(update, purpose), partly_frozen(model, phase, head):
        parameters = phase_parameters(model, distills=purpose == "distill")
        parameters += [] if beside is None else list(beside.parameters())
        optimizer = Optimizer(parameters, phase, head_parameters(model, phase, head))
        if before:
            optimizer.restore(before)
        loop = TrainingLoop(
            model=model if beside is None else nn.ModuleList([model, beside]),
            size=size,
            batch_loss=batch_loss,
            phase=phase,
            epochs=epochs,
            optimizer=optimizer,
            at=round_of(update, purpose),
            batches=update.stream(f"{purpose} batches"),
            check_interrupt=update.check_interrupt,
            batches_on=batches_on,
        )
        if purpose == "train":
            loss = context.enforcer.train(
                loop,
                update.privacy_round(),
                lambda memory: update.memory.replace(PRIVACY, memory),
            )
        else:
            loss = loop.run()
    if before:
        update.memory.replace(prefix, optimizer.tensors())
    if loss is not None and purpose in LOSS_METRICS:
        update.metrics[LOSS_METRICS[purpose]] = loss


def random_draws(update: LocalUpdate, purpose: str) -> AbstractContextManager[None]:
    """Return what lends a model that draws in training, as dropout does, the global generator."""
    if not update.draws_randomness:
        return nullcontext()
    path = update.stream_path(f"{purpose} dropout")
    return borrowed_global_generator(torch_seed(update.context.seed, *path))


def batches_of(update: LocalUpdate, purpose: str, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what gives the inputs of a batch, changed at random where images are augmented."""
    task, how = update.context.task, update.context.training.augment
    if how == "none":
        return lambda batch: x[batch]
    stream = update.stream(f"{purpose} augmentation")
    return lambda batch: task.augmented(x[batch], how, stream)


def task_loss(
    update: LocalUpdate, purpose: str, x: Tensor, y: Tensor
) -> Callable[[Tensor], Tensor]:
    """Return the task's own loss of a batch of examples.

    Args:
        update: The update, whose model is trained.
        purpose: The step: ``pretrain``, ``warm_up`` or ``train``.
        x: Inputs of the examples.
        y: Their targets.
    """
    task, model, seen = update.context.task, update.model, batches_of(update, purpose, x)
    training = update.context.training
    if training.label_smoothing or training.reverse_weight is not None:
        loss = label_smoothed(update.context)
        return lambda batch: loss(task.logits(model, seen(batch)), y[batch])
    return lambda batch: task.training_loss(model, seen(batch), y[batch])


def penalized_loss(
    update: LocalUpdate, x: Tensor, y: Tensor, penalty: Penalty, layer: str | None
) -> Callable[[Tensor], Tensor]:
    """Return the task's loss of a batch with the term that a kind of knowledge adds.

    Args:
        update: The update, whose model is trained.
        x: Inputs of the private examples.
        y: Their targets.
        penalty: The kind's term.
        layer: The layer whose input are the features that the term takes; None if it takes none.
    """
    task, model, loss = update.context.task, update.model, label_smoothed(update.context)
    seen = batches_of(update, "train", x)

    def batch_loss(batch: Tensor) -> Tensor:
        if layer is None:
            logits, features = task.logits(model, seen(batch)), None
        else:
            logits, features = forward_with_features(model, layer, seen(batch))
        return loss(logits, y[batch]) + penalty(batch, logits, features)

    return batch_loss


def joint_loss(
    update: LocalUpdate, joint: JointLearning, x: Tensor, y: Tensor
) -> Callable[[Tensor], Tensor]:
    """Return the loss of a batch for a client's model and its companion together.

    Args:
        update: The update, whose pair is trained.
        joint: How it learns.
        x: Inputs of the private examples.
        y: Their targets.
    """
    assert update.companion is not None, "declared in needs"
    update.companion.before = floats(update.companion.shared.state_dict())
    pair, labels = KnowledgeView(update).pair, label_smoothed(update.context)
    assert pair is not None, "declared in needs"
    seen = batches_of(update, "train", x)
    return lambda batch: joint.loss(pair, seen(batch), y[batch], labels)


@dataclass(frozen=True)
class DistillationLoss:
    """The loss of a student's logits against a teacher's rows."""

    loss: Callable[[Tensor, Tensor, float], Tensor]
    target: Float[Tensor, "N C"]
    probs: Float[Tensor, "N C"]
    """The teacher's soft labels, for terms that need them."""
    weights: Float[Tensor, "N"] | None
    settings: DistillationSettings

    def __call__(self, logits: Float[Tensor, "B C"], rows: Int[Tensor, "B"]) -> Float[Tensor, ""]:
        """Return the mean loss of a batch of the teacher's ``rows``."""
        temperature, target = self.settings.temperature, self.target[rows]
        if self.weights is None:
            found = self.loss(logits, target, temperature)
        else:
            found = weighted(self.loss, logits, target, self.weights[rows], temperature)
        if self.settings.relational_weight is not None:
            found = found + self.settings.relational_weight * match_similarities(
                logits, self.probs[rows], temperature
            )
        return found


def teacher_target(context: ClientContext, teacher: Predictions) -> Float[Tensor, "N C"]:
    """Return what the run's loss compares a student's logits with. Not to be changed in place."""
    temperature = context.distillation.temperature

    def make() -> Float[Tensor, "N C"]:
        values = sent(teacher.values, context.device)
        return distillation_target(context.loss, values, teacher.scale, temperature)

    if teacher.values.numel() > SMALL_TEACHER:  # it would be held until the next round
        return make()
    return context.workspace.once(f"{context.loss} target at T={temperature}", teacher, make)


def distillation_loss(
    context: ClientContext, teacher: Predictions, own: Float[Tensor, "N C"] | None
) -> DistillationLoss:
    """Return the loss of distilling a teacher, as the run's settings have it.

    ``own`` are the student's logits beforehand, where a confidence gate compares with them.
    """
    settings, target = context.distillation, teacher_target(context, teacher)
    if own is not None:
        target = gate_by_confidence(target, soften(own, settings.temperature))
    probs, weights = target, None
    if teacher.scale != "probs" and context.loss in ON_LOGITS:
        probs = soften(sent(teacher.values, context.device), settings.temperature)
    if settings.margin_weights:
        weights = margin_weights(probs)
    if teacher.weights is not None:
        own_weights = sent(teacher.weights, context.device)
        weights = own_weights if weights is None else own_weights * weights
    return DistillationLoss(
        loss=settings.loss_of(context.loss),
        target=target,
        probs=probs,
        weights=weights,
        settings=settings,
    )


def look_for_secrets(update: LocalUpdate, whose: Literal["own_model", "peers"]) -> None:
    """Measure in the last round how far a model exposes secrets, then controls.

    ``own_model``: the client's own secrets; ``peers``: those of the others.
    """
    context = update.context
    nothing = context.kind is None or context.task.planted is None
    if nothing or update.round != context.last_round:
        return
    found = context.task.exposures(update.model, update.client_id, whose)
    if found is not None:
        update.exposures[whose] = found


def label_leakage(logits: Float[Tensor, "N C"], label_counts: tuple[int, ...]) -> float:
    """Return ``KL(true label distribution || mean soft label)`` in nats: small gives it away.

    Classes that a client lacks count nothing; ``fedkd.fusion.pairwise_kl`` takes no zeros.
    """
    counts = torch.tensor(label_counts, dtype=torch.float64)
    truth = counts / counts.sum()
    estimate = smooth(soften(logits.to(torch.float64)).mean(dim=0)[None], 1e-3)[0]
    return torch.xlogy(truth, truth / estimate).sum().item()
