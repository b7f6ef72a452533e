"""Several clients' training of a phase in one batched call, ahead of their visits, where that is
faster.

A client that was rehearsed finds its trained state waiting when its message comes, and does the
rest of the message's steps itself. Only architectures are rehearsed whose clients get the same bits
in any company (on the CPU), so that a run does not depend on who was trained beside whom.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.errors import Interrupted
from fedkd.federation.batched_training import (
    Pool,
    chunks,
    clients_at_once,
    depends_on_company,
    optimize_together,
    pays,
    reason_against,
)
from fedkd.federation.client import open_teacher
from fedkd.federation.context import ClientContext, PrecomputedUpdate
from fedkd.knowledge import KnowledgeType
from fedkd.messages import Download, Packed, Predictions
from fedkd.models.factory import ImageModelSpec
from fedkd.runtime.seeding import numpy_stream
from fedkd.training.hyperparameters import Phase
from fedkd.training.losses import distillation_target, find_loss

Visits = Sequence[tuple[int, Download]]


def reason_unbatched(context: ClientContext, name: str) -> str | None:
    """Return why clients of an architecture are trained one by one, whatever it costs; None if they
    need not be.
    """
    architecture = architecture_of(context, name)
    if architecture is None:
        return "only image models are trained together"
    if architecture.without_heads != architecture:
        return "its further heads have losses of their own"
    if context.kind is not None and not trains_plainly(context.kind):
        return "its kind of knowledge takes part in training in a way of its own"
    if context.codecs is not None and context.codecs.down.stateful:
        return "its teachers build on what each client was sent before"
    if context.enforcer.joins_training:
        return "what protects its privacy takes part in its training"
    if context.kind is not None and not context.distillation.is_standard:
        return "each distills in a way of its own"
    if context.kind is not None and (reason := context.task.reason_unbatched()) is not None:
        return reason
    phases = [context.training, *([context.distillation] if context.kind is not None else [])]
    if any(phase.optimizer_state == "kept" for phase in phases):
        return "optimizer_state=kept lets clients' optimizers be at different steps"
    reason = reason_against(architecture, context.traits[name])
    if reason is None and context.device.type == "cpu":
        for phase in phases:
            if depends_on_company(architecture, phase.batch_size):
                return "its sums round differently with the clients beside it, so that a run would depend on workers"
    return reason


def trains_plainly(kind: KnowledgeType) -> bool:
    """Return whether clients of a kind train on plain labels, and distill on the same public
    samples as one another.
    """
    return kind.all_answer


def architecture_of(context: ClientContext, name: str) -> ImageModelSpec | None:
    """Return the clients' architecture of a name, None unless it is one of images."""
    found = next(a for a in context.architectures if a.name == name)
    return found if isinstance(found, ImageModelSpec) else None


def is_faster(context: ClientContext, name: str) -> bool:
    """Return whether a short trial says that an architecture's clients are trained faster
    together.
    """
    architecture = architecture_of(context, name)
    assert architecture is not None, "has no reason to be trained alone"
    clients = [i for i, a in enumerate(context.architectures) if a.name == name]
    trials: list[tuple[list[int], Phase]] = [
        ([len(context.division.train[i]) for i in clients], context.training)
    ]
    if context.kind is not None:
        trials.append(([context.task.public_size] * len(clients), context.distillation))
    return all(pays(architecture, sizes, phase, context.device) for sizes, phase in trials)


def batches_of_clients(
    context: ClientContext, client_ids: Sequence[int], workers: int
) -> list[list[int]]:
    """Return the clients of a phase in the groups that are trained together; most groups may be of
    one.
    """
    groups: list[list[int]] = [
        [i] for i in client_ids if context.architectures[i].name not in context.batch_clients
    ]
    for name in sorted(context.batch_clients):
        ids = [i for i in client_ids if context.architectures[i].name == name]
        at_most = max(4, -(-len(ids) // workers))
        sizes = [len(context.division.train[i]) for i in ids]
        at_most = min(at_most, clients_at_once(context.traits[name].parameters))
        groups += [[ids[j] for j in chunk] for chunk in chunks(sizes, at_most)]
    return groups


def train_batch(context: ClientContext, visits: Visits) -> None:
    """Train the clients of one company as their downloads say, and leave the results for their
    visits.
    """
    steps = {download.steps for _, download in visits}
    if len(visits) < 2 or len(steps) != 1:
        return
    (kinds,) = steps
    started = time.perf_counter()
    states = [context.store.get(i) or context.initial_state(i) for i, _ in visits]
    model, _ = context.model(visits[0][0])
    stacked = {
        name: torch.stack([state[name].to(context.device) for state in states])
        for name in model.state_dict()
    }
    metrics: list[dict[str, float]] = [{} for _ in visits]
    for step in kinds:
        if step in _PHASES:
            found = _PHASES[step](context, visits, stacked)
            for mine, loss in zip(metrics, found["losses"], strict=True):
                if loss is not None and "metric" in found:
                    mine[found["metric"]] = loss
    seconds = (time.perf_counter() - started) / len(visits)
    for row, ((client_id, download), mine) in enumerate(zip(visits, metrics, strict=True)):
        state = {name: values[row] for name, values in stacked.items()}
        context.precomputed[client_id, download.round, download.steps] = PrecomputedUpdate(
            state, mine, seconds
        )


def _teacher(context: ClientContext, download: Download) -> Any:
    teacher = download.teacher
    return open_teacher(context, teacher, None)[0] if isinstance(teacher, Packed) else teacher


def _train(context: ClientContext, visits: Visits, stacked: dict[str, Tensor]) -> Mapping[str, Any]:
    samples = [context.samples(context.train_rows(i)) for i, _ in visits]
    x, y = Pool.of_each([x for x, _ in samples]), Pool.of_each([y for _, y in samples])
    sizes = [len(y) for _, y in samples]
    phase = context.training
    return {
        "metric": "train_loss",
        "losses": _run(context, visits, stacked, "train", sizes, x, y, phase, phase.epochs),
    }


def _pretrain(
    context: ClientContext, visits: Visits, stacked: dict[str, Tensor]
) -> Mapping[str, Any]:
    count, phase = len(visits), context.training
    x, y = Pool.shared(context.public_inputs, count), Pool.shared(context.public_labels, count)
    sizes = [len(context.public_labels)] * count
    return {
        "losses": _run(
            context, visits, stacked, "pretrain", sizes, x, y, phase, phase.public_epochs
        )
    }


def _distill(
    context: ClientContext, visits: Visits, stacked: dict[str, Tensor]
) -> Mapping[str, Any]:
    teachers = [
        _teacher(context, download) for _, download in visits if download.teacher is not None
    ]
    assert len(teachers) == len(visits), "a teacher was announced and is missing"
    settings, ids = context.distillation, teachers[0].ids
    assert all(torch.equal(teacher.ids, ids) for teacher in teachers), (
        "one round asks everyone for the same samples"
    )
    x = (
        context.public_inputs
        if len(ids) == len(context.public_inputs)
        else context.public_inputs[ids.to(context.device)]
    )
    targets = _targets(context, teachers)
    sizes, inputs = [len(x)] * len(visits), Pool.shared(x, len(visits))
    losses = _run(
        context, visits, stacked, "distill", sizes, inputs, targets, settings, settings.epochs
    )
    return {"metric": "distill_loss", "losses": losses}


def _targets(context: ClientContext, teachers: Sequence[Predictions]) -> Pool:
    """Return the teachers' targets, a common one once."""

    def target(teacher: Predictions) -> Tensor:
        values = teacher.values.to(context.device)
        return distillation_target(
            context.loss, values, teacher.scale, context.distillation.temperature
        )

    first = teachers[0]
    if all(torch.equal(teacher.values, first.values) for teacher in teachers[1:]):
        return Pool.shared(target(first), len(teachers))
    return Pool.of_each([target(teacher) for teacher in teachers])


def _run(
    context: ClientContext,
    visits: Visits,
    stacked: dict[str, Tensor],
    purpose: str,
    sizes: Sequence[int],
    x: Pool,
    y: Pool,
    phase: Phase,
    epochs: int,
) -> list[float | None]:
    """Run one phase with each client's own streams."""

    def check_interrupt() -> None:
        if context.stopped():
            raise Interrupted

    of_teacher = find_loss(context.loss, context.distillation.loss_skew)

    def distillation(logits: Tensor, target: Tensor) -> Tensor:
        return of_teacher(logits, target, context.distillation.temperature)

    streams = [
        numpy_stream(context.seed, "client", i, "round", download.round, f"{purpose} batches")
        for i, download in visits
    ]
    model, _ = context.model(visits[0][0])
    loss = distillation if purpose == "distill" else F.cross_entropy
    return optimize_together(
        model,
        stacked,
        sizes,
        x,
        y,
        loss,
        phase,
        streams,
        epochs=epochs,
        check_interrupt=check_interrupt,
    )


_PHASES = {"pretrain": _pretrain, "distill": _distill, "train": _train}
