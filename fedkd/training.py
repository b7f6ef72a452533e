"""One optimization phase of one model, and prediction: functions over ``nn.Module`` and tensors.

The plain PyTorch loop: no DataLoader, no trainer. Batches come from a named stream, so that a phase repeats to the
bit whatever else runs beside it. Knows nothing of clients, rounds or messages.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.checks import at_least, at_most, one_of, positive
from fedkd.errors import SettingError
from fedkd.losses import LOSSES, LossName

PREDICTION_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Phase:
    """How one optimization phase steps."""

    epochs: int = 1
    """Passes over the samples each round, >= 0."""
    batch_size: int = 32
    """Samples a step, >= 1."""
    optimizer: Literal["adam", "sgd", "adamw"] = "adam"
    """Adam (FedMD's), SGD (DS-FL's) or AdamW."""
    learning_rate: float = 1e-3
    """Step size, > 0."""
    momentum: float | None = None
    """Of SGD, in [0, 1); null is 0. With another optimizer it is an error."""
    weight_decay: float = 0.0
    """L2 penalty (decoupled in AdamW), >= 0."""
    optimizer_state: Literal["fresh", "kept"] = "fresh"
    """Moments and momentum: afresh each round, or kept with the client (and its memory) from round to round."""

    def __post_init__(self) -> None:
        at_least(0, epochs=self.epochs, weight_decay=self.weight_decay)
        at_least(1, batch_size=self.batch_size)
        positive(learning_rate=self.learning_rate)
        one_of(("adam", "sgd", "adamw"), optimizer=self.optimizer)
        one_of(("fresh", "kept"), optimizer_state=self.optimizer_state)
        if self.optimizer_state == "kept" and self.optimizer == "sgd" and not self.momentum:
            raise SettingError("optimizer_state=kept would do nothing: SGD without momentum has no state")
        if self.momentum is not None:
            if self.optimizer != "sgd":
                raise SettingError(f"momentum={self.momentum} would do nothing: optimizer={self.optimizer} has none")
            if not 0 <= self.momentum < 1:
                raise SettingError(f"momentum must be in [0, 1), got {self.momentum}")


# Two phases share the settings above and nothing else, so that one place says what a learning rate is.
@dataclass(frozen=True, kw_only=True)
class Training(Phase):
    """How a client trains on its private set."""

    public_epochs: int = 0
    """Epochs on the labeled public set before a client's first round, as in FedMD; needs public.labeled=true."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, public_epochs=self.public_epochs)


@dataclass(frozen=True, kw_only=True)
class Distillation(Phase):
    """How a client distills its teacher on the public set."""

    batch_size: int = 64
    """Samples a step, >= 1."""
    loss: LossName | None = None
    """Distillation loss; null takes the strategy's own (that of its paper)."""
    loss_skew: float | None = None
    """Between 0 and 1: the teacher's part of the mixture in skewed_kl and js, kl's part in symmetric_kl; null is the
    loss's own (0.1 in skewed_kl, otherwise 0.5). With another loss it is an error."""
    temperature: float = 1.0
    """Temperature of teacher and student, 0.001 to 1000; losses on soft labels carry its square."""

    gate: bool = False
    """Believe the teacher only where it is surer than the client was before it distilled; elsewhere keep to oneself."""
    margin_weights: bool = False
    """Weigh each public sample by the margin between the teacher's two largest probabilities, to mean 1."""
    relation: float | None = None
    """Weight, > 0, of a further loss: the squared difference of student's and teacher's similarities between the
    samples of a batch; null leaves it out."""
    student_view: Literal["same", "moved"] = "same"
    """Whether students see public samples as their teachers did, or each moved by up to an eighth of its side."""

    @property
    def plain(self) -> bool:
        """Whether the loss is that of teacher and student alone, on the samples as they are."""
        return not (self.gate or self.margin_weights or self.relation is not None or self.student_view != "same")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(("same", "moved"), student_view=self.student_view)
        if self.relation is not None:
            positive(relation=self.relation)
        positive(temperature=self.temperature)
        at_least(1e-3, temperature=self.temperature)
        at_most(1e3, temperature=self.temperature)
        if self.loss is not None:
            one_of(tuple(LOSSES), loss=self.loss)
        if self.loss_skew is not None and not 0 < self.loss_skew < 1:
            raise SettingError(f"loss_skew must be above 0 and below 1, got {self.loss_skew}")
        if self.epochs == 0:
            raise SettingError("epochs must be >= 1, got 0; strategy=local_only leaves distillation out")


def make_optimizer(parameters: Iterable[nn.Parameter], phase: Phase) -> torch.optim.Optimizer:
    """Return the phase's optimizer over ``parameters``."""
    trainable = [p for p in parameters if p.requires_grad]
    if phase.optimizer == "sgd":
        return torch.optim.SGD(
            trainable, lr=phase.learning_rate, momentum=phase.momentum or 0.0, weight_decay=phase.weight_decay
        )
    cls = torch.optim.Adam if phase.optimizer == "adam" else torch.optim.AdamW
    return cls(trainable, lr=phase.learning_rate, weight_decay=phase.weight_decay)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as named tensors, ``<index of the parameter>/<name>``; empty before its first step.

    >>> weight = nn.Parameter(torch.zeros(2))
    >>> optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.5)
    >>> weight.sum().backward()
    >>> optimizer.step()
    >>> {name: tensor.tolist() for name, tensor in optimizer_tensors(optimizer).items()}
    {'0/momentum_buffer': [1.0, 1.0]}
    """
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{index}/{name}": tensor for index, values in state.items() for name, tensor in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer the state that ``optimizer_tensors`` returned. The tensors are copied.

    Zeros in the place of every tensor are the state of a fresh optimizer, for Adam, AdamW and SGD with momentum.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = tensor.clone()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def blank_optimizer(parameters: Iterable[nn.Parameter], phase: Phase) -> dict[str, Tensor]:
    """Return the state of the phase's optimizer before its first step: zeros. Changes the parameters."""
    parameters = list(parameters)
    optimizer = make_optimizer(parameters, phase)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {name: torch.zeros_like(tensor) for name, tensor in optimizer_tensors(optimizer).items()}


def optimize(
    model: nn.Module,
    size: int,
    batch_loss: Callable[[Int[Tensor, "batch"]], Float[Tensor, ""]],
    phase: Phase,
    stream: np.random.Generator,
    *,
    epochs: int | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    pulse: Callable[[], None] = lambda: None,
) -> float | None:
    """Train ``model`` in place and return its mean loss over the last epoch (None without any epoch).

    ``batch_loss`` maps indices below ``size`` to the mean loss of those samples. Every epoch visits all samples in
    a fresh order; the last batch may be smaller. ``optimizer`` is the phase's own, fresh, if none is given.
    ``pulse`` is called before every batch and may raise, which ends the phase there.
    """
    epochs = phase.epochs if epochs is None else epochs
    if epochs == 0 or size == 0:
        return None
    device = next(model.parameters()).device
    optimizer = optimizer or make_optimizer(model.parameters(), phase)
    model.train()
    for _ in range(epochs):
        order = torch.from_numpy(stream.permutation(size)).to(device)
        total = torch.zeros((), device=device)
        for batch in torch.split(order, phase.batch_size):
            pulse()
            loss = batch_loss(batch)
            optimizer.zero_grad(set_to_none=True)
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
    """Return the share of samples whose largest logit is their label; 0 for rows that are all NaN."""
    right = (logits.nan_to_num(nan=-torch.inf).argmax(dim=-1) == labels) & ~logits.isnan().all(dim=-1)
    return right.to(torch.float64).mean().item()
