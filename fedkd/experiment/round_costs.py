"""A measurement of what a round costs each client, by which engines spread clients over workers."""

import contextlib
import time

import torch

from fedkd.errors import FitFailed
from fedkd.federation.context import ClientContext
from fedkd.federation.fit_data import FITTED_TO, teach
from fedkd.models.factory import ModelSpec
from fedkd.models.fitting import FitsItself
from fedkd.runtime.devices import wait_for
from fedkd.training.hyperparameters import Phase
from fedkd.training.optimizers import Optimizer


def _trained_on(phase: Phase, size: int) -> float:
    """Return how many samples a round trains on, each time counted."""
    return phase.epochs * size if phase.steps is None else phase.steps * phase.batch_size


def round_costs(context: ClientContext) -> list[float]:
    """Return the seconds that a round costs each client, from a little work of each architecture.

    Of those that are trained by gradients a few steps, of others a fit.
    """
    named = {a.name: a for a in context.architectures}
    fits = {name for name in named if context.traits[name].fits_itself}
    unit = {
        name: _fit_seconds(context, name) if name in fits else _step_seconds(context, spec)
        for name, spec in named.items()
    }
    distills = context.kind is not None and context.kind.learned_by == "distill"
    public = len(context.public_inputs) if distills else 0
    # Predicting costs a third of a step: no gradients.
    shared = _trained_on(context.distillation, public) + public / 3
    costs = []
    for client_id, architecture in enumerate(context.architectures):
        size, seconds = context.training_size(client_id), unit[architecture.name]
        if architecture.name in fits:
            costs.append(seconds * (size + public))
        else:
            samples = _trained_on(context.training, size) + shared
            costs.append(seconds * samples / context.training.batch_size)
    return costs


def _step_seconds(context: ClientContext, architecture: ModelSpec) -> float:
    """Return the seconds of one step on a batch, on the device that works."""
    model = architecture.build(0).to(context.device).eval()
    x = architecture.example(context.training.batch_size).to(context.device)
    optimizer = Optimizer(model.parameters(), context.training)
    took = []
    for _ in range(3):
        started = time.perf_counter()
        context.task.logits(model, x).sum().backward()
        optimizer.step()
        wait_for(context.device)
        took.append(time.perf_counter() - started)
    return min(took)


def _fit_seconds(context: ClientContext, name: str) -> float:
    """Return the seconds of a fit by sample, of the first client that has the architecture."""
    client_id = next(i for i, a in enumerate(context.architectures) if a.name == name)
    model = context.architectures[client_id].build(0)
    assert isinstance(model, FitsItself), "its traits say so"
    teach(model, context, client_id, {f"{FITTED_TO}private": torch.tensor(True)})
    started = time.perf_counter()
    with contextlib.suppress(FitFailed):  # the client fails by itself, in its round
        model.fit()
    return (time.perf_counter() - started) / context.training_size(client_id)
