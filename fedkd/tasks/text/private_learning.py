"""Learning text by DP-SGD: a window is a record. A control for what protects soft labels alone.

A secret that the text repeats lies in several windows, and the guarantee is for one: by group
privacy it weakens with every repetition. Decoders can be trained so; Opacus finds no single
sample's gradient in ``nn.GRU``. Not for: accounting over a run of the simulator
(``fedkd.privacy.ledger``).
"""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.privacy.dp_sgd_history import History
from fedkd.privacy.mechanisms.dp_sgd import DpSgd, Schedule
from fedkd.privacy.private_training import optimize_privately
from fedkd.runtime.seeding import numpy_stream
from fedkd.tasks.text.text_learning import next_token_loss
from fedkd.tasks.text.tokens import next_token_logits
from fedkd.tasks.text.windows import Windows
from fedkd.training.hyperparameters import Phase
from fedkd.training.optimizers import Optimizer


def learn_privately(
    model: nn.Module,
    text: Windows,
    phase: Phase,
    privacy: DpSgd,
    rounds: int,
    seed: int,
    *path: str | int,
) -> float:
    """Train ``model`` in place by DP-SGD for one of ``rounds`` equal rounds, and return the epsilon
    this round costs.

    Streams are named by ``path``. Unit: one window; neighbors: a window replaced by a null record.
    The loss of a window is the mean over its positions with a target. Raises SettingError for a
    model that Opacus cannot train.
    """
    if any(isinstance(module, nn.GRU) for module in model.modules()):
        raise SettingError(
            "models: dp_sgd cannot train nn.GRU, in which Opacus finds no sample's gradient; take"
            " decoder"
        )
    schedule = Schedule.of(len(text.inputs), phase.batch_size, phase.epochs)
    history = History()

    def batch_loss(batch: Int[Tensor, "b"]) -> Tensor:
        logits, targets = next_token_logits(model, text.inputs[batch]), text.targets[batch]
        return torch.stack(
            [next_token_loss(x[None], y[None]) for x, y in zip(logits, targets, strict=True)]
        ).mean()

    optimize_privately(
        model,
        len(text.inputs),
        batch_loss,
        Optimizer(model.parameters(), phase).as_torch(),
        schedule,
        noise_multiplier=privacy.noise_multiplier_in(schedule, rounds),
        clip_norm=privacy.clip_norm,
        batches=numpy_stream(seed, *path, "private batches"),
        noise=numpy_stream(seed, *path, "private noise"),
        history=history,
    )
    return history.epsilon(privacy.delta)
