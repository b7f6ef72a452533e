"""Image models of timm by name: ``timm:resnet18``, ``timm:vit_tiny_patch16_224``.

They are made for the images as they are: ``in_chans``, ``num_classes`` and, for models of one size
such as vision transformers, ``img_size`` are filled in. With ``pretrained=true`` timm loads its
weights, from its cache or the network.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

from torch import nn

from fedkd.data.hub_splits import only_reached
from fedkd.models.libraries import ModelLibrary, loaded, unknown_model


class TimmModels(ModelLibrary):
    """Models of timm (``timm.create_model``)."""

    package = "timm"

    def find(self, name: str) -> Callable[..., nn.Module]:
        """Return the factory of a model of ``timm.list_models()``."""
        timm = loaded("timm", f"models=timm:{name}")
        if not timm.is_model(name):
            raise unknown_model("timm", name, timm.list_models(), "timm.list_models()")

        return partial(timm_model, name)

    def is_pretrained(self, arguments: Mapping[str, object]) -> bool:
        """Return whether timm loads weights, of its own or of a file."""
        return bool(arguments.get("pretrained") or arguments.get("checkpoint_path"))


def timm_model(
    name: str, input_shape: tuple[int, int, int], classes: int, **arguments: Any
) -> nn.Module:
    """Return a model of timm.

    Args:
        name: timm's name of it.
        input_shape: Channels, height and width of the images.
        classes: C.
        arguments: Further ones of ``timm.create_model``.
    """
    timm, (channels, height, width) = loaded("timm", f"models=timm:{name}"), input_shape
    config = timm.models.get_pretrained_cfg(name)
    sized = {"img_size": (height, width)} if getattr(config, "fixed_input_size", False) else {}
    given = {"in_chans": channels, "num_classes": classes, **sized, **arguments}
    with only_reached() if given.get("pretrained") else nullcontext():
        model: nn.Module = timm.create_model(name, **given)
    return model
