"""Image models with adapters: the specification without them, and what is trained of it.

transformers' models say themselves what is pre-trained in them. Those of other libraries are
pre-trained where their arguments ask for weights, and their head is the last linear layer. Not for:
the adapters themselves (``fedkd.models.adapters``).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.models.adapters import Adaptable, Adapters, NoAdapters, SharedModel
from fedkd.models.factory import (
    ImageModelSpec,
    ModelInfo,
    ModelSpec,
    built_on_trial,
    check_shape,
    find_factory,
    image_traits,
)
from fedkd.models.features import find_head
from fedkd.models.libraries import library
from fedkd.models.model_names import split_arguments
from fedkd.settings.model_prefixes import split_prefix


def with_adapters(spec: ImageModelSpec, adapters: Adapters) -> ModelSpec:
    """Return the specification of a model with adapters; itself without any."""
    return spec if adapters == NoAdapters() else AdaptedImageSpec(spec, adapters)


@dataclass(frozen=True)
class AdaptedImageSpec:
    """The specification of an image model of which adapters and the head are trained."""

    unadapted: ImageModelSpec
    adapters: Adapters
    shared: SharedModel = field(default_factory=SharedModel, repr=False, compare=False)

    is_bare = False
    """Adapters are in it."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.unadapted.name

    @property
    def arguments(self) -> tuple[object, ...]:
        """What ``adaptable`` is called with behind the name."""
        return self.unadapted.arguments

    @property
    def maker(self) -> Callable[..., nn.Module]:
        """The function that makes what adapters go into, of the name and ``arguments``."""
        return adaptable

    def build(self, seed: int) -> nn.Module:
        """Return a fresh module whose trained weights depend on ``seed`` alone."""
        make = partial(adaptable, self.name, self.unadapted.input_shape, self.unadapted.classes)
        return self.adapters.build(make, seed, self.shared)

    def example(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return ``count`` images of zeros, or of normal noise."""
        return self.unadapted.example(count, generator)

    def probe(self, *, features: bool) -> ModelInfo:
        """Return what a trial of the model shows; SettingError where it does not fit its task."""
        return image_traits(built_on_trial(self), self.unadapted, features=features)


def adaptable(name: str, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a model that adapters can go into, drawn by the global generator.

    Raises SettingError for one without weights that were learned, or without a linear head.

    Args:
        name: Its name.
        input_shape: Channels, height and width of the images.
        classes: C.
    """
    check_shape(name, input_shape)
    model = find_factory(name)(input_shape, classes)
    if isinstance(model, Adaptable):
        return model
    path, arguments = split_arguments(name)
    prefixed = split_prefix(path)
    if prefixed is None or not library(prefixed[0]).is_pretrained(arguments):
        cure = "" if prefixed is None else f"; say {path}(pretrained=true)"
        raise SettingError(
            f"adapters=lora freezes pre-trained weights, and {name} has none{cure}; take"
            " models=[hf:FOLDER_OR_ID], or leave it out"
        )
    with torch.no_grad():
        head = find_head(model.eval(), ImageModelSpec(name, input_shape, classes).example(1))
    if head is None:
        raise SettingError(
            f"adapters=lora trains the last linear layer with them, and {name} ends in none; leave"
            " it out"
        )
    return PretrainedModel(model.train(), head)


class PretrainedModel(nn.Module):
    """A pre-trained model that does not say what its head is, and the name of that layer."""

    def __init__(self, model: nn.Module, head: str) -> None:
        """Hold the model; ``head`` is its last linear layer, which is new."""
        super().__init__()
        self.pretrained = model
        names = model.get_submodule(head).named_parameters(recurse=False)
        self.new_parameters = self.head_parameters = frozenset(f"{head}.{n}" for n, _ in names)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.pretrained(inputs)
        return logits
