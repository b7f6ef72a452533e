"""Metrics of predictions: calibration error, negative log likelihood, accuracy by class.

Pure functions over soft labels and true labels, for students and for teachers. For the researcher's
record: nothing here is part of a protocol. Accuracy itself is in ``fedkd.training.loop``.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedkd.fusion import soften
from fedkd.training.losses import Scale

BINS = 15
FLOOR = 1e-12
"""Least probability that a likelihood takes: one sure mistake costs 27.6 nats, not infinity."""


def expected_calibration_error(
    probs: Float[Tensor, "n C"], labels: Int[Tensor, "n"], bins: int = BINS
) -> float:
    """Return the expected calibration error in [0, 1]: the mean gap of confidence and accuracy.

    ``sum_b |B_b| / n * |accuracy(B_b) - confidence(B_b)|`` over ``bins`` bins of equal width, where
    the b-th holds the samples whose largest probability is in ((b - 1) / bins, b / bins] (Guo et
    al. 2017, arXiv 1706.04599, equation 3). 0 where confidence is accuracy in every bin; ``1 -
    accuracy`` for predictions of probability 1; NaN without samples, or where a row is NaN. With
    few samples it is biased upwards, since the bins are nearly empty.

    Two predictions of 0.9, one of them right, miss by 0.4; one of 0.6 that is right misses by 0.4
    in its own bin:

    >>> probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    >>> round(expected_calibration_error(probs, torch.tensor([0, 1, 1])), 6)
    0.4
    """
    confidence, predicted = probs.max(dim=-1)
    return calibration_error(confidence.to(torch.float64), predicted == labels, bins)


def calibration_error(
    confidence: Float[Tensor, "n"], right: Bool[Tensor, "n"], bins: int = BINS
) -> float:
    """Return the expected calibration error from each prediction's confidence and correctness."""
    if len(right) == 0:
        return math.nan
    return _summed_gaps(confidence, right, bins).item() / len(right)


def _summed_gaps(confidence: Float[Tensor, "n"], right: Bool[Tensor, "n"], bins: int) -> Tensor:
    """Return the sum over bins of how far confidence and accuracy are apart, in samples."""
    # NaN has no bin; it is put into the first, and makes the sum NaN.
    bin_of_each = (confidence.nan_to_num() * bins).ceil().clamp(1, bins).to(torch.int64) - 1
    gap = right.to(torch.float64) - confidence
    # |B| / n * |accuracy - confidence| is |sum of a bin's gaps| / n. One-hot, since adding by index
    # has no fixed order.
    gap_of_bins = gap @ F.one_hot(bin_of_each, bins).to(torch.float64)
    return gap_of_bins.abs().sum()


def negative_log_likelihood(probs: Float[Tensor, "n C"], labels: Int[Tensor, "n"]) -> float:
    """Return the mean negative log likelihood ``-ln p(label)`` of the true labels, in nats, >= 0.

    Probabilities are floored at 1e-12. ``ln C`` for uniform predictions; NaN without samples, or
    where a row is NaN.

    >>> probs = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    >>> round(negative_log_likelihood(probs, torch.tensor([1, 0])), 6)  # (ln 2 + 0) / 2
    0.346574
    """
    return -_mean_log(probs, labels).item()


def _mean_log(probs: Float[Tensor, "n C"], labels: Int[Tensor, "n"]) -> Tensor:
    of_labels = probs.gather(1, labels[:, None]).to(torch.float64)
    return of_labels.clamp(min=FLOOR).log().mean()


def quality_in_one_read(
    logits: Float[Tensor, "n C"], labels: Int[Tensor, "n"]
) -> tuple[float, float, float]:
    """Return accuracy, negative log likelihood and expected calibration error, at once.

    The figures of ``accuracy``, ``negative_log_likelihood`` and ``expected_calibration_error``, for
    logits on a device: it is waited for once. NaN where there is no sample.

    >>> quality_in_one_read(torch.zeros(2, 4), torch.tensor([0, 1]))
    (0.5, 1.3862943611198906, 0.25)
    """
    if len(labels) == 0:
        return math.nan, math.nan, math.nan
    probs = soften(logits)
    confidence, predicted = probs.max(dim=-1)
    found = [
        right_ones(logits, labels).to(torch.float64).mean(),
        -_mean_log(probs, labels),
        _summed_gaps(confidence.to(torch.float64), predicted == labels, BINS),
    ]
    right, nll, gaps = torch.stack(found).tolist()
    return right, nll, gaps / len(labels)


def quality_of_many(
    logits: Float[Tensor, "K n C"], labels: Int[Tensor, "K n"], counts: Int[Tensor, "K"]
) -> Float[Tensor, "K 3"]:
    """Return accuracy, negative log likelihood and calibration error of K models, on their device.

    As ``quality_in_one_read`` of each, up to rounding. Model k has ``counts[k] >= 1`` samples; rows
    beyond may be anything.
    """
    valid = torch.arange(labels.shape[1], device=labels.device) < counts[:, None]
    probs = soften(logits).to(torch.float64)
    confidence, predicted = probs.max(dim=-1)
    logs = probs.gather(-1, labels[..., None])[..., 0].clamp(min=FLOOR).log()
    bins = (confidence.nan_to_num() * BINS).ceil().clamp(1, BINS).to(torch.int64) - 1
    gaps = torch.where(valid, (predicted == labels).to(torch.float64) - confidence, 0)
    of_bins = torch.einsum("kn,knb->kb", gaps, F.one_hot(bins, BINS).to(torch.float64))
    right = right_ones(logits, labels) & valid
    sums = (right.sum(dim=-1), -torch.where(valid, logs, 0).sum(dim=-1), of_bins.abs().sum(dim=-1))
    return torch.stack([total.to(torch.float64) / counts for total in sums], dim=-1)


def right_ones(
    logits: Float[Tensor, "*K n C"], labels: Int[Tensor, "*K n"]
) -> Bool[Tensor, "*K n"]:
    """Return which samples have their label as largest logit; none whose logits are all NaN.

    argmax alone would take NaN for the largest.
    """
    unknown = logits.isnan()
    largest = torch.where(unknown, -torch.inf, logits).argmax(dim=-1)
    return (largest == labels) & ~unknown.all(dim=-1)


def accuracy_by_class(scores: Float[Tensor, "n C"], labels: Int[Tensor, "n"]) -> tuple[float, ...]:
    """Return the accuracy on the samples of each class; NaN for a class without samples.

    >>> accuracy_by_class(torch.tensor([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0]]), torch.tensor([0, 1]))
    (1.0, 0.0, nan)
    """
    of_class = F.one_hot(labels, scores.shape[-1]).to(torch.float64)
    right = (scores.argmax(dim=-1) == labels).to(torch.float64)
    return tuple((right @ of_class / of_class.sum(dim=0)).tolist())


def teacher_quality(
    values: Float[Tensor, "N C"], scale: Scale, labels: Int[Tensor, "N"] | None, temperature: float
) -> Mapping[str, float | tuple[float, ...]]:
    """Return a teacher's metrics on the public samples whose true labels the simulation knows.

    ``teacher_accuracy``, ``teacher_ece`` and ``teacher_nll`` are of the soft labels that its
    students see: at the distillation temperature, to which only logits are still softened.
    ``teacher_by_class`` is the accuracy on the samples of each class. Without known labels the
    mapping is empty.

    Args:
        values: The teacher's logits or soft labels.
        scale: Which of the two they are.
        labels: True labels of the samples; those outside 0..C-1 are not known.
        temperature: The distillation temperature.
    """
    if labels is None:
        return {}
    known = (labels >= 0) & (labels < values.shape[-1])
    if not known.all():
        values, labels = values[known], labels[known]
    if len(labels) == 0:
        return {}
    probs = soften(values, temperature) if scale == "logits" else values
    return {
        "teacher_accuracy": (probs.argmax(dim=-1) == labels).to(torch.float64).mean().item(),
        "teacher_ece": expected_calibration_error(probs, labels),
        "teacher_nll": negative_log_likelihood(probs, labels),
        "teacher_by_class": accuracy_by_class(probs, labels),
    }
