"""A model's features: the inputs of its last linear layer.

For any module whose logits are the outputs of a linear layer.
"""

from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn


def find_head(model: nn.Module, inputs: Num[Tensor, "n *shape"]) -> str | None:
    """Return the name of the linear layer whose output is the model's output, or None.

    >>> find_head(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 4)), torch.zeros(1, 3))
    '2'
    >>> find_head(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.zeros(1, 3)) is None
    True
    """
    outputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(
            lambda _, __, output, name=name: outputs.__setitem__(name, output)
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        logits = model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return next((name for name, output in outputs.items() if output is logits), None)


def forward_with_features(
    model: nn.Module, head: str, inputs: Num[Tensor, "n *shape"]
) -> tuple[Float[Tensor, "n C"], Float[Tensor, "n d"]]:
    """Return the logits of a batch and its features, the inputs of the layer called ``head``.

    Gradients flow through both.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1))
    >>> forward_with_features(model, "1", torch.ones(1, 1, 1, 2))[1]
    tensor([[1., 1.]])
    """
    taken: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        taken.append(arguments[0])

    hook = model.get_submodule(head).register_forward_pre_hook(keep)
    try:
        logits = model(inputs)
    finally:
        hook.remove()
    features = torch.atleast_2d(taken[-1])
    return logits, features.float() if features.dtype == torch.bfloat16 else features
