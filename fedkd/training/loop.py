"""The training loop of one phase for one model, and prediction.

Functions over ``nn.Module`` and tensors, without DataLoader or trainer. Batches come from a named
random stream, so that a phase repeats to the bit whatever runs at the same time. Knows nothing of
clients, rounds or messages.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from fedkd.runtime.devices import sent
from fedkd.training.hyperparameters import Phase
from fedkd.training.optimizers import Optimizer
from fedkd.training.schedules import RoundOfRun

PREDICTION_BATCH = 64
"""The fewest samples that a model predicts on at once on a CPU. More images of 28 x 28 leave the
caches of a processor: a ResNet then takes nearly twice as long."""
ROWS_AT_ONCE = 4 * PREDICTION_BATCH
"""The most samples at once on a CPU, and the rows of a table, whose layers are small."""
VALUES_ON_CPU = 2**14
"""About how many input values at once on a CPU: 256 images of 8 x 8, which take two thirds of the
time that they take in four batches."""
FEWEST_ON_GPU, MOST_ON_GPU, VALUES_ON_GPU = 256, 4096, 2**23
"""On another device: the fewest samples at once, the most, and about how many input values."""


def optimize(
    model: nn.Module,
    size: int,
    batch_loss: Callable[[Int[Tensor, "batch"]], Float[Tensor, ""]],
    phase: Phase,
    stream: np.random.Generator,
    *,
    epochs: float | None = None,
    optimizer: Optimizer | None = None,
    at: RoundOfRun | None = None,
    check_interrupt: Callable[[], None] = lambda: None,
    batches_on: torch.device | None = None,
) -> float | None:
    """Train ``model`` in place and return its mean loss over the last epoch.

    Every epoch takes all samples in a new random permutation; the last batch may be smaller, and
    the last epoch may be cut short. With BatchNorm a last sample joins the batch before it. Returns
    None where there is no epoch or no sample.

    Args:
        model: The model, on the device on which it is trained.
        size: How many samples there are.
        batch_loss: Maps indices below ``size`` to the mean loss of those samples.
        phase: Optimizer, batch size and epochs.
        stream: The random stream of the permutations.
        epochs: Epochs in place of the phase's steps or epochs.
        optimizer: An optimizer to go on with; None makes a new one from ``phase``.
        at: The round, which the learning rate depends on; None leaves it constant.
        check_interrupt: Called before every batch; it may raise, which ends the phase there.
        batches_on: Where ``batch_loss`` takes the indices of a batch; None is the model's device.
    """
    # A batch of one sample has no variance that BatchNorm could divide by: it joins the one before.
    alone = size % phase.batch_size == 1 and size > 1 and has_batch_norm(model)
    steps, done = phase.step_count(size - alone, epochs), 0
    if steps == 0:
        return None
    device = next(model.parameters()).device
    optimizer = optimizer or Optimizer(model.parameters(), phase)
    model.train()
    while done < steps:
        permutation = sent(torch.from_numpy(stream.permutation(size)), batches_on or device)
        total, met = torch.zeros((), device=device), 0
        for batch in batches_of(permutation, phase.batch_size, joins=alone)[: steps - done]:
            check_interrupt()
            if at is not None and phase.schedule != "constant":
                optimizer.learning_rate = at.learning_rate(phase, done, steps)
            loss = batch_loss(batch)
            optimizer.zero_grad()
            loss.backward()
            if phase.clip_grad_norm is not None:
                nn.utils.clip_grad_norm_(optimizer.parameters, phase.clip_grad_norm)
            optimizer.step()
            met_now = batch.shape[0]  # len of a tensor is a call in Python
            total += loss.detach() * met_now
            met, done = met + met_now, done + 1
    return total.item() / met


def batches_of(
    permutation: Int[Tensor, "n"], batch_size: int, *, joins: bool
) -> tuple[Int[Tensor, "batch"], ...]:
    """Return the batches of an epoch; ``joins`` puts a last one of one sample to that before it.

    >>> [len(batch) for batch in batches_of(torch.arange(7), 3, joins=True)]
    [3, 4]
    """
    batches = torch.split(permutation, batch_size)
    return (*batches[:-2], torch.cat(batches[-2:])) if joins else batches


def has_batch_norm(model: nn.Module) -> bool:
    """Return whether a model normalizes over batches."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def predict(model: nn.Module, inputs: Num[Tensor, "n *shape"]) -> Float[Tensor, "n C"]:
    """Return the model's logits in evaluation mode, without gradients, batch by batch."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(batch) for batch in prediction_batches(inputs, model)])


def prediction_batches(
    inputs: Num[Tensor, "n *shape"], model: nn.Module | None = None
) -> tuple[Tensor, ...]:
    """Return inputs in the batches that a model predicts on at once.

    A model's class may have an attribute ``predicts_at_once``, which no module of torch's has.
    """
    if inputs.ndim == 2 and inputs.device.type == "cpu" and inputs.is_floating_point():
        usual = ROWS_AT_ONCE
    else:
        usual = prediction_batch_size(inputs.device, inputs[0].numel() if len(inputs) else 1)
    most = getattr(type(model), "predicts_at_once", usual)
    return (inputs,) if inputs.shape[0] <= most else torch.split(inputs, most)


def prediction_batch_size(device: torch.device, values: int) -> int:
    """Return how many samples of so many values a model predicts on at once.

    >>> cpu = torch.device("cpu")
    >>> prediction_batch_size(cpu, 8 * 8), prediction_batch_size(cpu, 784)
    (256, 64)
    >>> prediction_batch_size(torch.device("cuda"), 784)
    4096
    >>> prediction_batch_size(torch.device("cuda"), 3 * 224 * 224)  # little memory is not filled
    256
    """
    if device.type == "cpu":
        return min(ROWS_AT_ONCE, max(PREDICTION_BATCH, VALUES_ON_CPU // max(1, values)))
    return min(MOST_ON_GPU, max(FEWEST_ON_GPU, VALUES_ON_GPU // max(1, values)))


def accuracy(logits: Float[Tensor, "n C"], labels: Int[Tensor, "n"]) -> float:
    """Return the accuracy: the share of samples whose largest logit is their label.

    A row of NaN alone counts as wrong.
    """
    right = logits.argmax(dim=-1) == labels
    unknown = logits.isnan()
    if unknown.any():  # argmax takes NaN for the largest
        right = (logits.nan_to_num(nan=-torch.inf).argmax(dim=-1) == labels) & ~unknown.all(dim=-1)
    return right.to(torch.float64).mean().item()
