"""Heads by name: what is put on every client's model besides its own last layer.

Here stands how the phases of a client use them: which loss private training and distillation
minimize, and which parameters each of them steps. A model predicts by its ``forward``, whatever
heads it has.
"""

import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeGuard, cast, runtime_checkable

import torch.nn.functional as F
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from fedkd.models.dual_head import DualHeadSettings
from fedkd.models.head_settings import Heads
from fedkd.models.shared_classes import SharedClassesSettings
from fedkd.models.stage_heads import StageHeadsSettings
from fedkd.settings.conditions import RunConditions

__all__ = [
    "HEADS",
    "Heads",
    "LogitsLoss",
    "OneHead",
    "OwnTraining",
    "label_logits",
    "label_loss",
    "phase_parameters",
    "taught_loss",
]

LogitsLoss = Callable[[Float[Tensor, "n C"]], Float[Tensor, ""]]


@runtime_checkable
class OwnTraining(Protocol):
    """A model with losses of its own. Any module may have these methods."""

    def label_logits(self, inputs: Num[Tensor, "n *shape"]) -> Float[Tensor, "n outputs"]:
        """Return everything that the loss on labels is made of, by sample."""

    def label_loss(
        self, inputs: Num[Tensor, "n *shape"], labels: Int[Tensor, "n"]
    ) -> Float[Tensor, ""]:
        """Return the loss of labeled samples, a mean over them."""

    def taught_loss(self, inputs: Num[Tensor, "n *shape"], loss: LogitsLoss) -> Float[Tensor, ""]:
        """Return the loss of public samples; ``loss`` compares logits with the teacher's."""

    def phase_parameters(self, distills: bool) -> list[nn.Parameter]:
        """Return what a phase trains, in the order of ``parameters()``."""


def trains_itself(model: nn.Module) -> TypeGuard[OwnTraining]:
    """Return whether a model has losses of its own. Asked in every batch, so found once a class."""
    return _has_own_losses(cast(Hashable, type(model)))


@functools.cache
def _has_own_losses(cls: Hashable) -> bool:
    methods = ("label_logits", "label_loss", "taught_loss", "phase_parameters")
    return all(callable(getattr(cls, name, None)) for name in methods)


@dataclass(frozen=True, kw_only=True)
class OneHead(Heads):
    """The model as it is: its one head learns from labels and from teachers."""

    def conflict(self, conditions: RunConditions) -> None:
        """Accept any run."""

    def put_on(self, model: nn.Module, inputs: Num[Tensor, "n *shape"]) -> nn.Module:
        """Return the model itself."""
        return model


HEADS: Mapping[str, type[Heads]] = {
    "none": OneHead,
    "dual": DualHeadSettings,
    "self_distillation": StageHeadsSettings,
    "shared_classes": SharedClassesSettings,
}


def label_logits(model: nn.Module, inputs: Num[Tensor, "n *shape"]) -> Float[Tensor, "n outputs"]:
    """Return the outputs that a model's loss on labels is made of, by sample.

    They are the logits of a model without further heads.
    """
    found: Tensor = model.label_logits(inputs) if trains_itself(model) else model(inputs)
    return found


def label_loss(
    model: nn.Module, inputs: Num[Tensor, "n *shape"], labels: Int[Tensor, "n"]
) -> Float[Tensor, ""]:
    """Return the loss on labels: cross entropy, unless the model's heads say otherwise."""
    if trains_itself(model):
        return model.label_loss(inputs, labels)
    return F.cross_entropy(model(inputs), labels)


def taught_loss(
    model: nn.Module, inputs: Num[Tensor, "n *shape"], loss: LogitsLoss
) -> Float[Tensor, ""]:
    """Return the distillation loss: ``loss`` of the logits, unless heads say otherwise."""
    return model.taught_loss(inputs, loss) if trains_itself(model) else loss(model(inputs))


def phase_parameters(model: nn.Module, *, distills: bool) -> list[nn.Parameter]:
    """Return the parameters that distillation, or else training on labels, steps."""
    return model.phase_parameters(distills) if trains_itself(model) else list(model.parameters())
