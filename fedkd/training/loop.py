"""One optimization phase of one model, and prediction: functions over ``nn.Module`` and tensors.

The plain PyTorch loop: no DataLoader, no trainer. Batches come from a named stream, so that a phase
repeats to the bit whatever else runs beside it. Knows nothing of clients, rounds or messages.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.training.hyperparameters import Phase
from fedkd.training.optimizers import Optimizer

PREDICTION_BATCH = 256


def optimize(
    model: nn.Module,
    size: int,
    batch_loss: Callable[[Int[Tensor, "batch"]], Float[Tensor, ""]],
    phase: Phase,
    stream: np.random.Generator,
    *,
    epochs: int | None = None,
    optimizer: Optimizer | None = None,
    check_interrupt: Callable[[], None] = lambda: None,
) -> float | None:
    """Train ``model`` in place and return its mean loss over the last epoch (None without any
    epoch).

    ``batch_loss`` maps indices below ``size`` to the mean loss of those samples. Every epoch visits
    all samples in a fresh order; the last batch may be smaller. ``optimizer`` is the phase's own,
    fresh, if none is given. ``check_interrupt`` is called before every batch and may raise, which ends the
    phase there.
    """
    epochs = phase.epochs if epochs is None else epochs
    if epochs == 0 or size == 0:
        return None
    device = next(model.parameters()).device
    optimizer = optimizer or Optimizer(model.parameters(), phase)
    model.train()
    for _ in range(epochs):
        order = torch.from_numpy(stream.permutation(size)).to(device)
        total = torch.zeros((), device=device)
        for batch in torch.split(order, phase.batch_size):
            check_interrupt()
            loss = batch_loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(batch)
    return total.item() / size


def predict(model: nn.Module, inputs: Float[Tensor, "n *shape"]) -> Float[Tensor, "n C"]:
    """Return the model's logits in evaluation mode, without gradients, in batches of 256."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(batch) for batch in torch.split(inputs, PREDICTION_BATCH)])


def accuracy(logits: Float[Tensor, "n C"], labels: Int[Tensor, "n"]) -> float:
    """Return the share of samples whose largest logit is their label; 0 for rows that are all
    NaN.
    """
    right = logits.argmax(dim=-1) == labels
    unknown = logits.isnan()
    if unknown.any():  # argmax takes NaN for the largest
        right = (logits.nan_to_num(nan=-torch.inf).argmax(dim=-1) == labels) & ~unknown.all(dim=-1)
    return right.to(torch.float64).mean().item()
