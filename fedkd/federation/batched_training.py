"""One optimization phase of many clients that share an architecture, each step in one batched call.

Equal, up to rounding, to ``fedkd.training.loop.optimize`` client by client, and faster where a step
is mostly overhead: many tiny models on a CPU, most models on a GPU. ``reason_against`` says which
models cannot be trained so, ``pays`` times which should be. Not for prediction, and not for models
whose samples see one another (BatchNorm).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedkd.models.factory import ImageModelSpec, ModelInfo
from fedkd.models.product_convolutions import as_products
from fedkd.runtime.devices import wait_for
from fedkd.training.hyperparameters import Phase
from fedkd.training.loop import optimize
from fedkd.training.optimizers import Optimizer

CPU = torch.device("cpu")
CLIENTS_AT_ONCE = 64
ON_GPU_AT_ONCE = 256
"""Clients that are trained at once on a GPU, of any model: small ones are bound by how many
kernels are started. Where memory is short, batches are halved."""
SMALL = 16_384
"""Parameters of a model below which twice as many clients are trained at once: a step is then
mostly overhead."""
SECONDS_TO_TRY = 0.1


@dataclass(frozen=True)
class Pool:
    """Samples of K clients in one tensor: the j-th of client i is ``values[starts[i] + j]``.

    >>> Pool.of_each([torch.tensor([5, 6]), torch.tensor([7])])
    Pool(values=tensor([5, 6, 7]), starts=(0, 2))
    >>> Pool.shared(torch.tensor([5, 6]), clients=2)
    Pool(values=tensor([5, 6]), starts=(0, 0))
    """

    values: Tensor
    starts: tuple[int, ...]

    @classmethod
    def of_each(cls, parts: Sequence[Tensor]) -> "Pool":
        """Return each client's own samples, one after the other."""
        ends = np.cumsum([len(part) for part in parts]).tolist()
        return cls(torch.cat(list(parts)), (0, *ends[:-1]))

    @classmethod
    def shared(cls, values: Tensor, clients: int) -> "Pool":
        """Return the same samples for every client, held once."""
        return cls(values, (0,) * clients)


def clients_at_once(parameters: int, device: torch.device = CPU) -> int:
    """Return how many clients are trained in one call at most, by parameters and device."""
    if device.type != "cpu":
        return ON_GPU_AT_ONCE
    return 2 * CLIENTS_AT_ONCE if parameters <= SMALL else CLIENTS_AT_ONCE


def chunks(sizes: Sequence[int], at_most: int) -> list[list[int]]:
    """Return the clients in chunks of similar size, to be trained together.

    A function of the sizes alone.

    >>> chunks([10, 40, 20, 30], at_most=2)
    [[1, 3], [2, 0]]
    """
    by_size = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    return [by_size[start : start + at_most] for start in range(0, len(by_size), at_most)]


def even_chunks(sizes: Sequence[int], at_most: int) -> list[list[int]]:
    """Return the clients in as few chunks of similar size, of nearly as many clients each.

    >>> even_chunks([10, 40, 20, 30, 50], at_most=4)
    [[4, 1, 3], [2, 0]]
    """
    count = max(1, -(-len(sizes) // at_most))
    return chunks(sizes, max(1, -(-len(sizes) // count)))


@dataclass(frozen=True)
class _Plan:
    """The samples of each step, by step and by client: S steps of up to B samples."""

    rows: Int[Tensor, "S K B"]
    """Indices into the client's samples; a batch that is short repeats a sample."""
    weights: Float[Tensor, "S K B"]
    """1 / samples in the batch, and 0 where a sample only repeats."""


def _counts(size: int, batch_size: int) -> np.ndarray:
    """Return how many samples each batch of an epoch has."""
    return np.diff(np.append(np.arange(0, size, batch_size), size))


def _plan(
    clients: Sequence[tuple[int, int, np.random.Generator]], batch_size: int, like: Tensor
) -> _Plan:
    """Draw every client's batches, as ``optimize`` draws them, of its size, steps and stream."""
    shape = (max(steps for _, steps, _ in clients), len(clients), batch_size)
    rows, weights = np.zeros(shape, dtype=np.int64), np.zeros(shape)
    for i, (size, steps, stream) in enumerate(clients):
        counts = _counts(size, batch_size)
        each, epochs = len(counts), -(-steps // len(counts))
        permutations = np.stack([stream.permutation(size) for _ in range(epochs)])
        permutations = np.pad(permutations, ((0, 0), (0, each * batch_size - size)), mode="edge")
        rows[:steps, i] = permutations.reshape(-1, batch_size)[:steps]
        valid = np.arange(batch_size) < counts[:, None]
        weights[:steps, i] = np.tile(valid / counts[:, None], (epochs, 1))[:steps]
    return _Plan(torch.from_numpy(rows).to(like.device), torch.from_numpy(weights).to(like))


@dataclass(frozen=True)
class StepRule:
    """What a step of a batch of clients does: the architecture, the loss and the optimizer's rule.

    ``trained`` are the names of the parameters that are stepped.
    """

    model: nn.Module
    trained: tuple[str, ...]
    loss: Callable[[Tensor, Tensor], Tensor]
    phase: Phase


@dataclass(frozen=True, kw_only=True)
class StepsToTake:
    """The steps of a batch of clients, those with most steps first."""

    rule: StepRule
    states: dict[str, Float[Tensor, "K *shape"]]
    """The clients' states, which are changed in place."""
    counts: tuple[int, ...]
    """How many steps each client takes, in falling order."""
    inputs: tuple[Tensor, Int[Tensor, "S K B"]]
    """Samples, and the rows of them that each client takes at each step."""
    targets: tuple[Tensor, Int[Tensor, "S K B"]]
    """Targets, and their rows."""
    weights: Float[Tensor, "S K B"]
    losses: Float[Tensor, "S K"]
    """Is filled with each client's loss at each of its steps."""
    check_interrupt: Callable[[], None]


class BatchStep:
    """One step of K clients in one call: forward, loss, backward, and the optimizer."""

    def __init__(self, rule: StepRule, states: Mapping[str, Float[Tensor, "K *shape"]]) -> None:
        """Begin with states, whose trained parameters are changed in place by each step."""
        self.parameters = {name: nn.Parameter(states[name]) for name in rule.trained}
        self.states = {**states, **self.parameters}
        self.optimizer = Optimizer(self.parameters.values(), rule.phase)
        model, loss = rule.model, rule.loss
        self._forward = vmap(lambda state, x: functional_call(model, state, (x,)))
        self._loss_of_each = vmap(lambda logits, target: loss(logits[None], target[None]))

    def take(
        self, inputs: Tensor, targets: Tensor, weights: Float[Tensor, "K B"]
    ) -> Float[Tensor, "K"]:
        """Step every client once, and return their losses.

        Args:
            inputs: Of all clients, one client after the other: [K * B, *shape].
            targets: Alike.
            weights: Of each sample in its client's mean.
        """
        clients = len(weights)
        logits = self._forward(self.states, inputs.unflatten(0, (clients, -1)))
        terms = self._loss_of_each(logits.flatten(0, 1), targets).unflatten(0, (clients, -1))
        each = _weighted_sum(terms, weights)
        self.optimizer.zero_grad()
        each.sum().backward()
        self.optimizer.step()
        return each.detach()


def take_in_turn(given: StepsToTake) -> None:
    """Take the steps one after the other, each of the clients that are still at work."""
    (inputs, inputs_at), (targets, targets_at) = given.inputs, given.targets
    before: Optimizer | None = None
    begun = 0
    for last in sorted(set(given.counts)):
        active = sum(count >= last for count in given.counts)
        step = BatchStep(given.rule, {name: v[:active] for name, v in given.states.items()})
        before = step.optimizer = _taken_over(before, step.optimizer, active)
        for now in range(begun, last):
            given.check_interrupt()
            given.losses[now, :active] = step.take(
                inputs.index_select(0, inputs_at[now, :active].flatten()),
                targets.index_select(0, targets_at[now, :active].flatten()),
                given.weights[now, :active],
            )
        begun = last


def optimize_together(
    model: nn.Module,
    states: dict[str, Tensor],
    sizes: Sequence[int],
    inputs: Pool,
    targets: Pool,
    loss: Callable[[Float[Tensor, "B C"], Tensor], Float[Tensor, ""]],
    phase: Phase,
    streams: Sequence[np.random.Generator],
    *,
    epochs: float | None = None,
    check_interrupt: Callable[[], None] = lambda: None,
    take_steps: Callable[[StepsToTake], None] = take_in_turn,
) -> list[float | None]:
    """Train K clients of one architecture; return each one's mean loss.

    The losses are those of the last epoch.

    ``states`` holds the clients' model states, each entry stacked to [K, ...]. ``model`` gives the
    forward, and says which parameters are trained; its own weights are neither used nor changed.
    Client i has ``sizes[i]`` samples and draws its batches from ``streams[i]``, as in ``optimize``;
    its loss is None without samples or epochs. ``loss`` maps logits and targets [B, ...] to the
    mean over samples of a term for each, as all of ``fedkd.training.losses`` do.

    Equals ``optimize`` up to rounding. A short batch is filled by repeating a sample at weight 0,
    and a client whose epochs are over is stepped no more. Perceptrons, transformers, and
    convolutions as products, on a CPU were found to give a client the same bits in any batch, which
    is why batches are filled to ``phase.batch_size`` for everyone and why the optimizer is not a
    fused one, whose rounding depends on where in a tensor an element stands. PyTorch's convolutions
    round differently with the number of clients: to repeat a run, repeat its chunks.

    ``check_interrupt`` is called before every step and may raise; no state has changed then.

    Args:
        model: The architecture; its own weights are neither used nor changed.
        states: The clients' model states, [K, ...] each; trained in place.
        sizes: How many samples each client has.
        inputs: The clients' inputs.
        targets: The clients' targets.
        loss: Maps logits and targets [B, ...] to their mean loss.
        phase: Batch size, optimizer and learning rate.
        streams: Each client's stream of batches.
        epochs: Passes over the samples; the steps or epochs of ``phase`` by default.
        check_interrupt: Called before every step; may raise.
        take_steps: Takes the steps that are planned.
    """
    steps = [phase.step_count(size, epochs) for size in sizes]
    # Those with most steps first: the clients still at work are then always the first few, and
    # slices are views.
    sorted_ids = [i for i in sorted(range(len(sizes)), key=lambda i: (-steps[i], i)) if steps[i]]
    means: list[float | None] = [None] * len(sizes)
    if not sorted_ids:
        return means
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    clients = [(sizes[i], steps[i], streams[i]) for i in sorted_ids]
    plan = _plan(clients, phase.batch_size, states[trained[0]])
    rows = torch.tensor(sorted_ids, device=plan.rows.device)
    inputs_at, targets_at = (
        plan.rows + torch.tensor(pool.starts).to(rows)[rows, None] for pool in (inputs, targets)
    )
    ordered = {name: values[rows] for name, values in states.items()}
    losses = plan.weights.new_zeros(plan.weights.shape[:2])

    model.train()
    take_steps(
        StepsToTake(
            rule=StepRule(model, tuple(trained), loss, phase),
            states=ordered,
            counts=tuple(steps[i] for i in sorted_ids),
            inputs=(inputs.values, inputs_at),
            targets=(targets.values, targets_at),
            weights=plan.weights,
            losses=losses,
            check_interrupt=check_interrupt,
        )
    )
    for name, values in ordered.items():
        states[name][rows] = values
    table = losses.to("cpu", torch.float64).numpy()
    for column, i in enumerate(sorted_ids):
        means[i] = _mean_loss(table[: steps[i], column], sizes[i], phase.batch_size)
    return means


def _weighted_sum(terms: Float[Tensor, "k B"], weights: Float[Tensor, "k B"]) -> Tensor:
    """Return each client's weighted sum; a term of weight 0 may be anything."""
    return torch.where(weights > 0, weights * terms, 0).sum(dim=1)


def _mean_loss(losses: np.ndarray, size: int, batch_size: int) -> float:
    """Return a client's mean loss over its last epoch, perhaps a part of one, of those by step.

    Added up client by client: a sum over an axis of the whole table may round differently with its
    length.
    """
    counts = _counts(size, batch_size)
    counts = counts[: len(losses) % len(counts) or len(counts)]
    return float(sum(losses[len(losses) - len(counts) :] * counts)) / int(counts.sum())


def _taken_over(before: Optimizer | None, optimizer: Optimizer, active: int) -> Optimizer:
    """Return ``optimizer`` with what the one before remembers of the first ``active`` clients."""
    if before is not None:
        # Only the count of steps has no axis of clients: those still at work have all made as many.
        optimizer.state = [
            {name: value[:active] if value.ndim > 0 else value for name, value in known.items()}
            for known in before.state
        ]
    return optimizer


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


def _samples(
    architecture: ImageModelSpec, count: int, device: torch.device
) -> tuple[Tensor, Tensor]:
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
    x, y = _samples(architecture, 5, torch.device("cpu"))
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
    batches of 1, 3 and 17, or of as many as are trained at once where the model is small.
    """
    model = architecture.build(seed=0)
    parameters = sum(p.numel() for p in model.parameters())
    count = clients_at_once(parameters) if parameters <= SMALL else 17
    sizes = [batch_size + 1 + i % 3 for i in range(count)]
    samples, phase = (
        _samples(architecture, sum(sizes), torch.device("cpu")),
        Phase(batch_size=batch_size),
    )
    whole = Trial(model, sizes, phase, samples, products=products).together()
    for count_alone in (1, 3):
        few = sizes[:count_alone]
        part = Trial(model, few, phase, samples, products=products).together()
        if any(not torch.equal(values, whole[name][:count_alone]) for name, values in part.items()):
            return True
    return False


def pays(
    architecture: ImageModelSpec,
    sizes: Sequence[int],
    phase: Phase,
    device: torch.device,
    *,
    products: bool = False,
    at_most: float = 0.9,
    repeats: int = 3,
) -> bool:
    """Return whether batched training takes at most 0.9 of the loop's time, by a trial.

    The first of the ``chunks`` trains for up to five steps, or as many of its clients as the loop
    trains in 0.1 seconds. Counts this thread's CPU seconds, wall seconds on other devices; the
    least of ``repeats`` interleaved runs. Being a measurement, it may differ from call to call
    where the two are close: a run that must repeat to the bit asks once and keeps the answer.

    Args:
        architecture: The clients' architecture.
        sizes: How many samples each client has.
        phase: Batch size, optimizer and learning rate.
        device: Where they train.
        products: Whether the batch's convolutions are products of matrices.
        at_most: The largest share of the loop's time that pays.
        repeats: Interleaved runs, of which the least counts.
    """
    trial = first_trial(architecture, sizes, phase, device, products=products)
    if trial is None:
        return False
    count = len(trial.sizes)
    some = sorted({0, count // 2, count - 1})
    trial.together()
    alone, together = [], []
    for _ in range(repeats):
        alone.append(seconds_of(lambda: [trial.alone(i) for i in some], device) / len(some))
        together.append(seconds_of(trial.together, device) / count)
    return min(together) <= at_most * min(alone)


def products_pay(
    architecture: ImageModelSpec,
    sizes: Sequence[int],
    phase: Phase,
    device: torch.device,
    *,
    at_most: float = 0.9,
    repeats: int = 3,
) -> bool:
    """Return whether a batch is faster with convolutions as products of matrices, by a trial.

    As ``pays`` finds whether a batch is faster than the loop.

    Args:
        architecture: The clients' architecture.
        sizes: How many samples each client has.
        phase: Batch size, optimizer and learning rate.
        device: Where they train.
        at_most: The largest share that pays of the time of PyTorch's convolutions.
        repeats: Interleaved runs, of which the least counts.
    """
    trial = first_trial(architecture, sizes, phase, device)
    if trial is None:
        return False
    found: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(repeats + 1):
        for trial.products in (False, True):
            took = seconds_of(trial.together, device)
            found[trial.products] += [took] if turn else []  # the first turn warms up
    return min(found[True]) <= at_most * min(found[False])


def first_trial(
    architecture: ImageModelSpec,
    sizes: Sequence[int],
    phase: Phase,
    device: torch.device,
    *,
    products: bool = False,
) -> Trial | None:
    """Return a trial of the first clients that would train together; None if it were only one.

    Args:
        architecture: The clients' architecture.
        sizes: How many samples each client has.
        phase: Batch size, optimizer and learning rate.
        device: Where they train.
        products: Whether the batch's convolutions are products of matrices.
    """
    batch = phase.batch_size
    model = architecture.build(seed=0).to(device)
    at_once = clients_at_once(sum(p.numel() for p in model.parameters()), device)
    first = chunks(sizes, at_once)[:1]
    sizes = [
        min(sizes[i], 4 * batch + sizes[i] % batch) for chunk in first for i in chunk if sizes[i]
    ]
    if len(sizes) < 2:
        return None
    samples = _samples(architecture, sum(sizes), device)
    phase = replace(phase, epochs=1, steps=None)
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
