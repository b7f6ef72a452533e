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
from fedkd.federation.context import Rehearsed, Workplace
from fedkd.knowledge import Kind, PublicPredictions
from fedkd.messages import Download, Packed, Predictions
from fedkd.models.factory import Architecture
from fedkd.runtime.seeding import numpy_stream
from fedkd.tasks.images import ImageTask
from fedkd.training.hyperparameters import Phase
from fedkd.training.losses import distillation_target, find_loss

Visits = Sequence[tuple[int, Download]]


def reason_alone(place: Workplace, name: str) -> str | None:
    """Return why clients of an architecture are trained one by one, whatever it costs; None if they
    need not be.
    """
    architecture = architecture_of(place, name)
    if architecture is None:
        return "only image models are trained together"
    if architecture.plain != architecture:
        return "its further heads have losses of their own"
    if place.kind is not None and not trains_plainly(place.kind):
        return "its kind of knowledge takes part in training in a way of its own"
    if place.codecs is not None and place.codecs.down.stateful:
        return "its teachers build on what each client was sent before"
    if place.guard.dp_sgd is not None or place.guard.compares:
        return "what protects its privacy takes part in its training"
    views = place.task.public.views if isinstance(place.task, ImageTask) else 1
    if place.kind is not None and not (place.distillation.plain and views == 1):
        return "each distills in a way of its own"
    phases = [place.training, *([place.distillation] if place.kind is not None else [])]
    if any(phase.optimizer_state == "kept" for phase in phases):
        return "optimizer_state=kept lets clients' optimizers be at different steps"
    reason = reason_against(architecture, place.traits[name])
    if reason is None and place.device.type == "cpu":
        for phase in phases:
            if depends_on_company(architecture, phase.batch_size):
                return "its sums round differently with the clients beside it, so that a run would depend on workers"
    return reason


def trains_plainly(kind: Kind) -> bool:
    """Return whether clients of a kind train on plain labels, and distill on the same public
    samples as one another.
    """
    return isinstance(kind, PublicPredictions) and kind.chooser is None


def architecture_of(place: Workplace, name: str) -> Architecture | None:
    """Return the clients' architecture of a name, None unless it is one of images."""
    found = next(a for a in place.architectures if a.name == name)
    return found if isinstance(found, Architecture) else None


def is_faster(place: Workplace, name: str) -> bool:
    """Return whether a short trial says that an architecture's clients are trained faster
    together.
    """
    architecture = architecture_of(place, name)
    assert architecture is not None, "has no reason to be trained alone"
    clients = [i for i, a in enumerate(place.architectures) if a.name == name]
    trials: list[tuple[list[int], Phase]] = [
        ([len(place.division.train[i]) for i in clients], place.training)
    ]
    if place.kind is not None:
        trials.append(([place.task.public_size] * len(clients), place.distillation))
    return all(pays(architecture, sizes, phase, place.device) for sizes, phase in trials)


def companies(place: Workplace, client_ids: Sequence[int], workers: int) -> list[list[int]]:
    """Return the clients of a phase in the groups that are trained together; most groups may be of
    one.
    """
    groups: list[list[int]] = [
        [i] for i in client_ids if place.architectures[i].name not in place.together
    ]
    for name in sorted(place.together):
        ids = [i for i in client_ids if place.architectures[i].name == name]
        at_most = max(4, -(-len(ids) // workers))
        sizes = [len(place.division.train[i]) for i in ids]
        at_most = min(at_most, clients_at_once(place.traits[name].parameters))
        groups += [[ids[j] for j in chunk] for chunk in chunks(sizes, at_most)]
    return groups


def rehearse(place: Workplace, visits: Visits) -> None:
    """Train the clients of one company as their downloads say, and leave the results for their
    visits.
    """
    steps = {download.steps for _, download in visits}
    if len(visits) < 2 or len(steps) != 1:
        return
    (kinds,) = steps
    started = time.perf_counter()
    states = [place.store.get(i) or place.initial_state(i) for i, _ in visits]
    model, _ = place.model(visits[0][0])
    stacked = {
        name: torch.stack([state[name].to(place.device) for state in states])
        for name in model.state_dict()
    }
    metrics: list[dict[str, float]] = [{} for _ in visits]
    for step in kinds:
        if step in _PHASES:
            found = _PHASES[step](place, visits, stacked)
            for mine, loss in zip(metrics, found["losses"], strict=True):
                if loss is not None and "metric" in found:
                    mine[found["metric"]] = loss
    seconds = (time.perf_counter() - started) / len(visits)
    for row, ((client_id, download), mine) in enumerate(zip(visits, metrics, strict=True)):
        state = {name: values[row] for name, values in stacked.items()}
        place.rehearsed[client_id, download.round, download.steps] = Rehearsed(state, mine, seconds)


def _teacher(place: Workplace, download: Download) -> Any:
    teacher = download.teacher
    return open_teacher(place, teacher, None)[0] if isinstance(teacher, Packed) else teacher


def _train(place: Workplace, visits: Visits, stacked: dict[str, Tensor]) -> Mapping[str, Any]:
    samples = [place.samples(place.train_rows(i)) for i, _ in visits]
    x, y = Pool.of_each([x for x, _ in samples]), Pool.of_each([y for _, y in samples])
    sizes = [len(y) for _, y in samples]
    phase = place.training
    return {
        "metric": "train_loss",
        "losses": _run(place, visits, stacked, "train", sizes, x, y, phase, phase.epochs),
    }


def _pretrain(place: Workplace, visits: Visits, stacked: dict[str, Tensor]) -> Mapping[str, Any]:
    count, phase = len(visits), place.training
    x, y = Pool.shared(place.public_inputs, count), Pool.shared(place.public_labels, count)
    sizes = [len(place.public_labels)] * count
    return {
        "losses": _run(place, visits, stacked, "pretrain", sizes, x, y, phase, phase.public_epochs)
    }


def _distill(place: Workplace, visits: Visits, stacked: dict[str, Tensor]) -> Mapping[str, Any]:
    teachers = [_teacher(place, download) for _, download in visits if download.teacher is not None]
    assert len(teachers) == len(visits), "a teacher was announced and is missing"
    settings, ids = place.distillation, teachers[0].ids
    assert all(torch.equal(teacher.ids, ids) for teacher in teachers), (
        "one round asks everyone for the same samples"
    )
    x = (
        place.public_inputs
        if len(ids) == len(place.public_inputs)
        else place.public_inputs[ids.to(place.device)]
    )
    targets = _targets(place, teachers)
    sizes, inputs = [len(x)] * len(visits), Pool.shared(x, len(visits))
    losses = _run(
        place, visits, stacked, "distill", sizes, inputs, targets, settings, settings.epochs
    )
    return {"metric": "distill_loss", "losses": losses}


def _targets(place: Workplace, teachers: Sequence[Predictions]) -> Pool:
    """Return the teachers' targets, a common one once."""

    def target(teacher: Predictions) -> Tensor:
        values = teacher.values.to(place.device)
        return distillation_target(
            place.loss, values, teacher.scale, place.distillation.temperature
        )

    first = teachers[0]
    if all(torch.equal(teacher.values, first.values) for teacher in teachers[1:]):
        return Pool.shared(target(first), len(teachers))
    return Pool.of_each([target(teacher) for teacher in teachers])


def _run(
    place: Workplace,
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

    def pulse() -> None:
        if place.stopped():
            raise Interrupted

    of_teacher = find_loss(place.loss, place.distillation.loss_skew)

    def distillation(logits: Tensor, target: Tensor) -> Tensor:
        return of_teacher(logits, target, place.distillation.temperature)

    streams = [
        numpy_stream(place.seed, "client", i, "round", download.round, f"{purpose} batches")
        for i, download in visits
    ]
    model, _ = place.model(visits[0][0])
    loss = distillation if purpose == "distill" else F.cross_entropy
    return optimize_together(
        model, stacked, sizes, x, y, loss, phase, streams, epochs=epochs, pulse=pulse
    )


_PHASES = {"pretrain": _pretrain, "distill": _distill, "train": _train}
