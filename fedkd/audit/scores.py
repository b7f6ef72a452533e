"""Margins: a model's confidence in a record's label, as a number roughly normal across models.

Scores are float64: near certainty the difference between two float32 probabilities is mostly
rounding. Not for: deciding who is a member from them (``fedkd.audit.membership_inference``).
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import logsumexp

from fedkd.errors import SettingError

SMALLEST = 2.0**-149
"""The smallest probability that float32 can hold; smaller ones count as this, so that scores stay
within +-103.3."""

Scores = Float[np.ndarray, "*models n"]


def margin_of_probs(
    probs: Float[np.ndarray, "*models n C"], labels: Int[np.ndarray, "n"]
) -> Scores:
    """Return each record's margin under each model, ``phi = ln p_y - ln sum_{j != y} p_j``.

    It is LiRA's logit-scaled confidence (Carlini et al. 2022, arXiv 2112.03570), in the form that
    does not subtract ``p_y`` from 1. Positive where the label is likelier than all other classes
    together, 0 at 1/2. Both probabilities are at least ``SMALLEST``: a one-hot row gives +-103.3.
    Raises SettingError for fewer than two classes or labels out of range.

    >>> probs = np.array([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]])
    >>> margin_of_probs(probs, np.array([0, 0])).round(6).tolist()
    [0.0, 1.386294]
    """
    others = _others(probs.shape, labels)
    values = probs.astype(np.float64)
    label = np.maximum(_of_label(values, labels), SMALLEST)
    rest = np.maximum(np.where(others, values, 0).sum(axis=-1), SMALLEST)
    return np.asarray(np.log(label) - np.log(rest))


def margin_of_logits(
    logits: Float[np.ndarray, "*models n C"], labels: Int[np.ndarray, "n"]
) -> Scores:
    """Return each record's margin from logits, ``z_y - logsumexp_{j != y} z_j``, without limits.

    >>> margin_of_logits(np.array([[3.0, 1.0]]), np.array([0])).tolist()
    [2.0]
    """
    others = _others(logits.shape, labels)
    values = logits.astype(np.float64)
    return np.asarray(
        _of_label(values, labels) - logsumexp(np.where(others, values, -np.inf), axis=-1)
    )


def log_probs_of(margins: Scores) -> Scores:
    """Return the label's log-probability from a margin: ``ln p_y = -ln(1 + e^-phi)``.

    >>> np.exp(log_probs_of(np.array([0.0, 40.0]))).round(12).tolist()
    [0.5, 1.0]
    """
    return np.asarray(-np.logaddexp(0.0, -margins))


def _of_label(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    at = np.broadcast_to(labels[:, None], (*values.shape[:-1], 1))
    return np.take_along_axis(values, at, axis=-1)[..., 0]


def _others(shape: tuple[int, ...], labels: np.ndarray) -> np.ndarray:
    """Return a mask [n, C] that is false at each record's label."""
    if shape[-1] < 2:
        raise SettingError(f"a margin needs at least 2 classes, got {shape[-1]}")
    if labels.size and not (labels.min() >= 0 and labels.max() < shape[-1]):
        raise SettingError(
            f"labels must be 0 to {shape[-1] - 1}, got {labels.min()} to {labels.max()}"
        )
    others: np.ndarray = np.arange(shape[-1]) != labels[:, None]
    return others
