"""Frozen modules, and heads with a learning rate of their own."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.training.hyperparameters import Phase, TrainingSettings
from fedkd.training.loop import optimize
from fedkd.training.model_parts import check_parts, head_parameters, partly_frozen
from fedkd.training.optimizers import Optimizer
from fedkd.training.schedules import RoundOfRun

HEAD = "2"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return nn.Sequential(body, nn.ReLU(), nn.Linear(4, 2))


def trained(phase: Phase, model: nn.Sequential, **options: Any) -> dict[str, Tensor]:
    """Return by how much one step moved each tensor of a model's state."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    with partly_frozen(model, phase, HEAD):
        optimizer = Optimizer(model.parameters(), phase, head_parameters(model, phase, HEAD))
        stream = np.random.default_rng(0)
        optimize(
            model,
            6,
            lambda batch: model(x[batch]).sum(),
            phase,
            stream,
            optimizer=optimizer,
            **options,
        )
    return {name: value - before[name] for name, value in model.state_dict().items()}


def moved(changes: dict[str, Tensor]) -> set[str]:
    return {name for name, change in changes.items() if change.any()}


@pytest.mark.parametrize(
    ("freeze", "still"), [(("backbone",), {"2.weight", "2.bias"}), (("0.0", int(HEAD)), {"0.1"})]
)
def test_frozen_parts_stay_as_they_are_with_their_statistics(
    freeze: tuple[str | int, ...], still: set[str]
) -> None:
    model, phase = network(), Phase(optimizer="sgd", learning_rate=0.1, freeze=freeze)
    changes = moved(trained(phase, model))
    assert changes
    assert all(any(name.startswith(part) for part in still) for name in changes)
    everything = moved(trained(Phase(optimizer="sgd", learning_rate=0.1), model))
    assert {"0.0.weight", "0.1.running_mean", "2.weight"} <= everything
    assert model.training


def test_a_head_is_stepped_at_its_own_rate_and_a_schedule_changes_both() -> None:
    one = Phase(optimizer="sgd", learning_rate=0.1)
    two = Phase(optimizer="sgd", learning_rate=0.1, head_learning_rate=0.5)
    plain, own = trained(one, network()), trained(two, network())
    torch.testing.assert_close(own["0.0.weight"], plain["0.0.weight"])
    torch.testing.assert_close(own["2.weight"], 5 * plain["2.weight"])
    settings: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.1, "schedule": "cosine"}
    later = trained(Phase(head_learning_rate=0.5, **settings), network(), at=RoundOfRun(2, 2))
    torch.testing.assert_close(later["2.weight"], 2.5 * plain["2.weight"])


@pytest.mark.slow  # PyTorch's classes load its compiler
def test_rates_of_parts_are_groups_of_pytorchs_optimizer() -> None:
    phase, model = Phase(learning_rate=0.1, head_learning_rate=0.5), network()
    optimizer = Optimizer(model.parameters(), phase, head_parameters(model, phase, HEAD))
    made = optimizer.as_torch()
    assert [group["lr"] for group in made.param_groups] == [0.1, 0.5]
    assert made.param_groups[1]["params"] == list(model[2].parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    other = network()
    theirs = torch.optim.Adam(
        [{"params": other[0].parameters()}, {"params": other[2].parameters(), "lr": 0.5}], lr=0.1
    )
    for parameter in other.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    theirs.step()
    for mine, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize(
    ("settings", "head", "message"),
    [
        ({"freeze": ("backbone",)}, None, "train.freeze=backbone needs a linear layer that puts"),
        ({"head_learning_rate": 0.1}, None, "train.head_learning_rate needs a linear layer"),
        ({"freeze": ("layer1",)}, HEAD, "net has no module 'layer1'; it has 0, 1, 2, and backbone"),
        ({"freeze": ("0", "2")}, HEAD, r"train.freeze=\['0', '2'\] leaves net untrained"),
    ],
)
def test_parts_that_a_model_does_not_have_are_told(
    settings: dict[str, Any], head: str | None, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        check_parts(network(), "net", Phase(**settings), "train", head)


def test_a_rate_of_the_head_alone_is_told() -> None:
    with pytest.raises(SettingError, match="would do nothing: with freeze=backbone"):
        TrainingSettings(freeze=("backbone",), head_learning_rate=0.1)
