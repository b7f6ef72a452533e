"""The last layers of models as knowledge: what travels, who takes it, what does not fit."""

import re

import pytest
import torch
from torch import nn
from views import View

from fedkd.knowledge import LastLayers, ModelWeights, Request
from fedkd.messages import Fusion
from fedkd.models.last_layers import last_layers


def network(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))


def request(**models: nn.Module) -> Request:
    shapes = {
        name: {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        for name, model in models.items()
    }
    return Request(
        round=1,
        classes=2,
        public_ids=torch.arange(0),
        temperature=1.0,
        train_sizes=dict.fromkeys(range(len(models)), 5),
        architectures=tuple(models),
        shapes=shapes,
        heads={name: str(len(model) - 1) for name, model in models.items()},
    )


def test_layers_are_counted_from_the_end_and_buffers_travel_with_them() -> None:
    names = list(network(4).state_dict())
    assert last_layers(names, "3", 1) == {"1.weight": "3.weight", "1.bias": "3.bias"}
    two = last_layers(names, "3", 2)
    assert two["2.running_mean"] == "1.running_mean"
    assert len(two) == 7


def test_a_client_takes_over_the_last_layers_and_keeps_the_others() -> None:
    kind = ModelWeights(part=LastLayers(1))
    one, other = network(4), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    asked = request(one=one, other=other)
    sent = kind.extract(View(model=one, head="3"))
    kind.check(sent, asked, 0)
    assert kind.most_values(asked, 1) == 4 * 2 + 2
    fusion = Fusion(weights=torch.ones(1, 1), teachers=sent)
    kind.check_fusion(fusion, (0,), asked, "probs")
    below = other[0].weight.clone()
    kind.adopt(View(model=other, head="1"), kind.teachers(fusion, (0,), asked, "probs").of(1))
    assert torch.equal(other[1].weight, one[3].weight)
    assert torch.equal(other[0].weight, below)


@pytest.mark.parametrize(
    ("count", "found"),
    [
        (1, None),
        (2, r"last layers of one are .*2.running_mean \[4\].*those of other .*2.weight \[4, 3\]"),
        (4, "one has 3 layers up to its last linear one, not 4"),
    ],
)
def test_what_models_do_not_have_in_common_is_named(count: int, found: str | None) -> None:
    asked = request(one=network(4), other=nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    said = ModelWeights(part=LastLayers(count)).misfit(asked)
    assert (said is None) if found is None else re.search(found, said or "")


def test_the_last_layers_alone_are_what_dp_sgd_covers_as_it_covers_the_whole() -> None:
    assert ModelWeights(part=LastLayers(1)).reveals_model_only
    assert not ModelWeights(part=LastLayers(1), proximal=0.1).reveals_model_only
    assert not ModelWeights(part=LastLayers(1)).sends_models
