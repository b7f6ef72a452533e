"""Learning at the server: gradient steps on named tensors, which a strategy keeps as its state.

Plain functions. Nothing is left in an optimizer from round to round, so that a checkpoint of the
tensors is all of it. Not for: models of the server's own that learn from public samples
(``fedkd.messages.ServerModels``).
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

NamedTensors = Mapping[str, Tensor]
RowsLoss = Callable[[NamedTensors, Int[Tensor, "batch"]], Float[Tensor, ""]]
"""The mean loss of some rows under named tensors."""


def descend(
    weights: NamedTensors,
    loss: RowsLoss,
    rows: int,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    stream: np.random.Generator,
) -> tuple[dict[str, Tensor], float]:
    """Return named tensors after steps of plain SGD, and the mean loss of the last epoch.

    Every epoch takes all rows in a new random permutation; the last batch may be smaller.

    Args:
        weights: The tensors before; they are left as they are.
        loss: The mean loss of a batch of rows.
        rows: Number of rows, >= 1.
        epochs: Passes over the rows.
        batch_size: Rows a step.
        learning_rate: Of SGD.
        stream: The random stream of the permutations.

    >>> start = {"mean": torch.tensor(0.0)}
    >>> points = torch.tensor([1.0, 3.0])
    >>> far = lambda now, batch: (now["mean"] - points[batch]).square().mean() / 2
    >>> stream = np.random.default_rng(0)
    >>> found, _ = descend(
    ...     start, far, 2, epochs=1, batch_size=2, learning_rate=1.0, stream=stream
    ... )
    >>> found  # one step of the size of the gradient, 0 - 2
    {'mean': tensor(2.)}
    """
    moving = {name: tensor.detach().clone().requires_grad_() for name, tensor in weights.items()}
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        for batch in torch.from_numpy(stream.permutation(rows)).split(batch_size):
            found = loss(moving, batch)
            gradients = torch.autograd.grad(found, list(moving.values()), allow_unused=True)
            with torch.no_grad():
                for tensor, gradient in zip(moving.values(), gradients, strict=True):
                    if gradient is not None:
                        tensor -= learning_rate * gradient
            total += found.item() * len(batch)
    return {name: tensor.detach() for name, tensor in moving.items()}, total / rows


def linear_weights(
    inputs: int, outputs: int, stream: torch.Generator
) -> tuple[Float[Tensor, "outputs inputs"], Float[Tensor, "outputs"]]:
    """Return weight and bias of a new linear layer, uniform up to one over the root of inputs.

    They are distributed as those of ``torch.nn.Linear``.
    """
    bound = 1 / math.sqrt(inputs)

    def drawn(*shape: int) -> Tensor:
        return (2 * torch.rand(*shape, generator=stream) - 1) * bound

    return drawn(outputs, inputs), drawn(outputs)
