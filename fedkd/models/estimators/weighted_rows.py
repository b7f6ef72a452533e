"""Soft labels as weighted rows, and an estimator's probabilities as logits. Pure functions.

A sample with a soft label is a row for each class that its soft label holds, weighted by it: the
expected loss over rows is the cross-entropy with the soft label.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fedkd.models.fitting import FitData

NEGLIGIBLE = 0.01
"""The share of chance, 1 / C, below which a probability counts as none: predictions below it are
raised to it, so that they have logarithms, and soft labels below it make no row."""


class WeightedRows(NamedTuple):
    """What an estimator's ``fit`` takes."""

    inputs: Float[np.ndarray, "m d"]
    labels: Int[np.ndarray, "m"]
    weights: Float[np.ndarray, "m"]


def soft_label_rows(
    inputs: Float[np.ndarray, "N d"],
    probs: Float[np.ndarray, "N C"],
    weights: Float[np.ndarray, "N"],
) -> WeightedRows:
    """Return a row for each sample and class, whose weights sum to the sample's.

    Probabilities below ``NEGLIGIBLE`` of chance make no row; the sample's others have its weight.

    >>> x, half = np.array([[7.0], [8.0]]), np.array([[0.5, 0.5], [0.001, 0.999]])
    >>> rows = soft_label_rows(x, half, np.array([1.0, 2.0]))
    >>> rows.inputs.ravel().tolist(), rows.labels.tolist(), rows.weights.tolist()
    ([7.0, 7.0, 8.0], [0, 1, 1], [0.5, 0.5, 2.0])
    """
    shares = np.where(probs < NEGLIGIBLE / probs.shape[1], 0.0, probs.astype(np.float64))
    shares *= (weights / shares.sum(axis=1))[:, None]
    samples, labels = np.nonzero(shares)
    return WeightedRows(inputs[samples], labels, shares[samples, labels])


def weighted_rows(data: FitData) -> WeightedRows:
    """Return what a model is fitted to as rows: labels of weight 1, then soft labels.

    Rows of soft labels together weigh ``taught_weight`` times the rows of labels; without labels
    each sample weighs as its own weight says.
    """
    x, y = data.inputs.flatten(1).numpy(), data.labels.numpy()
    labeled = WeightedRows(x, y, np.ones(len(y)))
    if not len(data.taught_inputs):
        return labeled
    weights = data.weights.numpy().astype(np.float64)
    total = data.taught_weight * len(y) if len(y) else weights.sum()
    weights = weights * (total / weights.sum())
    seen = weights > 0
    taught = soft_label_rows(
        data.taught_inputs.flatten(1).numpy()[seen], data.probs.numpy()[seen], weights[seen]
    )
    if not len(y):
        return taught
    return WeightedRows(*(np.concatenate(both) for both in zip(labeled, taught, strict=True)))


def log_probabilities(
    probs: Float[np.ndarray, "n k"], present: Int[np.ndarray, "k"], classes: int
) -> Float[np.ndarray, "n C"]:
    """Return the logarithms of probabilities of all classes, as float32.

    Classes that the estimator never saw have probability 0. Probabilities below ``NEGLIGIBLE`` of
    chance are raised to that, and a row is scaled to sum to 1.

    Args:
        probs: Of the classes that the estimator knows.
        present: Which classes these are.
        classes: C.

    >>> found = log_probabilities(np.array([[1.0]]), np.array([1]), 2)
    >>> [round(float(p), 3) for p in np.exp(found[0])]
    [0.005, 0.995]
    """
    full = np.zeros((len(probs), classes))
    full[:, present] = probs
    full = np.maximum(full, NEGLIGIBLE / classes)
    found: np.ndarray = np.log(full / full.sum(axis=1, keepdims=True)).astype(np.float32)
    return found
