"""Models of papers against the sizes that are known of them, and groups of models."""

import numpy as np
import pytest
import torch
from torch import nn

from fedkd.errors import SettingError
from fedkd.models.factory import ImageModelSpec, assign, probe
from fedkd.models.normalization import normalized
from fedkd.models.zoo import BUILT_IN, GROUPS_OF_MODELS, OF_PAPERS, expanded, parameter_count
from fedkd.privacy.private_training import refuse_shared_statistics
from fedkd.settings.model_prefixes import split_prefix
from fedkd.training.hyperparameters import Phase
from fedkd.training.loop import optimize


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cnn_512", 878_538),  # HtFLlib's FedAvgCNN
        ("resnet20", 269_722),  # He et al. 2016: 0.27 million
        ("mobilenet_v2", 2_236_682),  # torchvision's, with 10 classes
        ("shufflenet_v2", 1_263_854),  # torchvision's shufflenet_v2_x1_0, with 10 classes
    ],
)
def test_a_model_of_a_paper_has_as_many_parameters_as_others_say(
    name: str, parameters: int
) -> None:
    before = torch.random.get_rng_state()
    assert parameter_count(name) == parameters
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 72, 64)])
@pytest.mark.parametrize("name", ["cnn_512", "resnet8(norm=batch)", "shufflenet_v2(width=0.5)"])
def test_models_of_papers_take_small_and_large_images(
    name: str, shape: tuple[int, int, int]
) -> None:
    info = probe(ImageModelSpec(name, shape, 7), features=True)
    assert info.features == {"c": 512, "r": 64, "s": 1024}[name[0]]
    assert not info.draws_randomness


def test_resnet_20_has_20_layers_and_halves_images_twice() -> None:
    model = OF_PAPERS["resnet20"]((3, 32, 32), 10)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 20
    assert model[:10](torch.zeros(1, 3, 32, 32)).shape == (1, 64, 8, 8)


def test_a_norm_is_of_groups_or_of_batches() -> None:
    with pytest.raises(SettingError, match="dp_sgd cannot train it; use GroupNorm"):
        refuse_shared_statistics(OF_PAPERS["mobilenet_v2"]((1, 8, 8), 2), "mobilenet_v2")
    refuse_shared_statistics(OF_PAPERS["resnet8"]((1, 8, 8), 2))
    with pytest.raises(SettingError, match="norm must be group or batch, got 'layer'"):
        normalized(8, "layer")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(expanded(tuple(GROUPS_OF_MODELS)))))
def test_every_model_of_a_group_learns_a_batch_of_cifar(name: str) -> None:
    """On noise of CIFAR's shape: what is learned can only be those four images."""
    prefixed = split_prefix(name)
    if prefixed is not None:
        reason = f"{name} needs {prefixed[0]}, of which none is made for the PyTorch here"
        pytest.importorskip(prefixed[0], reason=reason, exc_type=ImportError)
    model, losses = ImageModelSpec(name, (3, 32, 32), 10).build(seed=0), []
    inputs = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(4)

    def loss(batch: torch.Tensor) -> torch.Tensor:
        losses.append(nn.functional.cross_entropy(model(inputs[batch]), labels[batch]))
        return losses[-1]

    phase = Phase(batch_size=4, steps=5, learning_rate=3e-4)
    optimize(model, 4, loss, phase, np.random.default_rng(0))
    assert losses[-1] < 0.8 * losses[0]


def test_a_group_stands_for_its_members_with_equal_parts_of_its_share() -> None:
    assert len(GROUPS_OF_MODELS["heterogeneous_8"]) == 8
    assert not BUILT_IN.keys() & GROUPS_OF_MODELS.keys()
    assert assign(("heterogeneous_6",), 7) == (*OF_PAPERS, "cnn_512")
    assert assign(("heterogeneous_6*1", "mlp*1"), 12) == (*OF_PAPERS, *["mlp"] * 6)
    assert expanded(("mlp*2", "cnn*1")) == ("mlp*2", "cnn*1")
