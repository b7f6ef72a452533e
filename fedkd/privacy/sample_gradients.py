"""Opacus' hooks that find each sample's gradient, for LayerNorms without a bias too.

Importing this module imports Opacus.
"""

from typing import Any, ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn


def of_layer_norm(
    layer: nn.LayerNorm,
    activations: list[Float[Tensor, "n *shape"]],
    backprops: Float[Tensor, "n *shape"],
) -> dict[nn.Parameter, Tensor]:
    """Return each sample's gradient of a LayerNorm's parameters, [n, *parameter].

    Opacus' own function reads a bias, which ModernBERT's do not have; where there is one, it is
    called as it is.

    Args:
        layer: The layer.
        activations: What it was given, alone in a list.
        backprops: The gradient of what it returned.
    """
    if layer.bias is not None:
        found: dict[nn.Parameter, Tensor] = GradSampleHooks.GRAD_SAMPLERS[nn.LayerNorm](
            layer, activations, backprops
        )
        return found
    if not layer.weight.requires_grad:
        return {}
    terms = F.layer_norm(activations[0], layer.normalized_shape, eps=layer.eps) * backprops
    between = tuple(range(1, terms.ndim - layer.weight.ndim))
    return {layer.weight: terms.sum(between) if between else terms}


class SampleGradients(GradSampleHooks):  # type: ignore[misc]
    """``GradSampleHooks`` that know LayerNorms without a bias."""

    GRAD_SAMPLERS: ClassVar[dict[type[nn.Module], Any]] = {
        **GradSampleHooks.GRAD_SAMPLERS,
        nn.LayerNorm: of_layer_norm,
    }
