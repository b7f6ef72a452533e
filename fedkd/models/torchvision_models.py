"""Image models of torchvision by name: ``torchvision:mobilenet_v3_small``.

They are made for the images as they are. torchvision's models take three channels: for others the
first convolution is another. With ``pretrained=true`` (or ``weights=NAME``) the classes are not
those of the weights: the last linear layer is a new one.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from fedkd.errors import SettingError
from fedkd.models.features import find_head
from fedkd.models.libraries import ModelLibrary, loaded, unknown_model

COLORS = 3


class TorchvisionModels(ModelLibrary):
    """Classifiers of torchvision (``torchvision.models.get_model``)."""

    package = "torchvision"

    def find(self, name: str) -> Callable[..., nn.Module]:
        """Return the factory of a model of ``torchvision.models.list_models(torchvision.models)``.

        Those of detection, segmentation and video are no classifiers of images.
        """
        models = loaded("torchvision", f"models=torchvision:{name}").models
        known = models.list_models(module=models)
        if name not in known:
            listed_by = "torchvision.models.list_models(torchvision.models)"
            raise unknown_model("torchvision", name, known, listed_by)

        return partial(torchvision_model, name)

    def is_pretrained(self, arguments: Mapping[str, object]) -> bool:
        """Return whether torchvision loads weights."""
        return bool(arguments.get("pretrained") or arguments.get("weights"))


def torchvision_model(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    pretrained: bool = False,
    weights: str | None = None,
    **arguments: Any,
) -> nn.Module:
    """Return a model of torchvision.

    Args:
        name: torchvision's name of it.
        input_shape: Channels, height and width of the images.
        classes: C.
        pretrained: Whether to begin with the library's default weights.
        weights: Others of the model's weights, such as ``IMAGENET1K_V1``.
        arguments: Further ones of ``torchvision.models.get_model``.
    """
    models, full = loaded("torchvision", f"models=torchvision:{name}").models, f"torchvision:{name}"
    weights = weights or ("DEFAULT" if pretrained else None)
    if name.startswith("vit_"):  # made for one size of images
        arguments = {"image_size": input_shape[1], **arguments}
    own = {"num_classes": classes} if weights is None else {"weights": weights}
    model: nn.Module = models.get_model(name, **{**own, **arguments})
    _take_channels(model, input_shape[0], full, learned=weights is not None)
    if weights is not None:
        _new_head(model, input_shape, classes, full)
    return model


def _take_channels(model: nn.Module, channels: int, name: str, *, learned: bool) -> None:
    """Give a model of color images a first convolution for other channels.

    Args:
        model: The model, which is changed.
        channels: Those of the images.
        name: The model's name, for errors.
        learned: Whether its weights are pretrained. Then grey images take the sum over colors,
            which is what the model makes of a grey image in color; other channels have no weights.
    """
    if channels == COLORS:
        return
    first = next((m for m in model.named_modules() if isinstance(m[1], nn.Conv2d)), None)
    if first is None or not isinstance(first[1], nn.Conv2d) or first[1].in_channels != COLORS:
        raise SettingError(
            f"models: {name} takes images of {COLORS} channels, these have {channels}"
        )
    path, old = first
    if learned and channels != 1:
        raise SettingError(
            f"models: {name} has pretrained weights for images of {COLORS} channels, these have"
            f" {channels}; leave out pretrained"
        )
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,
        stride=old.stride,
        padding=old.padding,
        bias=old.bias is not None,
    )
    if learned:
        with torch.no_grad():
            new.weight.copy_(old.weight.sum(dim=1, keepdim=True))
            if old.bias is not None and new.bias is not None:
                new.bias.copy_(old.bias)
    _replace(model, path, new)


def _new_head(model: nn.Module, input_shape: tuple[int, int, int], classes: int, name: str) -> None:
    """Give a pretrained model a last linear layer for other classes.

    Args:
        model: The model, which is changed.
        input_shape: Channels, height and width of the images.
        classes: C.
        name: The model's name, for errors.
    """
    training = model.training
    with torch.no_grad():
        head = find_head(model.eval(), torch.zeros(1, *input_shape))
    model.train(training)
    if head is None:
        raise SettingError(
            f"models: {name} ends in no linear layer that could be replaced for {classes} classes;"
            " leave out pretrained"
        )
    old = model.get_submodule(head)
    assert isinstance(old, nn.Linear), "found as one"
    _replace(model, head, nn.Linear(old.in_features, classes))


def _replace(model: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
