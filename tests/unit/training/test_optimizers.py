"""Phases' optimizers against PyTorch's classes."""

import pytest
import torch
from torch import Tensor, nn

from fedkd.training import cpu_adam
from fedkd.training.hyperparameters import Phase
from fedkd.training.optimizers import Optimizer

PHASES = [
    Phase(),
    Phase(weight_decay=0.1),
    Phase(optimizer="adamw", weight_decay=0.1),
    Phase(optimizer="sgd", learning_rate=0.1),
    Phase(optimizer="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.01),
]


def parameters() -> list[nn.Parameter]:
    stream = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=stream)) for shape in ((3, 4), (5,), ())]


def theirs(of: list[nn.Parameter], phase: Phase) -> torch.optim.Optimizer:
    if phase.optimizer == "sgd":
        return torch.optim.SGD(
            of, phase.learning_rate, phase.momentum or 0.0, weight_decay=phase.weight_decay
        )
    cls = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[phase.optimizer]
    return cls(of, phase.learning_rate, weight_decay=phase.weight_decay)


def give_gradients(of: list[nn.Parameter], step: int) -> None:
    """The second parameter has none in the first two steps, and is not to be moved by a weight
    decay then."""
    stream = torch.Generator().manual_seed(step)
    for i, parameter in enumerate(of):
        gradient = torch.randn(parameter.shape, generator=stream)
        parameter.grad = None if i == 1 and step < 2 else gradient


def named(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{i}/{name}": tensor
        for i, known in state.items()
        for name, tensor in known.items()
        if tensor is not None
    }


@pytest.mark.parametrize("at_once", [100, 12, 7, 1])
@pytest.mark.parametrize("phase", PHASES)
def test_steps_and_state_are_those_of_pytorchs_classes_to_the_bit(
    phase: Phase, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all parameters at once, and in pieces."""
    monkeypatch.setattr(cpu_adam, "MOST_VALUES", at_once)
    one, other = parameters(), parameters()
    optimizer, reference = Optimizer(one, phase), theirs(other, phase)
    assert optimizer.tensors() == {}
    for step in range(5):
        give_gradients(one, step)
        give_gradients(other, step)
        optimizer.step()
        reference.step()
        assert all(map(torch.equal, one, other))
        ours, expected = optimizer.tensors(), named(reference)
        assert set(ours) == set(expected)
        assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert all(p.grad is not None for p in one)
    optimizer.zero_grad()
    assert all(p.grad is None for p in one)


def test_pieces_hold_every_value_once_and_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_adam, "MOST_VALUES", 10)
    shapes = [(3, 4), (5,), (), (4,), (25,), (2,)]
    of = [torch.zeros(shape) for shape in shapes]
    turned = torch.zeros(4, 3).T  # lies in memory in another order than it is read in
    of.append(turned)
    whole = cpu_adam.Piece(of, *([t.clone() for t in of] for _ in range(3)), [1.0] * len(of))
    sizes = []
    for piece in cpu_adam.pieces(whole):
        sizes.append(sum(p.numel() for p in piece.parameters))
        for tensors in (piece.gradients, piece.means, piece.squares):
            assert [t.shape for t in tensors] == [p.shape for p in piece.parameters]
        assert piece.counts == [1.0] * len(piece.parameters)
        for parameter in piece.parameters:
            parameter += 1
    assert all(t.eq(1).all() for t in of)
    assert sizes == [10, 2, 10, 10, 5, 10, 2, 12]


def test_large_parameters_are_stepped_in_pieces_to_the_same_bits() -> None:
    """Of an odd number of values: where a value stands in a piece changes nothing."""
    size = 2 * cpu_adam.MOST_VALUES + 12_345
    stream = torch.Generator().manual_seed(0)
    start, gradient = (torch.randn(size, generator=stream) for _ in range(2))
    one, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer, reference = Optimizer([one], Phase()), theirs([other], Phase())
    for _ in range(2):
        one.grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
    assert torch.equal(one, other)


@pytest.mark.parametrize("phase", PHASES)
def test_an_optimizer_goes_on_as_pytorchs_and_back(phase: Phase) -> None:
    one, other = parameters(), parameters()
    optimizer, reference = Optimizer(one, phase), theirs(other, phase)
    for step in range(6):
        give_gradients(one, step)
        give_gradients(other, step)
        reference.step()
        if step in (2, 3):  # as a library does that wraps one
            stepped = optimizer.as_torch()
            assert type(stepped) is type(reference)
            stepped.step()
            optimizer.take(stepped)
        else:
            optimizer.step()
        assert all(map(torch.equal, one, other))


def test_a_restored_state_is_a_copy() -> None:
    """What a client keeps must not move with the steps of a round that may yet fail."""
    of = parameters()
    optimizer = Optimizer(of, Phase())
    kept = optimizer.blank()
    optimizer.restore(kept)
    give_gradients(of, 2)
    optimizer.step()
    assert all(tensor.eq(0).all() for tensor in kept.values())
    assert optimizer.tensors()["0/step"] == 1
    assert set(optimizer.blank()) == set(kept)


def test_frozen_parameters_are_no_part_of_it() -> None:
    of = parameters()
    of[0].requires_grad_(False)
    assert len(Optimizer(of, Phase()).parameters) == 2
