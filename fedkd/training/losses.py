"""Distillation losses: ``(student logits, teacher target, temperature) -> scalar``.

Targets have one of two scales: ``logits`` (any real numbers) or ``probs`` (soft labels that the
server already made, at the same temperature). Means are over samples; those of MAE, MSE and
kl_mean also over classes. Some losses lie between two others, at a ``skew`` that ``find_loss``
sets.

Below, q is the teacher's soft label, p the student's, ``softmax(f(x) / T)``, and T the temperature.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from fedkd.errors import SettingError
from fedkd.fusion import soften

Scale = Literal["logits", "probs"]
Rows = Float[Tensor, "N C"]
Scalar = Float[Tensor, ""]


def kl(student_logits: Rows, target_probs: Rows, temperature: float = 1.0) -> Scalar:
    """Return the divergence from teacher to student, ``T^2 * mean_x KL(q(x) || p(x))``, in nats.

    >= 0. ``target_probs`` are softened at the same T. T^2 keeps the gradient's size independent of
    T where both sides are softened (Hinton et al. 2015, arXiv 1503.02531, section 2). Zero targets
    contribute nothing.
    """
    log_probs = F.log_softmax(student_logits / temperature, dim=-1)
    # F.kl_div(..., reduction="batchmean") written out, to the bit: torch.vmap would take it row by
    # row.
    terms = torch.xlogy(target_probs, target_probs) - target_probs * log_probs
    return temperature**2 * terms.sum() / len(terms)


def kl_mean(student_logits: Rows, target_probs: Rows, temperature: float = 1.0) -> Scalar:
    """Return ``kl / (T^2 C)``: the mean over samples *and classes*, without T^2, in nats.

    It is the loss of KT-pFL's released code (arXiv 2111.02862). At T = 10 and ten classes its
    gradient is a thousandth of that of ``kl``.
    """
    scale = temperature**2 * student_logits.shape[-1]
    return kl(student_logits, target_probs, temperature) / scale


def reverse_kl(student_logits: Rows, target_probs: Rows, temperature: float = 1.0) -> Scalar:
    """Return the mode-seeking divergence ``T^2 * mean_x KL(p(x) || q(x))`` in nats.

    Targets are floored at 1e-12, since the loss would be infinite where the student has weight and
    the teacher has none.
    """
    log_probs = F.log_softmax(student_logits / temperature, dim=-1)
    log_target = target_probs.clamp(min=1e-12).log()
    return temperature**2 * (log_probs.exp() * (log_probs - log_target)).sum(dim=-1).mean()


def cross_entropy(student_logits: Rows, target_probs: Rows, temperature: float = 1.0) -> Scalar:
    """Return the cross entropy ``T^2 * mean_x -sum_c q(c) ln p(c)`` in nats.

    It is ``kl`` plus T^2 times the teacher's entropy, with the same gradient.
    """
    log_probs = F.log_softmax(student_logits / temperature, dim=-1)
    return temperature**2 * -(target_probs * log_probs).sum(dim=-1).mean()


def skewed_kl(
    student_logits: Rows, target_probs: Rows, temperature: float = 1.0, *, skew: float = 0.1
) -> Scalar:
    """Return the skewed divergence ``T^2 * mean_x KL(q || skew q + (1 - skew) p)`` in nats.

    At most ``T^2 ln(1 / skew)``: the teacher's part of the mixture keeps the loss and its gradient
    bounded where p is nearly 0 (Ko et al. 2024, arXiv 2402.03898, whose default is 0.1; T^2 is
    ours). ``skew`` to 0 is ``kl``; near 1 the loss is nearly 0.

    Args:
        student_logits: The student's logits.
        target_probs: The teacher's soft labels at the same temperature.
        temperature: T, which softens the student's logits.
        skew: The teacher's share in the mixture, between 0 and 1.

    >>> logits, target = torch.tensor([[-1000.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    >>> round(skewed_kl(logits, target, skew=0.5).item(), 4)  # ln 2
    0.6931
    """
    probs = soften(student_logits, temperature)
    terms = torch.xlogy(target_probs, target_probs) - torch.xlogy(
        target_probs, _mixture(probs, target_probs, skew)
    )
    return temperature**2 * terms.sum(dim=-1).mean()


def symmetric_kl(
    student_logits: Rows, target_probs: Rows, temperature: float = 1.0, *, skew: float = 0.5
) -> Scalar:
    """Return the weighted sum ``skew kl + (1 - skew) reverse_kl`` in nats.

    At 0.5 it is half of Jeffreys' divergence, which is symmetric in p and q. ``skew`` to 1 is
    ``kl``, to 0 ``reverse_kl``.

    Args:
        student_logits: The student's logits.
        target_probs: The teacher's soft labels at the same temperature.
        temperature: T, which softens the student's logits.
        skew: Weight of ``kl``, between 0 and 1.
    """
    forward = kl(student_logits, target_probs, temperature)
    backward = reverse_kl(student_logits, target_probs, temperature)
    return skew * forward + (1 - skew) * backward


def js(
    student_logits: Rows, target_probs: Rows, temperature: float = 1.0, *, skew: float = 0.5
) -> Scalar:
    """Return the generalized Jensen-Shannon divergence of teacher and student, in nats.

    ``T^2 * mean_x (skew KL(q || m) + (1 - skew) KL(p || m))`` with ``m = skew q + (1 - skew) p``,
    from Agarwal et al. (2023, arXiv 2306.13649); T^2 is ours. At 0.5 it is symmetric and at most
    ``T^2 ln 2``. It shrinks as ``skew`` nears 0 or 1: divided by ``skew`` it tends to ``kl`` at 0,
    divided by ``1 - skew`` to ``reverse_kl`` at 1.

    Args:
        student_logits: The student's logits.
        target_probs: The teacher's soft labels at the same temperature.
        temperature: T, which softens the student's logits.
        skew: The teacher's share in the mixture m, between 0 and 1.
    """
    log_probs = F.log_softmax(student_logits / temperature, dim=-1)
    log_mixture = _mixture(log_probs.exp(), target_probs, skew).log()
    to_teacher = torch.xlogy(target_probs, target_probs) - target_probs * log_mixture
    to_student = log_probs.exp() * (log_probs - log_mixture)
    return temperature**2 * (skew * to_teacher + (1 - skew) * to_student).sum(dim=-1).mean()


def _mixture(probs: Rows, target_probs: Rows, skew: float) -> Rows:
    """Return ``skew q + (1 - skew) p``, at least 1e-30, so that its logarithm is finite."""
    return (skew * target_probs + (1 - skew) * probs).clamp(min=1e-30)


def mae(student_logits: Rows, target_logits: Rows, temperature: float = 1.0) -> Scalar:
    """Return the mean absolute difference of logits, FedMD's digest loss (arXiv 1910.03581).

    The temperature has no influence.
    """
    return (student_logits - target_logits).abs().mean()


def mse(student_logits: Rows, target_logits: Rows, temperature: float = 1.0) -> Scalar:
    """Return the mean squared difference of logits (Ba & Caruana 2014, arXiv 1312.6184).

    The temperature has no influence.
    """
    return (student_logits - target_logits).square().mean()


Loss = Callable[[Rows, Rows, float], Scalar]
LossName = Literal[
    "kl", "kl_mean", "reverse_kl", "cross_entropy", "skewed_kl", "symmetric_kl", "js", "mae", "mse"
]
SKEWED: dict[str, Callable[..., Scalar]] = {
    "skewed_kl": skewed_kl,
    "symmetric_kl": symmetric_kl,
    "js": js,
}
ON_PROBS: dict[str, Loss] = {
    "kl": kl,
    "kl_mean": kl_mean,
    "reverse_kl": reverse_kl,
    "cross_entropy": cross_entropy,
    **SKEWED,
}
ON_LOGITS: dict[str, Loss] = {"mae": mae, "mse": mse}
LOSSES: dict[str, Loss] = {**ON_PROBS, **ON_LOGITS}


def find_loss(name: str, skew: float | None = None) -> Loss:
    """Return the loss of a name, at a ``skew`` or, for None, at the loss's default skew.

    Raises SettingError for a skew of a loss that has none.
    """
    if skew is None:
        return LOSSES[name]
    if name not in SKEWED:
        raise SettingError(
            f"distill.loss_skew={skew:g} would do nothing: loss={name} has none;"
            f" {', '.join(SKEWED)} have"
        )
    return partial(SKEWED[name], skew=skew)


def by_sample(
    loss: Loss, student_logits: Rows, target: Rows, temperature: float = 1.0
) -> Float[Tensor, "N"]:
    """Return each sample's own term of a loss, whose mean is the loss.

    Args:
        loss: One of ``LOSSES``.
        student_logits: The student's logits.
        target: The teacher's logits or soft labels, whichever the loss takes.
        temperature: T, which softens the student's logits.
    """
    each: Float[Tensor, "N"] = vmap(lambda s, t: loss(s[None], t[None], temperature))(
        student_logits, target
    )
    return each


def weighted(
    loss: Loss,
    student_logits: Rows,
    target: Rows,
    weights: Float[Tensor, "N"],
    temperature: float = 1.0,
) -> Scalar:
    """Return a loss with weighted samples, ``mean_x w(x) loss(x)``.

    Weights of 1 give the loss itself, up to rounding; a weight of 0 takes the sample out of the sum
    and leaves it in N. With weights of mean 1 over the public set the loss has its usual size.

    Args:
        loss: One of ``LOSSES``.
        student_logits: The student's logits.
        target: The teacher's logits or soft labels, whichever the loss takes.
        weights: Each sample's weight, >= 0.
        temperature: T, which softens the student's logits.
    """
    return (weights * by_sample(loss, student_logits, target, temperature)).mean()


def distillation_target(loss: str, values: Rows, scale: Scale, temperature: float) -> Rows:
    """Return a teacher's values as the target of a loss: logits as they are, or soft labels.

    Logits are softened for a loss on probabilities. Probabilities cannot become logits again, which
    is checked before the run (``fedkd.experiment.build``), so that here it is an assertion.

    Args:
        loss: Name of the loss.
        values: The teacher's logits or soft labels.
        scale: Which of the two they are.
        temperature: T at which logits are softened.
    """
    if loss in ON_LOGITS:
        assert scale == "logits", f"{loss} needs logits"
        return values
    return soften(values, temperature) if scale == "logits" else values
