"""What a client does with a language model: learn text, learn from a teacher, predict, and be
measured.

Functions over models and windows, on the loop of ``fedkd.training.loop``; means are over positions
that have a target. Not for: rounds and messages.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.fusion import soften
from fedkd.settings.validators import at_least, at_most
from fedkd.tasks.text.tokens import next_token_logits
from fedkd.tasks.text.windows import IGNORED, Windows
from fedkd.training.hyperparameters import Phase
from fedkd.training.loop import optimize
from fedkd.training.losses import kl

PREDICTION_ROWS = 64


def learn(
    model: nn.Module, text: Windows, phase: Phase, stream: np.random.Generator
) -> float | None:
    """Train ``model`` in place on the next tokens of windows; a step takes ``batch_size`` windows.

    Returns the mean of the last epoch's losses in nats a token, None without an epoch.
    """

    def batch_loss(batch: Int[Tensor, "b"]) -> Tensor:
        return next_token_loss(next_token_logits(model, text.inputs[batch]), text.targets[batch])

    return optimize(model, len(text.inputs), batch_loss, phase, stream)


def next_token_loss(
    logits: Float[Tensor, "n L V"], targets: Int[Tensor, "n L"]
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy in nats over positions with a target."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def distill(
    model: nn.Module,
    public: Windows,
    taught: Int[Tensor, "M"],
    teacher_probs: Float[Tensor, "M V"],
    phase: Phase,
    stream: np.random.Generator,
    *,
    own_share: float = 0.0,
) -> float | None:
    """Distil soft labels at some of the public positions, in place; return the last epoch's mean
    loss in nats.

    The loss of a step is ``own_share * CE(next token) + (1 - own_share) * KL(q || softmax z)``: the
    first over all positions of its windows, the second over those that are taught. Student
    temperature 1, no factor of T squared (Li et al. 2022, arXiv 2212.08349; the share is their
    lambda). ``taught`` are places in the flattened [n L], in any order. A window without a taught
    position is left out of every step.
    """
    at_least(0, own_share=own_share)
    at_most(1, own_share=own_share)
    length = public.inputs.shape[1]
    row_of = torch.full((public.inputs.numel(),), -1)
    row_of[taught] = torch.arange(len(taught))
    row_of = row_of.view(-1, length)
    rows = (row_of >= 0).any(dim=1).nonzero().squeeze(1)

    def batch_loss(batch: Int[Tensor, "b"]) -> Tensor:
        chosen = rows[batch]
        logits = next_token_logits(model, public.inputs[chosen])
        places = row_of[chosen]
        loss = kl(logits[places >= 0], teacher_probs[places[places >= 0]])
        if own_share == 0:
            return loss
        return own_share * next_token_loss(logits, public.targets[chosen]) + (1 - own_share) * loss

    return optimize(model, len(rows), batch_loss, phase, stream)


def predict_next(model: nn.Module, inputs: Int[Tensor, "n L"]) -> Float[Tensor, "n L V"]:
    """Return the model's logits in evaluation mode, without gradients, in batches of 64 windows."""
    model.eval()
    with torch.no_grad():
        return torch.cat(
            [next_token_logits(model, rows) for rows in torch.split(inputs, PREDICTION_ROWS)]
        )


def bits_per_token(model: nn.Module, text: Windows) -> float:
    """Return the cross-entropy in bits a token over all positions with a target; log2 V for a
    uniform model.
    """
    total = 0.0
    for rows in torch.split(torch.arange(len(text.inputs)), PREDICTION_ROWS):
        logits, targets = predict_next(model, text.inputs[rows]), text.targets[rows]
        total += F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        ).item()
    return total / math.log(2) / text.positions


def accuracy_of_tokens(model: nn.Module, text: Windows) -> float:
    """Return the share of positions with a target whose likeliest next token is the right one."""
    likeliest = predict_next(model, text.inputs).argmax(dim=-1)
    return (likeliest == text.targets)[text.real].double().mean().item()


def soft_labels(
    model: nn.Module, text: Windows, positions: Int[Tensor, "M"]
) -> Float[Tensor, "M V"]:
    """Return a model's soft labels at temperature 1 at places of the flattened [n L]."""
    return soften(predict_next(model, text.inputs).flatten(0, 1)[positions])
