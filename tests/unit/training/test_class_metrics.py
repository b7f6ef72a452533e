"""Metrics beside accuracy, held against definitions written out; classes that a test set lacks."""

import math

import numpy as np
import pytest
import torch

from fedkd.errors import SettingError
from fedkd.federation.measurement import Measurement
from fedkd.settings.conditions import RunConditions
from fedkd.settings.metric_names import METRIC_NAMES
from fedkd.training.class_metrics import class_metric

STREAM = np.random.default_rng(3)
LABELS = np.array([0, 1, 2, 2, 4, 4, 4, 1, 0, 2, 4, 6])  # without classes 3 and 5
LOGITS = STREAM.normal(size=(12, 7)) + 1.5 * np.eye(7)[LABELS]
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


def pairs_won(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the share of pairs of a positive and another in which the positive has more."""
    wins = [float(p > n) + (p == n) / 2 for p in scores[positive] for n in scores[~positive]]
    return sum(wins) / len(wins)


def naive(name: str, probs: np.ndarray, labels: np.ndarray) -> float:
    found, present = probs.argmax(axis=1), sorted(set(labels.tolist()))
    if name == "balanced_accuracy":
        return float(np.mean([(found[labels == c] == c).mean() for c in present]))
    if name == "macro_f1":
        classes = sorted({*present, *found.tolist()})
        hits = [((found == c) & (labels == c)).sum() for c in classes]
        sizes = [(found == c).sum() + (labels == c).sum() for c in classes]
        return float(np.mean([2 * h / s for h, s in zip(hits, sizes, strict=True)]))
    if name == "auroc":
        return float(np.mean([pairs_won(probs[:, c], labels == c) for c in present]))
    top = np.argsort(-probs, axis=1)[:, :5]
    return float(np.mean([label in row for label, row in zip(labels, top, strict=True)]))


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_each_metric_is_its_definition_over_the_classes_that_are_there(name: str) -> None:
    found = class_metric(name, torch.tensor(PROBS), torch.tensor(LABELS))  # type: ignore[arg-type]
    assert found == pytest.approx(naive(name, PROBS, LABELS))
    unknown = torch.tensor(PROBS)
    unknown[3] = torch.nan
    assert math.isnan(class_metric(name, unknown, torch.tensor(LABELS)))  # type: ignore[arg-type]


def test_the_auroc_of_two_classes_is_that_of_the_second() -> None:
    labels = torch.tensor([0, 1, 1, 0, 1])
    second = torch.tensor([0.1, 0.4, 0.35, 0.38, 0.8])
    found = class_metric("auroc", torch.stack([1 - second, second], dim=1), labels)
    assert found == pytest.approx(5 / 6)


def test_a_metric_that_says_nothing_is_refused() -> None:
    with pytest.raises(SettingError, match=r"metrics must be of balanced_accuracy, .*, got 'f1'"):
        Measurement(metrics=("f1",))  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="names auroc twice"):
        Measurement(metrics=("auroc", "auroc"))
    with pytest.raises(SettingError, match="with 5 classes every label is among"):
        Measurement(metrics=("top5_accuracy",)).check_classes(5)
    Measurement(metrics=("top5_accuracy",)).check_classes(6)
    tokens = RunConditions(has_classes=False)
    assert Measurement(metrics=("top5_accuracy",)).conflict(tokens) is None
    said = Measurement(metrics=("auroc", "top5_accuracy")).conflict(tokens)
    assert said is not None
    assert said.startswith("metrics=[auroc]: this run predicts next tokens")
