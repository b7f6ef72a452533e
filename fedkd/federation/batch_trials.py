"""Trials of batched training: which models can be trained so, and which are faster so.

A trial trains clients on noise, in both ways. What is measured may differ from call to call where
two are close: a run that must repeat to the bit asks once and keeps the answer. Not for: the
training (``fedkd.federation.batched_training``), what a run asks for
(``fedkd.federation.batched_clients``).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.federation.batched_training import (
    Pool,
    StepsToTake,
    chunks,
    clients_at_once,
    optimize_together,
    take_in_turn,
)
from fedkd.models.factory import ImageModelSpec, ModelInfo
from fedkd.models.product_convolutions import as_products
from fedkd.runtime.devices import wait_for
from fedkd.training.hyperparameters import Phase
from fedkd.training.loop import optimize

SECONDS_TO_TRY = 0.1
REPEATS, MOST_SHARE = 3, 0.9
"""Interleaved runs of a trial, of which the fastest counts, and the largest share of the other
way's time that pays."""


@dataclass(frozen=True)
class Tried:
    """What is tried: clients of one architecture in one phase of training, on a device."""

    architecture: ImageModelSpec
    sizes: Sequence[int]
    """How many samples each client has."""
    phase: Phase
    device: torch.device


class Trial:
    """Clients that start from one model's weights, trained in both ways on noise."""

    def __init__(
        self,
        model: nn.Module,
        sizes: Sequence[int],
        phase: Phase,
        samples: tuple[Tensor, Tensor],
        *,
        products: bool = False,
    ) -> None:
        self.model, self.sizes, self.phase, self.products = model, list(sizes), phase, products
        self.x, self.y = (values[: sum(sizes)].split(self.sizes) for values in samples)
        self.start = {name: value.clone() for name, value in model.state_dict().items()}

    def together(
        self, take_steps: Callable[[StepsToTake], None] = take_in_turn
    ) -> dict[str, Tensor]:
        """Return the stacked states after training all clients together."""
        count = len(self.sizes)
        states = {name: torch.stack([value] * count) for name, value in self.start.items()}
        x, y = Pool.of_each(self.x), Pool.of_each(self.y)
        streams = [np.random.default_rng(i) for i in range(count)]
        with as_products(self.model, self.products):
            optimize_together(
                self.model,
                states,
                self.sizes,
                x,
                y,
                F.cross_entropy,
                self.phase,
                streams,
                take_steps=take_steps,
            )
        return states

    def alone(self, i: int) -> dict[str, Tensor]:
        """Return the state after training client i alone; valid until the next call."""
        model, x, y = self.model, self.x[i], self.y[i]
        model.load_state_dict(self.start)
        stream = np.random.default_rng(i)
        optimize(
            model,
            len(y),
            lambda batch: F.cross_entropy(model(x[batch]), y[batch]),
            self.phase,
            stream,
        )
        return model.state_dict()


def _noise(architecture: ImageModelSpec, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return inputs of noise, with labels."""
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(count, *architecture.input_shape, generator=stream)
    return x.to(device), torch.randint(architecture.classes, (count,), generator=stream).to(device)


def reason_against(
    architecture: ImageModelSpec, traits: ModelInfo, *, products: bool = False
) -> str | None:
    """Return why clients of an architecture cannot be trained together, or None if they can.

    Runs the model on a few random samples, and trains two small clients of it in both ways.
    """
    if traits.draws_randomness:
        return "it draws random numbers in training"
    model = architecture.build(seed=0).train()
    if len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters())):
        return "it uses one parameter under two names"
    x, y = _noise(architecture, 5, torch.device("cpu"))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        one, other = model(x[[0, 1]])[0], model(x[[0, 2]])[0]
    changed = [
        name for name, buffer in model.named_buffers() if not torch.equal(buffer, buffers[name])
    ]
    if changed:
        return f"training changes its buffer {changed[0]}"
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-4):
        return "what it makes of a sample depends on the rest of the batch"
    phase = Phase(batch_size=2, optimizer="sgd", learning_rate=0.01)
    trial = Trial(model, (3, 2), phase, (x, y), products=products)
    try:
        states = trial.together()
    except Exception as error:
        return f"torch.vmap fails on it: {type(error).__name__}: {error}"
    for i in range(2):
        for name, value in trial.alone(i).items():
            if not torch.allclose(states[name][i], value, rtol=1e-3, atol=1e-4):
                return f"under torch.vmap its {name} is trained otherwise"
    return None


def depends_on_batch(
    architecture: ImageModelSpec, batch_size: int, *, products: bool = False
) -> bool:
    """Return whether a client's bits depend on the batch it is trained in, on the CPU.

    Then a run would depend on how its clients are spread over workers. Found by a trial in
    batches of 1, of 3, and of as many as are trained at once.
    """
    model, cpu = architecture.build(seed=0), torch.device("cpu")
    count = clients_at_once(sum(p.numel() for p in model.parameters()))
    sizes = [batch_size + 1 + i % 3 for i in range(count)]
    samples, phase = _noise(architecture, sum(sizes), cpu), Phase(batch_size=batch_size)
    whole = Trial(model, sizes, phase, samples, products=products).together()
    for count_alone in (1, 3):
        few = sizes[:count_alone]
        part = Trial(model, few, phase, samples, products=products).together()
        if any(not torch.equal(values, whole[name][:count_alone]) for name, values in part.items()):
            return True
    return False


def pays(tried: Tried, *, products: bool = False) -> bool:
    """Return whether batched training takes at most 0.9 of the loop's time, by a trial.

    The first of the ``chunks`` trains for up to five steps, or as many of its clients as the loop
    trains in 0.1 seconds. Counts this thread's CPU seconds, wall seconds on other devices.
    ``products``: whether the batch's convolutions are products of matrices.
    """
    trial = first_trial(tried, products=products)
    if trial is None:
        return False
    count, device = len(trial.sizes), tried.device
    some = sorted({0, count // 2, count - 1})
    trial.together()
    alone, together = [], []
    for _ in range(REPEATS):
        alone.append(seconds_of(lambda: [trial.alone(i) for i in some], device) / len(some))
        together.append(seconds_of(trial.together, device) / count)
    return min(together) <= MOST_SHARE * min(alone)


def products_pay(tried: Tried) -> bool:
    """Return whether a batch is faster with convolutions as products of matrices, by a trial.

    As ``pays`` finds whether a batch is faster than the loop.
    """
    trial = first_trial(tried)
    if trial is None:
        return False
    found: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(REPEATS + 1):
        for trial.products in (False, True):
            took = seconds_of(trial.together, tried.device)
            found[trial.products] += [took] if turn else []  # the first turn warms up
    return min(found[True]) <= MOST_SHARE * min(found[False])


def first_trial(tried: Tried, *, products: bool = False) -> Trial | None:
    """Return a trial of the first clients that would train together; None if it were only one.

    ``products``: whether the batch's convolutions are products of matrices.
    """
    batch, device = tried.phase.batch_size, tried.device
    model = tried.architecture.build(seed=0).to(device)
    at_once = clients_at_once(sum(p.numel() for p in model.parameters()), device)
    first = [tried.sizes[i] for chunk in chunks(tried.sizes, at_once)[:1] for i in chunk]
    sizes = [min(size, 4 * batch + size % batch) for size in first if size]
    if len(sizes) < 2:
        return None
    samples = _noise(tried.architecture, sum(sizes), device)
    phase = replace(tried.phase, epochs=1, steps=None)
    trial = Trial(model, sizes, phase, samples, products=products)
    trial.alone(0)
    few = max(2, int(SECONDS_TO_TRY / seconds_of(lambda: trial.alone(0), device)))
    if device.type != "cpu":  # a small batch would say nothing of a large one there
        few = len(sizes)
    return Trial(model, sizes[:few], phase, samples, products=products)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Return this thread's CPU seconds in a call, or on another device its wall seconds."""
    on_cpu = device.type == "cpu"
    clock = time.thread_time if on_cpu else time.perf_counter
    start = clock()
    call()
    wait_for(device)
    return clock() - start
