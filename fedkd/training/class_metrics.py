"""Metrics of classifiers beside accuracy, by scikit-learn: chosen by name with ``metrics=[...]``.

Functions of probabilities and true labels, for every kind of data with classes. A client's test set
rarely has every class; what each metric does then stands in ``METRICS``.
"""

import math
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int

from fedkd.settings.metric_names import MetricName

TOP = 5
"""How many of the largest probabilities ``top5_accuracy`` looks at."""
OF_TOKENS: frozenset[MetricName] = frozenset({"top5_accuracy"})
"""The metrics that also say something of next tokens."""

Metric = Callable[[np.ndarray, np.ndarray], float | None]
"""From true labels [n] and probabilities [n, C] to the figure; None where it is not defined."""


def _balanced_accuracy(labels: np.ndarray, probs: np.ndarray) -> float:
    from sklearn.metrics import balanced_accuracy_score

    with warnings.catch_warnings():  # it warns of predicted classes that the test set lacks
        warnings.simplefilter("ignore", UserWarning)
        return float(balanced_accuracy_score(labels, probs.argmax(axis=1)))


def _macro_f1(labels: np.ndarray, probs: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, probs.argmax(axis=1), average="macro", zero_division=0.0))


def _auroc(labels: np.ndarray, probs: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score

    present = np.unique(labels)
    if len(present) < 2:
        return None
    if probs.shape[1] == 2:
        return float(roc_auc_score(labels, probs[:, 1]))
    one_against_rest = labels[:, None] == present
    return float(roc_auc_score(one_against_rest, probs[:, present], average="macro"))


def _top5_accuracy(labels: np.ndarray, probs: np.ndarray) -> float:
    from sklearn.metrics import top_k_accuracy_score

    return float(top_k_accuracy_score(labels, probs, k=TOP, labels=np.arange(probs.shape[1])))


METRICS: Mapping[MetricName, tuple[Metric, str]] = {
    "balanced_accuracy": (_balanced_accuracy, "mean recall over the classes that the test set has"),
    "macro_f1": (_macro_f1, "mean F1 over the classes that the test set or the predictions have"),
    "auroc": (
        _auroc,
        "area under the ROC curve; with more than two classes the mean of one class against the"
        " rest, over those that the test set has; unknown where it has one alone",
    ),
    "top5_accuracy": (_top5_accuracy, "share whose label is among the five most probable"),
}
"""Each metric with what it is."""


def class_metric(
    name: MetricName, probs: Float[torch.Tensor, "n C"], labels: Int[torch.Tensor, "n"]
) -> float | None:
    """Return a metric of predictions in [0, 1]; None where it is not defined.

    NaN without samples, or where a probability is NaN, as of a model whose training diverged.

    >>> probs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7]])
    >>> labels = torch.tensor([0, 0, 0, 1])
    >>> class_metric("balanced_accuracy", probs, labels), class_metric("auroc", probs, labels)
    (1.0, 1.0)
    >>> class_metric("auroc", probs[:3], labels[:3]) is None  # no sample of class 1
    True
    """
    if len(labels) == 0 or bool(probs.isnan().any()):
        return math.nan
    found, _ = METRICS[name]
    return found(labels.cpu().numpy(), probs.to(torch.float64).cpu().numpy())
