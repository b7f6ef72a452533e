"""The steps of a client whose model is fitted as a whole, in place of those by gradients.

Each adds to what the model is fitted to, and fits it anew to all of that: the private rows
(``warm_up``, ``train``), the public labels (``pretrain``), the last teacher's soft labels
(``distill``). A step that teaches nothing new leaves the model as it is, to the bit. Steps that
only look at the model are ``fedkd.federation.local_steps``'.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedkd.federation.fit_data import FITTED_TO, teach
from fedkd.federation.local_steps import STEPS, phase_of, remember, take_teacher
from fedkd.federation.local_update import LocalUpdate
from fedkd.messages import Step
from fedkd.models.fitting import FitsItself


def pretrain(update: LocalUpdate) -> None:
    """Learn the labels of the public set."""
    _learn(update, {"public labels": torch.tensor(True)}, "pretrain")


def warm_up(update: LocalUpdate) -> None:
    """Learn the private rows before the first round."""
    _learn(update, {"private": torch.tensor(True)}, "warm_up")


def train(update: LocalUpdate) -> None:
    """Learn the private rows, beside what the last teacher said."""
    remember(update, "before training")
    _learn(update, {"private": torch.tensor(True)}, "train")
    remember(update, "after training")


def distill(update: LocalUpdate) -> None:
    """Learn the teacher's soft labels in place of the last teacher's."""
    taken = take_teacher(update)
    if taken is None:
        return
    teacher, loss = taken
    weights = torch.ones(len(teacher.ids)) if loss.weights is None else loss.weights
    taught = {"ids": teacher.ids, "probs": loss.probs, "weights": weights}
    _learn(update, {name: tensor.cpu() for name, tensor in taught.items()}, "distill")


def _learn(update: LocalUpdate, more: Mapping[str, Tensor], purpose: str) -> None:
    """Add to what the model is fitted to, and fit it. No epochs of a step leave it out."""
    phase, epochs = phase_of(update.context, purpose)
    if (phase.epochs if epochs is None else epochs) == 0:
        return
    update.check_interrupt()
    assert isinstance(update.model, FitsItself), "asked before"
    before = update.memory.section(FITTED_TO)
    update.memory.replace(FITTED_TO, {**before, **more})
    teach(update.model, update.context, update.client_id, update.memory.tensors)
    update.model.fit()


FITTED_STEPS: Mapping[Step, Callable[[LocalUpdate], None]] = {
    **STEPS,
    "pretrain": pretrain,
    "warm_up": warm_up,
    "distill": distill,
    "train": train,
}
