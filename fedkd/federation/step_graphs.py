"""Steps of a batch of clients that a GPU replays as CUDA graphs.

A step of small models is mostly the time of starting its kernels, one after the other. A graph
starts all of them at once. It works on fixed memory: states, samples and optimizer are copied into
it, and out of it. A client whose steps are over is copied out, and stepped on without effect.

**Never run on a GPU.** Tests record and replay the same operations on a CPU.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from fedkd.errors import one_line
from fedkd.federation.batch_trials import MOST_SHARE, REPEATS, Tried, first_trial, seconds_of
from fedkd.federation.batched_training import BatchStep, StepRule, StepsToTake
from fedkd.runtime.devices import copy_into

WARM_UP = 3
"""Steps that are taken as usual before one is recorded: libraries choose their kernels in them, and
the optimizer creates its state."""
MOST_GRAPHS = 8
"""Graphs that a thread keeps; each has the memory of a batch's models, gradients and
activations."""


def record(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Record what a call starts on the GPU; return what replays it, and its result's memory.

    Nothing is computed while it is recorded.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = call()
    return graph.replay, found


def reason_against_graphs(tried: Tried, *, products: bool, pays: bool) -> str | None:
    """Return why steps of a batch of clients should not be replayed; None if they should.

    By a trial: replayed steps must have the bits of usual ones over the same memory.

    Args:
        tried: The clients.
        products: Whether the batch's convolutions are products of matrices.
        pays: Whether they must be faster too, than the steps of batches without graphs.
    """
    device = tried.device
    if device.type != "cuda":
        return "only a GPU replays steps; set device=cuda"
    trial = first_trial(tried, products=products)
    if trial is None:
        return "there are no two clients with samples"
    replayed = partial(StepGraphs().take, key="trial")
    try:
        trial.together(replayed)
        trial.together(replayed)  # records at the latest here
        found = trial.together(replayed)
    except Exception as error:
        return f"a step cannot be recorded: {one_line(error)}"
    expected = trial.together(partial(StepGraphs(records=False).take, key="trial"))
    if any(not torch.equal(found[name], value) for name, value in expected.items()):
        return "replayed steps have other bits than the usual ones"
    usual = min(seconds_of(trial.together, device) for _ in range(REPEATS))
    graphs = min(seconds_of(lambda: trial.together(replayed), device) for _ in range(REPEATS))
    if pays and graphs > MOST_SHARE * usual:
        return "replayed steps are not faster"
    return None


@dataclass
class GraphedStep:
    """A step of K clients over fixed memory, recorded once it has been taken a few times."""

    rule: StepRule
    states: dict[str, Float[Tensor, "K *shape"]]
    inputs: Tensor
    """[K * B, *shape]"""
    targets: Tensor
    weights: Float[Tensor, "K B"]
    records: bool = True
    """Whether it is ever recorded."""
    step: BatchStep = field(init=False)
    _taken: int = 0
    _replay: Callable[[], None] | None = None
    _losses: Float[Tensor, "K"] | None = None

    def __post_init__(self) -> None:
        self.step = BatchStep(self.rule, self.states)

    @classmethod
    def like(cls, given: StepsToTake, *, records: bool) -> "GraphedStep":
        """Return a step with memory for the clients of some steps.

        ``records``: whether it is ever recorded.
        """
        rows, (inputs, _), (targets, _) = given.weights[0].numel(), given.inputs, given.targets
        return cls(
            rule=given.rule,
            states={name: values.clone() for name, values in given.states.items()},
            inputs=inputs.new_empty((rows, *inputs.shape[1:])),
            targets=targets.new_empty((rows, *targets.shape[1:])),
            weights=given.weights[0].clone(),
            records=records,
        )

    def begin(self, states: Mapping[str, Float[Tensor, "K *shape"]]) -> None:
        """Put clients' states into the memory, with an optimizer that is new."""
        copy_into(self.states, states)
        for tensor in self.step.optimizer.tensors().values():
            tensor.zero_()

    def take(self) -> Float[Tensor, "K"]:
        """Step every client once, and return their losses, which the next step overwrites."""
        if self.records and self._replay is None and self._taken >= WARM_UP:
            self._replay, self._losses = record(self._usual)
        if self._replay is None or self._losses is None:
            self._taken += 1
            return _on_side_stream(self._usual, self.weights.device)
        self._replay()
        return self._losses

    def _usual(self) -> Float[Tensor, "K"]:
        return self.step.take(self.inputs, self.targets, self.weights)


def _on_side_stream(call: Callable[[], Tensor], device: torch.device) -> Tensor:
    """Return what a call computes, on a stream of its own, as is asked before a recording."""
    if device.type != "cuda":
        return call()
    stream, usual = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(usual)
    with torch.cuda.stream(stream):
        found = call()
    usual.wait_stream(stream)
    return found


class StepGraphs:
    """The graphs of batches of clients; each thread keeps its own, the latest ones."""

    def __init__(self, *, records: bool = True) -> None:
        """Begin without any. ``records``: whether steps are ever recorded."""
        self._threads, self._records = threading.local(), records

    def take(self, given: StepsToTake, key: Hashable) -> None:
        """Take steps of a batch of clients; those with one ``key`` share a graph.

        Clients with the same key have the same rule.
        """
        shapes = tuple(
            (values.shape[1:], values.dtype) for values, _ in (given.inputs, given.targets)
        )
        step = self._step((key, tuple(given.weights.shape[1:]), shapes), given)
        step.begin(given.states)
        (inputs, inputs_at), (targets, targets_at) = given.inputs, given.targets
        begun = 0
        for last in sorted(set(given.counts)):
            for now in range(begun, last):
                given.check_interrupt()
                torch.index_select(inputs, 0, inputs_at[now].flatten(), out=step.inputs)
                torch.index_select(targets, 0, targets_at[now].flatten(), out=step.targets)
                step.weights.copy_(given.weights[now])
                given.losses[now] = step.take()
            done = slice(given.counts.index(last), sum(count >= last for count in given.counts))
            for name, values in given.states.items():
                values[done] = step.states[name][done].detach()
            begun = last

    def _step(self, key: Hashable, given: StepsToTake) -> GraphedStep:
        steps: OrderedDict[Hashable, GraphedStep] = self._threads.__dict__.setdefault(
            "steps", OrderedDict()
        )
        if key not in steps:
            steps[key] = GraphedStep.like(given, records=self._records)
            if len(steps) > MOST_GRAPHS:
                steps.popitem(last=False)
        steps.move_to_end(key)
        return steps[key]
