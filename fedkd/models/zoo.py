"""All models of images and series that are built in, and groups of architectures by one name.

``ZOO`` are small models of our own, ``OF_PAPERS`` those that papers on CIFAR have. Not for: finding
a model by any name (``fedkd.models.factory``).
"""

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import nn

from fedkd.models.cifar_resnet import resnet8, resnet20
from fedkd.models.cnn import cnn, cnn_512
from fedkd.models.cnn1d import cnn1d
from fedkd.models.mlp import mlp
from fedkd.models.mobile_networks import mobilenet_v2, shufflenet_v2
from fedkd.models.model_names import split_share
from fedkd.models.resnet import resnet
from fedkd.models.vit import vit, vit_tiny

ImageFactory = Callable[..., nn.Module]

ZOO: dict[str, ImageFactory] = {"mlp": mlp, "cnn": cnn, "resnet": resnet, "vit": vit}
OF_PAPERS: dict[str, ImageFactory] = {
    "cnn_512": cnn_512,
    "resnet8": resnet8,
    "resnet20": resnet20,
    "mobilenet_v2": mobilenet_v2,
    "shufflenet_v2": shufflenet_v2,
    "vit_tiny": vit_tiny,
}
SERIES_ZOO: dict[str, ImageFactory] = {"cnn1d": cnn1d}
"""Models of series by name."""
BUILT_IN: Mapping[str, ImageFactory] = {**ZOO, **OF_PAPERS, **SERIES_ZOO}
GROUPS_OF_MODELS: Mapping[str, tuple[str, ...]] = {
    "heterogeneous_8": (
        "cnn_512",
        "torchvision:googlenet(aux_logits=false,init_weights=true)",
        "mobilenet_v2",
        *(f"torchvision:resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    ),
    "heterogeneous_6": tuple(OF_PAPERS),
}
"""``heterogeneous_8`` is HtFE8 of HtFLlib (Zhang et al. 2025), in its order; ``heterogeneous_6``
needs no other library."""
CIFAR, SERIES = (3, 32, 32), (8, 8)


def expanded(models: tuple[str, ...]) -> tuple[str, ...]:
    """Return models with each group's members in its place, which have equal parts of its share.

    >>> expanded(("mlp", "heterogeneous_6"))[:3]
    ('mlp', 'cnn_512', 'resnet8')
    >>> expanded(("heterogeneous_6*3", "mlp*1"))[0]
    'cnn_512*0.5'
    """
    found: list[str] = []
    for model in models:
        name, share = split_share(model)
        members = GROUPS_OF_MODELS.get(name)
        if members is None:
            found.append(model)
        elif share is None:
            found += members
        else:
            found += [f"{member}*{share / len(members)!r}" for member in members]
    return tuple(found)


def about(name: str) -> str:
    """Return what a built-in model is, in a line with its size."""
    said = (BUILT_IN[name].__doc__ or "").partition("\n")[0].removeprefix("Return ").rstrip(".")
    return f"{said}: {parameter_count(name):,} parameters"


def about_group(name: str) -> str:
    """Return what a group of models is, in a line."""
    members = GROUPS_OF_MODELS[name]
    return f"{len(members)} architectures: {', '.join(members)}"


@cache
def parameter_count(name: str) -> int:
    """Return the parameters of a built-in model for 10 classes, of images or series as stated.

    Images are 3 x 32 x 32, and series 8 channels of length 8.
    """
    with torch.random.fork_rng(devices=[]):  # whoever asks draws the numbers that were next
        model = BUILT_IN[name](SERIES if name in SERIES_ZOO else CIFAR, 10)
    return sum(parameter.numel() for parameter in model.parameters())
