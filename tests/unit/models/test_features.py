"""Features: what the last linear layer takes, whatever the model is made of."""

import pytest
import torch
from torch import Tensor, nn

from fedkd.models.factory import ImageModelSpec, probe
from fedkd.models.features import find_head, forward_with_features

SHAPE = (1, 8, 8)
INPUTS = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))


class Scaled(nn.Module):
    """Ends in no linear layer: its logits are scaled afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.last(x.flatten(1))


class Twice(nn.Module):
    """Uses one linear layer as an embedding and as a head, and has another that nothing comes
    from."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.shared = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.unused(x)
        return self.shared(torch.relu(self.shared(x)))


@pytest.mark.parametrize(
    ("name", "width"), [("mlp", 128), ("cnn", 84), ("resnet", 64), ("vit", 64)]
)
def test_the_head_of_every_model_of_the_zoo_is_found_and_its_features_make_the_logits(
    name: str, width: int
):
    architecture = ImageModelSpec(name, SHAPE, 4)
    traits = probe(architecture, features=True)
    assert traits.features == width
    model = architecture.build(0).eval()
    logits, features = forward_with_features(model, str(traits.head), INPUTS)
    assert features.shape == (3, width)
    torch.testing.assert_close(logits, model(INPUTS))
    torch.testing.assert_close(model.get_submodule(str(traits.head))(features), logits)


def test_nobody_looks_for_a_head_where_features_do_not_matter():
    traits = probe(ImageModelSpec("mlp", SHAPE, 4))
    assert (traits.head, traits.features) == (None, None)


def test_a_model_that_ends_otherwise_has_no_head():
    assert find_head(Scaled(), INPUTS) is None
    assert (
        find_head(nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Softmax(dim=-1)), INPUTS) is None
    )


def test_a_layer_that_is_used_twice_is_the_head_with_what_it_took_last():
    model, inputs = Twice(), torch.ones(2, 4)
    assert find_head(model, inputs) == "shared"
    logits, features = forward_with_features(model, "shared", inputs)
    torch.testing.assert_close(features, torch.relu(model.shared(inputs)))
    torch.testing.assert_close(logits, model.shared(features))


def test_gradients_flow_through_features_and_no_hook_stays():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 4))
    _, features = forward_with_features(model, "3", INPUTS)
    features.sum().backward()
    assert model[1].weight.grad is not None
    assert model[3].weight.grad is None
    assert find_head(model, INPUTS) == "3"
    assert all(
        not module._forward_pre_hooks and not module._forward_hooks for module in model.modules()
    )
