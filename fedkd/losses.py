"""Distillation losses: ``(student logits, teacher target, temperature) -> scalar``.

Targets come in two scales and are never mistaken for one another: ``logits`` (any real numbers) or ``probs`` (soft
labels that the server already made, at the same temperature). Means are over samples; MAE and MSE also over classes.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fedkd.fusion import soften

Scale = Literal["logits", "probs"]
Rows = Float[Tensor, "N C"]
Scalar = Float[Tensor, ""]


def kl(student_logits: Rows, target_probs: Rows, temperature: float = 1.0) -> Scalar:
    """Return ``T^2 * mean_x KL(q(x) || softmax(f(x) / T))`` in nats, >= 0.

    ``target_probs`` are softened at the same T. T^2 keeps the gradient's size independent of T where both sides
    are softened (Hinton et al. 2015, arXiv 1503.02531, section 2). Zero targets contribute nothing.
    """
    log_probs = F.log_softmax(student_logits / temperature, dim=-1)
    # F.kl_div(..., reduction="batchmean") written out, to the bit: torch.vmap would take it row by row.
    terms = torch.xlogy(target_probs, target_probs) - target_probs * log_probs
    return temperature**2 * terms.sum() / len(terms)


def reverse_kl(student_logits: Rows, target_probs: Rows, temperature: float = 1.0) -> Scalar:
    """Return ``T^2 * mean_x KL(softmax(f(x) / T) || q(x))`` in nats: mode seeking.

    Targets are floored at 1e-12, since a student that puts weight where the teacher has none would cost infinity.
    """
    log_probs = F.log_softmax(student_logits / temperature, dim=-1)
    log_target = target_probs.clamp(min=1e-12).log()
    return temperature**2 * (log_probs.exp() * (log_probs - log_target)).sum(dim=-1).mean()


def cross_entropy(student_logits: Rows, target_probs: Rows, temperature: float = 1.0) -> Scalar:
    """Return ``T^2 * mean_x -sum_c q(c) ln softmax(f / T)(c)``: ``kl`` plus the teacher's entropy, same gradient."""
    log_probs = F.log_softmax(student_logits / temperature, dim=-1)
    return temperature**2 * -(target_probs * log_probs).sum(dim=-1).mean()


def mae(student_logits: Rows, target_logits: Rows, temperature: float = 1.0) -> Scalar:
    """Return the mean absolute difference of logits, FedMD's digest loss (arXiv 1910.03581). T plays no part."""
    return (student_logits - target_logits).abs().mean()


def mse(student_logits: Rows, target_logits: Rows, temperature: float = 1.0) -> Scalar:
    """Return the mean squared difference of logits (Ba & Caruana 2014, arXiv 1312.6184). T plays no part."""
    return (student_logits - target_logits).square().mean()


Loss = Callable[[Rows, Rows, float], Scalar]
LossName = Literal["kl", "reverse_kl", "cross_entropy", "mae", "mse"]
ON_PROBS: dict[str, Loss] = {"kl": kl, "reverse_kl": reverse_kl, "cross_entropy": cross_entropy}
ON_LOGITS: dict[str, Loss] = {"mae": mae, "mse": mse}
LOSSES: dict[str, Loss] = {**ON_PROBS, **ON_LOGITS}


def distillation_target(loss: str, values: Rows, scale: Scale, temperature: float) -> Rows:
    """Return what ``loss`` takes for a teacher's values: logits as they are, or soft labels.

    Logits are softened for a loss on probabilities; probabilities cannot become logits again, which is checked
    before the run (``fedkd.build``), so that here it is an assertion.
    """
    if loss in ON_LOGITS:
        assert scale == "logits", f"{loss} needs logits"
        return values
    return soften(values, temperature) if scale == "logits" else values
