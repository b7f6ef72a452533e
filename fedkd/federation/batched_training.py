"""One optimization phase of many clients that share an architecture, each step in one batched call.

Equal, up to rounding, to ``fedkd.training.loop.optimize`` client by client, and faster where a step
is mostly overhead: many tiny models on a CPU, most models on a GPU. Not for prediction,
not for models whose samples see one another (BatchNorm), and not for the choice which models are
trained so (``fedkd.federation.batch_trials``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedkd.training.hyperparameters import Phase
from fedkd.training.optimizers import Optimizer

CPU = torch.device("cpu")
FEWEST_ON_CPU, MOST_ON_CPU, VALUES_ON_CPU = 8, 128, 2**21
"""Clients that are trained at once on a CPU: the fewest, the most, and about how many parameters
they have in all. More of them leave the caches of a processor: a hundred perceptrons of a hundred
thousand parameters then take a third more time than in batches of twenty."""
ON_GPU_AT_ONCE = 256
"""Clients that are trained at once on a GPU, of any model: small ones are bound by how many
kernels are started. Where memory is short, batches are halved."""


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
    """Return how many clients are trained in one call at most, by parameters and device.

    >>> [clients_at_once(parameters) for parameters in (2_410, 101_770, 10**6)]
    [128, 20, 8]
    """
    if device.type != "cpu":
        return ON_GPU_AT_ONCE
    return min(MOST_ON_CPU, max(FEWEST_ON_CPU, VALUES_ON_CPU // parameters))


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
