"""A measurement of what a round costs each client, by which engines spread clients over workers."""

import time

from fedkd.federation.context import ClientContext
from fedkd.training.hyperparameters import Phase
from fedkd.training.optimizers import Optimizer


def _trained_on(phase: Phase, size: int) -> float:
    """Return how many samples a round trains on, each time counted."""
    return phase.epochs * size if phase.steps is None else phase.steps * phase.batch_size


def round_costs(context: ClientContext) -> list[float]:
    """Return the seconds that a round costs each client, from a few steps of each architecture."""
    batch, step = context.training.batch_size, {}
    for architecture in {a.name: a for a in context.architectures}.values():
        model, x = architecture.build(0).eval(), architecture.example(batch)
        optimizer = Optimizer(model.parameters(), context.training)
        took = []
        for _ in range(3):
            started = time.perf_counter()
            context.task.logits(model, x).sum().backward()
            optimizer.step()
            took.append(time.perf_counter() - started)
        step[architecture.name] = min(took)
    distills = context.kind is not None and context.kind.learned_by == "distill"
    public = len(context.public_inputs) if distills else 0
    # Predicting costs a third of a step: no gradients.
    shared = _trained_on(context.distillation, public) + public / 3
    return [
        step[architecture.name]
        * (_trained_on(context.training, context.training_size(client_id)) + shared)
        / batch
        for client_id, architecture in enumerate(context.architectures)
    ]
