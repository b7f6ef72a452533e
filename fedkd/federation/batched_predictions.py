"""Predictions and test figures of clients that are trained together, of all in one call.

On a device other than the CPU: there a forward pass of one small model is mostly overhead. A client
finds its own when its message comes. Not for: training (``fedkd.federation.batched_training``).
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedkd.federation.context import ClientContext, Quality3
from fedkd.knowledge import PredictorKnowledge
from fedkd.messages import Download, Step
from fedkd.settings.measuring_points import MeasuringPoint
from fedkd.tasks.task import Task
from fedkd.training.loop import prediction_batch_size
from fedkd.training.metrics import quality_of_many

AT_ONCE = 4
"""How many batches of a model alone one call predicts on, of all clients together."""
MOST_VALUES = 2**26
"""The most logits of a batch of clients that are held at once, a quarter of a gigabyte."""
POINTS: Mapping[Step, MeasuringPoint] = {
    "evaluate_distilled": "distillation",
    "evaluate_trained": "training",
}


def predict_together(
    model: nn.Module,
    states: Mapping[str, Float[Tensor, "K *shape"]],
    inputs: Tensor,
    *,
    shared: bool,
) -> Float[Tensor, "K n C"]:
    """Return the logits of K models of one architecture in evaluation mode, without gradients.

    Equals ``fedkd.training.loop.predict`` of each up to rounding.

    Args:
        model: The architecture; its own weights are not used.
        states: The models' states, stacked.
        inputs: [n, *shape] for all of them, or [K, n, *shape].
        shared: Whether they are for all of them.
    """
    model.eval()
    clients = len(next(iter(states.values())))
    samples = inputs if shared else inputs.transpose(0, 1)
    values = samples[0].numel() if len(samples) else 1
    values //= 1 if shared else clients
    at_once = max(1, AT_ONCE * prediction_batch_size(inputs.device, values) // clients)
    forward = vmap(
        lambda state, x: functional_call(model, dict(state), (x,)),
        in_dims=(0, None if shared else 0),
    )
    with torch.no_grad():
        parts = [forward(states, part) for part in inputs.split(at_once, 0 if shared else 1)]
    return torch.cat(parts, dim=1)


def are_foreseen(context: ClientContext) -> bool:
    """Return whether a batch of clients is predicted and measured ahead of their messages."""
    return (
        context.device.type != "cpu"
        and not context.measurement.metrics
        and not isinstance(context.kind, PredictorKnowledge)
        and type(context.task).evaluate is Task.evaluate
    )


class BatchPredictions:
    """Predictions and figures of a batch of clients, taken while it goes through its steps."""

    def __init__(self, context: ClientContext, batch: Sequence[tuple[int, Download]]) -> None:
        """Begin with nothing."""
        self._context, self._batch = context, batch
        self._found: dict[tuple[str, MeasuringPoint], Float[Tensor, "K 3"]] = {}
        self.logits: Float[Tensor, "K N C"] | None = None
        """The clients' logits on the public samples asked about, on the host."""

    def take(self, step: Step, model: nn.Module, states: Mapping[str, Tensor]) -> None:
        """Do what a step asks of all clients, with the weights that they have at it.

        Args:
            step: One that changes no model.
            model: The architecture.
            states: The clients' states, stacked.
        """
        if step == "share":
            self._predict(model, states)
        elif (point := POINTS.get(step)) is not None:
            for where in self._context.measurement.evaluate_on:
                inputs, labels, counts, shared = self._test_set(where)
                if min(counts.tolist(), default=0) > 0:
                    logits = predict_together(model, states, inputs, shared=shared)
                    there = counts.to(logits.device)
                    self._found[where, point] = quality_of_many(logits, labels, there)

    def figures(self) -> list[dict[tuple[str, MeasuringPoint], Quality3]]:
        """Return each client's accuracy, likelihood and calibration; the device is waited for."""
        if not self._found:
            return [{} for _ in self._batch]
        table = torch.stack(list(self._found.values()), dim=1).tolist()
        return [
            {key: (row[0], row[1], row[2]) for key, row in zip(self._found, rows, strict=True)}
            for rows in table
        ]

    def _test_set(self, where: str) -> tuple[Tensor, Tensor, Int[Tensor, "K"], bool]:
        """Return inputs, labels [K, n], how many are each client's, and whether all share inputs.

        Short sets repeat their first sample.
        """
        context, clients = self._context, len(self._batch)
        if where == "global":
            x, y = context.global_test
            return x, y.expand(clients, -1), torch.full((clients,), len(y)), True
        parts = [context.samples(context.division.test[i]) for i, _ in self._batch]
        counts = torch.tensor([len(y) for _, y in parts])
        most = int(counts.max())
        padded = [
            [torch.cat([part, part[:1].expand(most - len(part), *part.shape[1:])]) for part in pair]
            for pair in parts
        ]
        x, y = (torch.stack(list(column)) for column in zip(*padded, strict=True))
        return x, y, counts, False

    def _predict(self, model: nn.Module, states: Mapping[str, Tensor]) -> None:
        context, ids = self._context, [download.public_ids for _, download in self._batch]
        kind, first = context.kind, ids[0]
        if kind is None or not kind.predicts or first is None:
            return
        if any(other is None or not torch.equal(other, first) for other in ids):
            return
        if len(ids) * len(first) * context.task.classes <= MOST_VALUES and len(first):
            inputs = context.public_inputs_of(first)
            self.logits = predict_together(model, states, inputs, shared=True).cpu()
