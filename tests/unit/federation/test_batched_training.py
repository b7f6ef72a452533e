"""Clients trained together against the plain loop, one by one."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.errors import Interrupted
from fedkd.federation.batched_clients import one_hot
from fedkd.federation.batched_training import (
    Pool,
    chunks,
    clients_at_once,
    optimize_together,
)
from fedkd.models.zoo import ZOO
from fedkd.training.hyperparameters import Phase
from fedkd.training.loop import optimize
from fedkd.training.losses import LOSSES, OF_BATCHES, ON_PROBS

FEATURES, CLASSES = 5, 3
UNEQUAL = (
    7,
    20,
    3,
    12,
    1,
    8,
)  # at batch size 4: short last batches, clients below one batch, 1 to 5 steps an epoch


def interrupt(due: bool) -> None:
    if due:
        raise Interrupted


def small(input_shape: tuple[int, ...] = (FEATURES,), classes: int = CLASSES) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(int(np.prod(input_shape)), 8), nn.Tanh(), nn.Linear(8, classes)
    )


class Federation:
    """Clients of unequal weights and samples, to be trained in both ways."""

    def __init__(
        self,
        sizes=UNEQUAL,
        factory=small,
        shape=(FEATURES,),
        dtype=torch.float64,
        loss=F.cross_entropy,
        soft=None,
    ):
        stream = torch.Generator().manual_seed(0)
        self.sizes, self.loss, self.model = sizes, loss, factory(shape, CLASSES).to(dtype)
        self.states = [
            {
                name: value + 0.1 * torch.randn(value.shape, generator=stream, dtype=dtype)
                for name, value in self.model.state_dict().items()
            }
            for _ in sizes
        ]
        self.x = [torch.randn(size, *shape, generator=stream, dtype=dtype) for size in sizes]
        rows = [torch.randn(size, CLASSES, generator=stream, dtype=dtype) for size in sizes]
        self.y = [{"probs": r.softmax(-1), "logits": r, None: r.argmax(-1)}[soft] for r in rows]

    def alone(
        self, phase: Phase, epochs: int | None = None
    ) -> tuple[list[dict[str, Tensor]], list[float | None]]:
        """The mean loss of the last epoch is taken in float64: ``optimize`` adds it up in
        float32."""
        states, means = [], []
        for i, (state, x, y) in enumerate(zip(self.states, self.x, self.y, strict=True)):
            self.model.load_state_dict(state)
            seen: list[tuple[float, int]] = []

            def batch_loss(batch: Tensor, x=x, y=y, seen=seen) -> Tensor:
                loss = self.loss(self.model(x[batch]), y[batch])
                seen.append((loss.item(), len(batch)))
                return loss

            mean = optimize(
                self.model, len(x), batch_loss, phase, np.random.default_rng(i), epochs=epochs
            )
            states.append({name: value.clone() for name, value in self.model.state_dict().items()})
            last = seen[len(seen) - math.ceil(len(x) / phase.batch_size) :]
            exact = sum(loss * count for loss, count in last) / max(len(x), 1)
            means.append(None if mean is None else exact)
        return states, means

    def together(
        self, phase: Phase, who: list[int] | None = None, **options: Any
    ) -> tuple[list[dict[str, Tensor]], list[float | None]]:
        who = list(range(len(self.sizes))) if who is None else who
        states = {name: torch.stack([self.states[i][name] for i in who]) for name in self.states[0]}
        means = optimize_together(
            self.model,
            states,
            [self.sizes[i] for i in who],
            Pool.of_each([self.x[i] for i in who]),
            Pool.of_each([self.y[i] for i in who]),
            self.loss,
            phase,
            [np.random.default_rng(i) for i in who],
            **options,
        )
        return [
            {name: values[j] for name, values in states.items()} for j in range(len(who))
        ], means


def furthest(one: tuple[list, list], other: tuple[list, list]) -> float:
    """The largest difference of any client's parameter or loss."""
    distances = [
        (a[name] - b[name]).abs().max().item()
        for a, b in zip(one[0], other[0], strict=True)
        for name in a
    ]
    for a, b in zip(one[1], other[1], strict=True):
        assert (a is None) == (b is None)
        distances.append(0.0 if a is None else abs(a - b))
    return max(distances)


def equal_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


# Equal to the loop.

OPTIMIZERS: list[dict[str, Any]] = [
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "momentum": 0.9},
    {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1},
    {"optimizer": "adam"},
    {"optimizer": "adam", "weight_decay": 0.1},
    {"optimizer": "adamw", "weight_decay": 0.1},
]


@pytest.mark.parametrize("settings", OPTIMIZERS, ids=str)
def test_clients_of_unequal_size_are_trained_as_by_the_loop(settings: dict[str, Any]):
    """Up to fifteen steps, of which a client takes three to fifteen. Masks, order and idle clients
    all count here."""
    phase, clients = Phase(epochs=3, batch_size=4, learning_rate=0.05, **settings), Federation()
    assert furthest(clients.together(phase), clients.alone(phase)) <= 1e-12


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in OF_BATCHES])
def test_every_distillation_loss_is_minimized_as_by_the_loop(name: str):
    loss = partial(LOSSES[name], temperature=2.0)
    clients = Federation(loss=loss, soft="probs" if name in ON_PROBS else "logits")
    phase = Phase(epochs=2, batch_size=4, learning_rate=0.01)
    assert furthest(clients.together(phase), clients.alone(phase)) <= 1e-12


@pytest.mark.fast(4)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(
    ("dtype", "epochs", "limit"), [(torch.float64, 5, 1e-12), (torch.float32, 1, 1e-6)]
)
@pytest.mark.parametrize("name", ZOO)
def test_every_model_of_the_zoo_is_trained_as_by_the_loop(
    name: str, dtype: torch.dtype, epochs: int, limit: float
):
    """Ten steps for the first client in float64; one step each in float32, by SGD.

    Adam's first step is the sign of the gradient, which turns rounding near zero into a whole step.
    """
    sizes = (8, 3, 5) if dtype == torch.float64 else (4, 3, 2)
    clients = Federation(sizes, ZOO[name], (1, 8, 8), dtype)
    phase = Phase(epochs=epochs, batch_size=4, learning_rate=0.01, optimizer="sgd", momentum=0.9)
    assert furthest(clients.together(phase), clients.alone(phase)) <= limit


def test_one_adam_step_in_single_precision_is_that_of_the_loop():
    phase, clients = Phase(batch_size=32), Federation(dtype=torch.float32)
    assert furthest(clients.together(phase), clients.alone(phase)) <= 1e-6


def test_a_common_set_may_be_shared_with_a_teacher_for_each():
    clients = Federation((10, 10, 10), loss=LOSSES["mse"], soft="logits")
    clients.x = [clients.x[0]] * 3
    phase = Phase(epochs=2, batch_size=4)
    states = {
        name: torch.stack([state[name] for state in clients.states]) for name in clients.states[0]
    }
    inputs, targets = Pool.shared(clients.x[0], 3), Pool.of_each(clients.y)
    streams = [np.random.default_rng(i) for i in range(3)]
    means = optimize_together(
        clients.model, states, [10] * 3, inputs, targets, clients.loss, phase, streams
    )
    each = [{name: values[i] for name, values in states.items()} for i in range(3)]
    assert furthest((each, means), clients.alone(phase)) <= 1e-12


# What the comparison can see: the three mistakes that batching invites.


def test_two_swapped_clients_would_be_seen():
    phase, clients = Phase(epochs=2, batch_size=4), Federation()
    states, means = clients.together(phase)
    states[0], states[3] = states[3], states[0]
    assert furthest((states, means), clients.alone(phase)) > 1e-3


def test_samples_that_only_fill_a_batch_have_no_say():
    """The last sample of a short batch is the one repeated: a mean over the filled batch would
    weigh it more."""
    phase, clients = Phase(batch_size=4, optimizer="sgd", learning_rate=0.1), Federation((3,))
    assert furthest(clients.together(phase), clients.alone(phase)) <= 1e-12
    last = np.random.default_rng(0).permutation(3)[-1]
    for values in (clients.x, clients.y):
        values[0] = torch.cat([values[0], values[0][last : last + 1]])
    clients.sizes = (4,)
    filled = Federation((3,)).together(phase)
    assert furthest(clients.together(phase), filled) > 1e-4


@pytest.mark.parametrize("settings", [*OPTIMIZERS[1:]], ids=str)
def test_a_client_whose_epochs_are_over_stays_where_it_is_to_the_bit(settings: dict[str, Any]):
    """Momentum, moments and weight decay would all move it on during the other client's 24 further
    steps."""
    phase, clients = Phase(batch_size=4, learning_rate=0.05, **settings), Federation((100, 4))
    together, alone = clients.together(phase)[0], clients.together(phase, who=[1])[0]
    assert equal_bits(together[1], alone[0])


def test_a_loss_beyond_the_largest_float_spoils_no_sum():
    """Its gradient is finite, so that the loop goes on; weight 0 times infinity must not enter."""
    clients = Federation((3,), dtype=torch.float32, loss=LOSSES["mse"], soft="logits")
    clients.y = [torch.full((3, CLASSES), 1e30)]
    phase = Phase(batch_size=4, optimizer="sgd", learning_rate=1e-30)
    states, means = clients.together(phase)
    assert means == clients.alone(phase)[1] == [torch.inf]
    assert all(value.isfinite().all() for value in states[0].values())


# One client and the others.


@pytest.mark.parametrize(
    "settings", [{"optimizer": "sgd", "momentum": 0.9}, {}, {"optimizer": "adamw"}], ids=str
)
def test_a_clients_result_is_the_same_in_any_company_to_the_bit(settings: dict[str, Any]):
    sizes = tuple(3 + (7 * i) % 11 for i in range(50))
    clients, phase = (
        Federation(sizes, dtype=torch.float32),
        Phase(epochs=2, batch_size=4, **settings),
    )
    states, means = clients.together(phase)
    for who in ([0, 1, 2], [31], [49, 7], list(range(49, -1, -1))):
        few_states, few_means = clients.together(phase, who)
        assert few_means == [means[i] for i in who]
        assert all(equal_bits(state, states[i]) for i, state in zip(who, few_states, strict=True))


def test_equal_clients_stay_equal_to_the_bit():
    clients, phase = Federation((9,), dtype=torch.float32), Phase(epochs=2, batch_size=4)
    states, _ = clients.together(phase, who=[0] * 7)
    assert all(equal_bits(state, states[0]) for state in states)


# Edges.


def test_a_client_without_samples_keeps_its_state_and_its_stream():
    clients, phase, idle = Federation((5, 0)), Phase(batch_size=4), np.random.default_rng(1)
    before = clients.states[1]
    states, means = clients.together(phase)
    assert means[0] is not None
    assert means[1] is None
    assert equal_bits(states[1], before)
    stacked = {name: value[None].clone() for name, value in before.items()}
    nothing = Pool(clients.x[1], (0,))
    assert optimize_together(
        clients.model, stacked, [0], nothing, nothing, clients.loss, phase, [idle]
    ) == [None]
    assert idle.random() == np.random.default_rng(1).random()


def test_zero_epochs_change_nothing():
    clients = Federation()
    states, means = clients.together(Phase(), epochs=0)
    assert means == [None] * len(UNEQUAL)
    assert all(map(equal_bits, states, clients.states))


def test_epochs_may_be_given_apart_from_the_phase():
    clients, phase = Federation(), Phase(batch_size=4)
    assert furthest(clients.together(phase, epochs=3), clients.alone(phase, epochs=3)) <= 1e-12


def test_frozen_parameters_stay_as_they_are():
    clients, phase = Federation(), Phase(batch_size=4)
    clients.model[1].weight.requires_grad_(False)
    states, means = clients.together(phase)
    assert furthest((states, means), clients.alone(phase)) <= 1e-12
    assert all(
        torch.equal(a["1.weight"], b["1.weight"])
        for a, b in zip(states, clients.states, strict=True)
    )


def test_the_model_lends_its_forward_and_keeps_its_weights():
    clients = Federation()
    before = {name: value.clone() for name, value in clients.model.state_dict().items()}
    clients.together(Phase(batch_size=4))
    assert equal_bits(clients.model.state_dict(), before)
    assert all(parameter.grad is None for parameter in clients.model.parameters())


def test_an_interruption_between_two_steps_changes_no_state():
    clients, calls = Federation(), iter([False, False, True])
    states = {
        name: torch.stack([state[name] for state in clients.states]) for name in clients.states[0]
    }
    before = {name: values.clone() for name, values in states.items()}
    pools, streams = (
        (Pool.of_each(clients.x), Pool.of_each(clients.y)),
        [np.random.default_rng(i) for i in range(6)],
    )
    with pytest.raises(Interrupted):
        optimize_together(
            clients.model,
            states,
            UNEQUAL,
            *pools,
            clients.loss,
            Phase(batch_size=4),
            streams,
            check_interrupt=lambda: interrupt(next(calls)),
        )
    assert equal_bits(states, before)


# Chunks.


def test_chunks_hold_every_client_once_by_size():
    sizes = [(37 * i) % 101 for i in range(150)]
    found = chunks(sizes, at_most=64)
    assert [len(chunk) for chunk in found] == [64, 64, 22]
    order = [i for chunk in found for i in chunk]
    assert sorted(order) == list(range(150))
    assert [sizes[i] for i in order] == sorted(sizes, reverse=True)


def test_as_many_clients_are_trained_at_once_as_fit_the_caches_of_a_cpu():
    assert [clients_at_once(parameters) for parameters in (1, 2_410, 101_770)] == [128, 128, 20]
    assert clients_at_once(10**8) == 8
    assert clients_at_once(101_770, torch.device("cuda")) == 256


@pytest.mark.parametrize("phase", [Phase(batch_size=4, steps=5), Phase(batch_size=4, epochs=1.5)])
def test_steps_and_fractions_of_epochs_are_those_of_the_loop(phase: Phase):
    clients = Federation([9, 3, 14, 0], ZOO["mlp"], (1, 4, 4), torch.float64)
    states, means = clients.alone(phase)
    together, losses = clients.together(phase)
    assert furthest((states, []), (together, [])) < 1e-10
    assert losses[3] is None
    assert losses[0] == pytest.approx(means[0], rel=0.5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_as_probabilities_have_the_loss_and_gradient_of_labels(smoothing: float) -> None:
    labels = Pool(torch.tensor([2, 0, 1, 2]), (0, 0))
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = []
    for targets in (labels, one_hot(labels, 3)):
        loss = F.cross_entropy(logits, targets.values, label_smoothing=smoothing)
        found.append((loss.detach(), *torch.autograd.grad(loss, logits)))
        assert targets.starts == (0, 0)
    torch.testing.assert_close(found[0], found[1])
