"""Distillation losses: ``(student logits, teacher target, temperature) -> scalar``.

Targets have one of two scales: ``logits`` (any real numbers) or ``probs`` (soft labels that the
server already made, at the same temperature). Means are over samples; those of MAE, MSE and
kl_mean also over classes. Some losses lie between two others, at a ``skew`` that ``find_loss``
sets.

Below, q is the teacher's soft label, p the student's, ``softmax(f(x) / T)``, and T the temperature.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import vmap

from fedkd.errors import SettingError
from fedkd.fusion import soften

Scale = Literal["logits", "probs"]
OFF_DIAGONAL = 0.0051
"""Weight of each pair of different classes in ``cross_correlation``: FCCL's."""

LEAST_LABEL = 1e-4
"""What stands for the 0 of a label in ``symmetric_cross_entropy``."""
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
    return temperature**2 * terms.sum() / terms.shape[0]


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


def not_true(
    student_logits: Rows, target_probs: Rows, temperature: float = 1.0, *, weight: float = 1.0
) -> Scalar:
    """Return the cross-entropy with the teacher's choice, plus KL over all other classes, in nats.

    ``mean_x (-ln p_1(y) + weight T^2 KL(q~(x) || p~(x)))``: y is the class that the teacher finds
    likeliest, p_1 the student's soft label at temperature 1, and q~ and p~ are soft labels at T
    without y, renormalised over the other classes (FedNTD, Lee et al. 2022, arXiv 2106.03097; there
    y is the true label of a private sample, and the public samples here need none). A teacher that
    is sure of y says nothing of the others: then, and with two classes, the second term is 0.

    Args:
        student_logits: The student's logits.
        target_probs: The teacher's soft labels at the same temperature.
        temperature: T, which softens the student's logits; the paper's is 3.
        weight: Of the second term, >= 0; the paper's beta is 1.

    >>> target = torch.tensor([[0.8, 0.15, 0.05]])
    >>> same = not_true(target.log(), target).item()  # -ln 0.8: the others are as the teacher's
    >>> round(same, 4)
    0.2231
    """
    classes = torch.arange(student_logits.shape[-1], device=student_logits.device)
    is_true = classes == target_probs.argmax(dim=-1, keepdim=True)
    label_loss = -(F.log_softmax(student_logits, dim=-1) * is_true).sum(dim=-1)
    others = target_probs.masked_fill(is_true, 0)
    others = others / others.sum(dim=-1, keepdim=True).clamp(min=1e-30)
    of_others = (student_logits / temperature).masked_fill(is_true, -torch.inf)
    log_others = F.log_softmax(of_others, dim=-1).masked_fill(is_true, 0)
    apart = (torch.xlogy(others, others) - others * log_others).sum(dim=-1)
    return (label_loss + weight * temperature**2 * apart).mean()


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


def cross_correlation(
    student_logits: Rows, target_logits: Rows, temperature: float = 1.0
) -> Scalar:
    """Return how far the correlations of two logits' classes over a batch are from 1 and -1.

    ``sum_u (1 - M_uu)^2 + 0.0051 sum_{u != v} (1 + M_uv)^2``, where ``M_uv`` is the correlation
    over the batch of the student's logit of class u with the teacher's of class v: 1 for the same
    class, -1 for others (FCCL, Huang et al. 2022, CVPR). A class whose logit is the same for the
    whole batch has correlation 0 with all. The temperature has no influence; nor has the scale of
    logits.

    >>> logits = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    >>> cross_correlation(5 * logits, logits).item() < 1e-6
    True
    """
    student, teacher = (
        (z - z.mean(dim=0)) / z.std(dim=0, correction=0).clamp(min=1e-6)
        for z in (student_logits, target_logits)
    )
    moment = student.T @ teacher / len(student)
    own = torch.eye(len(moment), device=moment.device)
    apart = own * (1 - moment).square() + OFF_DIAGONAL * (1 - own) * (1 + moment).square()
    return apart.sum()


Loss = Callable[[Rows, Rows, float], Scalar]
LossName = Literal[
    "kl",
    "kl_mean",
    "reverse_kl",
    "cross_entropy",
    "skewed_kl",
    "symmetric_kl",
    "js",
    "not_true",
    "mae",
    "mse",
    "cross_correlation",
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
    "not_true": not_true,
}
ON_LOGITS: dict[str, Loss] = {"mae": mae, "mse": mse, "cross_correlation": cross_correlation}
OF_BATCHES = ("cross_correlation",)
"""Losses that are of a batch together: no sample has a term of its own."""
LOSSES: dict[str, Loss] = {**ON_PROBS, **ON_LOGITS}


def find_loss(name: str, skew: float | None = None, not_true_weight: float | None = None) -> Loss:
    """Return the loss of a name, at a ``skew`` or weight or, for None, at the loss's own.

    Raises SettingError for a skew or weight of a loss that has none.
    """
    if not_true_weight is not None:
        if name != "not_true":
            raise SettingError(
                f"distill.not_true_weight={not_true_weight:g} would do nothing: it is of"
                f" distill.loss=not_true, and the loss is {name}"
            )
        return partial(not_true, weight=not_true_weight)
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


def symmetric_cross_entropy(
    logits: Rows, labels: Int[Tensor, "N"], *, reverse_weight: float
) -> Scalar:
    """Return the cross-entropy with labels plus a weight times the reverse one, in nats.

    The reverse one is ``mean_x -sum_c p_c(x) ln y_c(x)`` with ln 0 taken for ln 1e-4, which is
    ``9.21 (1 - p_y(x))``: bounded, so that a wrong label pulls no further (Wang et al. 2019, arXiv
    1908.06112).

    Args:
        logits: Of private samples.
        labels: Their labels, of which some may be wrong.
        reverse_weight: Weight of the reverse term, > 0.

    >>> even = torch.zeros(1, 2)  # ln 2 + 9.2103 / 2
    >>> round(symmetric_cross_entropy(even, torch.tensor([0]), reverse_weight=1.0).item(), 4)
    5.2983
    """
    of_labels = torch.softmax(logits, dim=-1).gather(-1, labels[:, None])
    reverse = -math.log(LEAST_LABEL) * (1 - of_labels).mean()
    return F.cross_entropy(logits, labels) + reverse_weight * reverse


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
