"""Adam's step for models of few parameters on a CPU, to the bits of PyTorch's ``adam``.

PyTorch's function calls seven operations for each parameter from Python. Here each operation is
called once, for all parameters (PyTorch's ``_foreach_`` operations, which do the same to each).
With many values the caches of a processor are too small for that, and PyTorch's own function is
faster.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""PyTorch's defaults, which runs are trained with."""
MOST_VALUES = 2**18
"""Values of all parameters up to which these steps are the faster ones, measured on two cores."""


def suits(parameters: Sequence[Tensor]) -> bool:
    """Return whether parameters are on a CPU, and few enough.

    >>> suits([torch.zeros(100)]), suits([torch.zeros(2**18 + 1)])
    (True, False)
    """
    return all(parameter.device.type == "cpu" for parameter in parameters) and (
        sum(parameter.numel() for parameter in parameters) <= MOST_VALUES
    )


def step_all(
    parameters: list[Tensor],
    gradients: list[Tensor] | tuple[Tensor, ...],
    states: Sequence[Mapping[str, Tensor]],
    counts: Sequence[float],
    *,
    learning_rate: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
    """Change parameters, ``exp_avg`` and ``exp_avg_sq`` in place by one step of Adam.

    Args:
        parameters: The parameters; at least one.
        gradients: Their gradients.
        states: The state of each.
        counts: Each one's number of this step, >= 1.
        learning_rate: The rate.
        weight_decay: The decay; 0 is none.
        decoupled: Whether parameters decay by themselves, as AdamW has it, or with the gradient.
    """
    means = [state["exp_avg"] for state in states]
    squares = [state["exp_avg_sq"] for state in states]
    if weight_decay and decoupled:
        torch._foreach_mul_(parameters, 1 - learning_rate * weight_decay)
    elif weight_decay:
        gradients = torch._foreach_add(gradients, parameters, alpha=weight_decay)
    torch._foreach_lerp_(means, gradients, 1 - BETA1)
    torch._foreach_mul_(squares, BETA2)
    torch._foreach_addcmul_(squares, gradients, gradients, 1 - BETA2)
    divisors = torch._foreach_sqrt(squares)
    torch._foreach_div_(divisors, [(1 - BETA2**count) ** 0.5 for count in counts])
    torch._foreach_add_(divisors, EPSILON)
    sizes = [-(learning_rate / (1 - BETA1**count)) for count in counts]
    torch._foreach_addcdiv_(parameters, means, divisors, sizes)
