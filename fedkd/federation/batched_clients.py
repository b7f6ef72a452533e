"""Train several clients of one architecture in one batched call, ahead of their messages.

A client finds its trained state in the workspace when its message comes, and does the rest of the
message's steps itself. Only architectures are trained so whose clients get the same bits with any
other clients in the batch (on the CPU): a run does not depend on how clients are grouped.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.errors import Interrupted
from fedkd.federation.batch_trials import (
    Tried,
    depends_on_batch,
    pays,
    products_pay,
    reason_against,
)
from fedkd.federation.batched_predictions import BatchPredictions, are_foreseen
from fedkd.federation.batched_training import (
    ON_GPU_AT_ONCE,
    Pool,
    StepsToTake,
    chunks,
    clients_at_once,
    even_chunks,
    optimize_together,
    take_in_turn,
)
from fedkd.federation.context import ClientContext, PrecomputedUpdate
from fedkd.federation.local_steps import LOSS_METRICS, phase_of, teacher_target
from fedkd.federation.local_update import TRAINING, open_teacher
from fedkd.federation.step_graphs import reason_against_graphs
from fedkd.knowledge import KnowledgeType
from fedkd.messages import Download, Packed, Predictions, Step
from fedkd.models.factory import ImageModelSpec
from fedkd.models.product_convolutions import as_products, convolutions_of
from fedkd.runtime.seeding import numpy_stream
from fedkd.training.hyperparameters import Phase
from fedkd.training.losses import OF_BATCHES

Batch = Sequence[tuple[int, Download]]
"""Clients that are trained together, by id, with their downloads."""
Samples = tuple[Pool, Pool, list[int]]
"""Inputs and targets of all clients of a batch, and how many each of them has."""


def reason_unbatched(context: ClientContext, name: str, *, products: bool = False) -> str | None:
    """Return why clients of an architecture must train one by one; None if not.

    ``products``: whether their convolutions would be products of matrices.
    """
    architecture = architecture_of(context, name)
    if architecture is None or context.traits[name].fits_itself:
        return "only image models that learn by gradients are trained together"
    if architecture.without_heads != architecture:
        return "it has heads that are put on it"
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
    if (reason := _reason_of_steps(context, phases)) is not None:
        return reason
    reason = reason_against(architecture, context.traits[name], products=products)
    if reason is None and context.device.type == "cpu":
        for phase in phases:
            if depends_on_batch(architecture, phase.batch_size, products=products):
                helps = not products and has_convolutions(context, name)
                return (
                    "its sums round differently with the other clients of a batch, so that a run"
                    " would depend on workers"
                    f"{'; product_convolutions=auto mends that' if helps else ''}"
                )
    return reason


def _reason_of_steps(context: ClientContext, phases: Sequence[Phase]) -> str | None:
    """Return why the steps of clients are none that could be taken together; None if they are."""
    if any(phase.optimizer_state == "kept" for phase in phases):
        return "optimizer_state=kept lets clients' optimizers be at different steps"
    if context.training.reverse_weight is not None:
        return "train.reverse_weight changes the loss of labels"
    if context.loss in OF_BATCHES:
        return f"the loss {context.loss} is of a batch together"
    if context.training.augment != "none":
        return "each augments its images by draws of its own"
    if any(phase.schedule != "constant" for phase in phases):
        return "each client's learning rate changes with its own batches"
    if any(phase.clip_grad_norm is not None for phase in phases):
        return "clip_grad_norm shortens each client's gradient by itself"
    if any(phase.trains_in_parts for phase in phases):
        return "parts of each model are frozen, or have a learning rate of their own"
    if context.precision == "bf16":
        return "precision=bf16 rounds sums otherwise in a batched call"
    return None


def trains_plainly(kind: KnowledgeType) -> bool:
    """Return whether clients train on labels alone, and distill on the same samples."""
    alike = kind.all_answer and kind.learn_alike
    return alike and not kind.adds_penalty and not kind.remembers


def architecture_of(context: ClientContext, name: str) -> ImageModelSpec | None:
    """Return the clients' architecture of a name, None unless it is one of images."""
    found = next(a for a in context.architectures if a.name == name)
    return found if isinstance(found, ImageModelSpec) else None


def is_faster(context: ClientContext, name: str, *, products: bool) -> bool:
    """Return whether a short trial finds batched training of an architecture faster."""
    return all(pays(tried, products=products) for tried in _tried(context, name))


def wants_products(context: ClientContext, name: str) -> bool:
    """Return whether convolutions should be products where clients of a model train together.

    On a CPU they should: only so a client's bits do not depend on its batch. On another device a
    short trial decides.
    """
    if not has_convolutions(context, name):
        return False
    if context.device.type == "cpu":
        return True
    return reason_unbatched(context, name, products=True) is None and all(
        products_pay(tried) for tried in _tried(context, name)
    )


def has_convolutions(context: ClientContext, name: str) -> bool:
    """Return whether an architecture has convolutions that can be products of matrices."""
    architecture = architecture_of(context, name)
    return architecture is not None and bool(convolutions_of(architecture.build(seed=0)))


def reason_ungraphed(
    context: ClientContext, name: str, *, products: bool, pays: bool
) -> str | None:
    """Return why steps of an architecture's clients should not be replayed; None if they should.

    Args:
        context: What the clients share.
        name: An architecture whose clients train together.
        products: Whether its convolutions are products of matrices then.
        pays: Whether replayed steps must be faster.
    """
    reasons = (
        reason_against_graphs(tried, products=products, pays=pays)
        for tried in _tried(context, name)
    )
    return next((reason for reason in reasons if reason is not None), None)


def _tried(context: ClientContext, name: str) -> list[Tried]:
    """Return an architecture's clients in each phase that is tried."""
    architecture = architecture_of(context, name)
    assert architecture is not None, "has no reason to be trained alone"
    clients = [i for i, a in enumerate(context.architectures) if a.name == name]
    private = [len(context.division.train[i]) for i in clients]
    found = [Tried(architecture, private, context.training, context.device)]
    if context.kind is not None:
        public = [context.task.public_size] * len(clients)
        found.append(Tried(architecture, public, context.distillation, context.device))
    return found


def batches_of_clients(
    context: ClientContext, client_ids: Sequence[int], workers: int
) -> list[list[int]]:
    """Return the clients in the batches that are trained together, some of one client."""
    groups: list[list[int]] = [
        [i] for i in client_ids if context.architectures[i].name not in context.batching.models
    ]
    if context.batching.fixed:
        asked = set(client_ids)
        found = ([i for i in batch if i in asked] for batch in fixed_batches(context))
        return [*groups, *(batch for batch in found if batch)]
    for name in sorted(context.batching.models):
        ids = [i for i in client_ids if context.architectures[i].name == name]
        at_most = max(4, -(-len(ids) // workers))
        sizes = [len(context.division.train[i]) for i in ids]
        at_most = min(at_most, clients_at_once(context.traits[name].parameters))
        groups += [[ids[j] for j in chunk] for chunk in chunks(sizes, at_most)]
    return groups


def fixed_batches(context: ClientContext) -> list[list[int]]:
    """Return all clients that are trained together, in batches that depend on their sizes alone.

    On a GPU a client's bits depend on the clients of its batch, and so a run would depend on how
    many workers there are.
    """
    found = []
    for name in sorted(context.batching.models):
        ids = [i for i, a in enumerate(context.architectures) if a.name == name]
        sizes = [len(context.division.train[i]) for i in ids]
        found += [[ids[j] for j in chunk] for chunk in even_chunks(sizes, ON_GPU_AT_ONCE)]
    return found


def train_batch(context: ClientContext, batch: Batch) -> None:
    """Train the clients of one batch as their downloads say, ahead of their messages.

    One client alone too: in the loop it would round otherwise, and so depend on who else is there.
    """
    alike: dict[tuple[Step, ...], list[tuple[int, Download]]] = {}
    for client_id, download in batch:  # who is measured does not decide who is trained together
        trains = tuple(step for step in download.steps if step in TRAINING)
        alike.setdefault(trains, []).append((client_id, download))
    for trains, clients in alike.items():
        if trains or are_foreseen(context):
            _train_alike(context, clients)


def _train_alike(context: ClientContext, batch: Batch) -> None:
    """Train clients that are asked for the same steps."""
    halfway = any("evaluate_distilled" in download.steps for _, download in batch)
    started = time.perf_counter()
    states = [context.store.get(i) or context.initial_state(i) for i, _ in batch]
    model, _ = context.borrow_model(batch[0][0])
    stacked = {
        name: torch.stack([state[name].to(context.device) for state in states])
        for name in model.state_dict()
    }
    metrics: list[dict[str, float]] = [{} for _ in batch]
    distilled: dict[str, Tensor] = {}
    views = {context.task.for_client(i) is context.task for i, _ in batch}
    ahead = BatchPredictions(context, batch) if are_foreseen(context) and all(views) else None
    name = context.architectures[batch[0][0]].name
    with as_products(model, name in context.batching.products):
        for step in max((download.steps for _, download in batch), key=len):
            if step not in _SAMPLES:
                if ahead is not None:
                    ahead.take(step, model, stacked)
                continue
            if step == "train" and halfway:
                distilled = {name: values.clone() for name, values in stacked.items()}
            losses = _optimize(context, batch, stacked, step)
            for found, loss in zip(metrics, losses, strict=True):
                if loss is not None and step in LOSS_METRICS:
                    found[LOSS_METRICS[step]] = loss
    quality = [{} for _ in batch] if ahead is None else ahead.figures()
    logits = None if ahead is None else ahead.logits
    seconds = (time.perf_counter() - started) / len(batch)
    for row, ((client_id, download), found) in enumerate(zip(batch, metrics, strict=True)):
        state = {name: values[row] for name, values in stacked.items()}
        before = {name: values[row] for name, values in distilled.items()} or None
        update = PrecomputedUpdate(
            state,
            found,
            seconds,
            before,
            quality[row],
            None if logits is None else logits[row],
        )
        context.workspace.put(client_id, download, update)


def _private_samples(context: ClientContext, batch: Batch) -> Samples:
    """Return each client's private inputs and labels."""
    parts = [context.samples(context.train_rows(i)) for i, _ in batch]
    x, y = Pool.of_each([x for x, _ in parts]), Pool.of_each([y for _, y in parts])
    return x, y, [len(y) for _, y in parts]


def _labeled_samples(context: ClientContext, batch: Batch) -> Samples:
    """Return the public inputs and labels, which all clients pretrain on."""
    x, y = context.public_inputs, context.public_labels
    return Pool.shared(x, len(batch)), Pool.shared(y, len(batch)), [len(y)] * len(batch)


def _taught_samples(context: ClientContext, batch: Batch) -> Samples:
    """Return the public inputs of a round and the targets of each client's teacher."""
    teachers = [_teacher(context, client, download) for client, download in batch]
    ids, values = teachers[0].ids, teachers[0].values
    assert all(torch.equal(teacher.ids, ids) for teacher in teachers), (
        "one round asks everyone for the same samples"
    )
    x = context.public_inputs_of(ids)
    if all(torch.equal(teacher.values, values) for teacher in teachers[1:]):
        y = Pool.shared(teacher_target(context, teachers[0]), len(batch))
    else:
        y = Pool.of_each([teacher_target(context, teacher) for teacher in teachers])
    return Pool.shared(x, len(batch)), y, [len(x)] * len(batch)


def _teacher(context: ClientContext, client_id: int, download: Download) -> Predictions:
    teacher = download.teacher
    if isinstance(teacher, Packed):
        teacher, _ = open_teacher(context, client_id, teacher, None)
    assert isinstance(teacher, Predictions), "a teacher was announced and is missing"
    return teacher


_SAMPLES: Mapping[str, Callable[[ClientContext, Batch], Samples]] = {
    "pretrain": _labeled_samples,
    "warm_up": _private_samples,
    "distill": _taught_samples,
    "train": _private_samples,
}


def one_hot(labels: Pool, classes: int) -> Pool:
    """Return labels as probabilities, of which cross-entropy is the same up to rounding.

    The gradient of labels is a scatter under ``vmap``, which a GPU sorts for where algorithms are
    to repeat: a dozen kernels a step.
    """
    return Pool(F.one_hot(labels.values, classes).to(torch.float32), labels.starts)


def _optimize(
    context: ClientContext, batch: Batch, stacked: dict[str, Tensor], step: Step
) -> list[float | None]:
    """Run one training step of all clients in place, and return their mean losses.

    Args:
        context: What the clients share.
        batch: The clients with their downloads.
        stacked: Their model states, [K, ...] each.
        step: ``pretrain``, ``warm_up``, ``train`` or ``distill``.
    """

    def check_interrupt() -> None:
        if context.stopped():
            raise Interrupted

    of_teacher = context.distillation.loss_of(context.loss)

    def distillation(logits: Tensor, target: Tensor) -> Tensor:
        return of_teacher(logits, target, context.distillation.temperature)

    x, y, sizes = _SAMPLES[step](context, batch)
    if step != "distill" and context.device.type != "cpu":
        y = one_hot(y, context.task.classes)
    phase, epochs = phase_of(context, step)
    streams = [
        numpy_stream(context.seed, "client", i, "round", download.round, f"{step} batches")
        for i, download in batch
    ]
    model, _ = context.borrow_model(batch[0][0])
    smoothed = partial(F.cross_entropy, label_smoothing=context.training.label_smoothing)
    loss = distillation if step == "distill" else smoothed
    name = context.architectures[batch[0][0]].name
    take_steps: Callable[[StepsToTake], None] = take_in_turn
    if name in context.batching.graphs:
        take_steps = partial(context.workspace.step_graphs.take, key=(name, step))
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
        take_steps=take_steps,
    )
