"""Slow second implementations of what is measured."""

import torch


def slow_ece(probs: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> float:
    """Return the error as the paper writes it: sample by sample, bin by bin."""
    total = 0.0
    for b in range(1, bins + 1):
        members = []
        for row, label in zip(probs.tolist(), labels.tolist(), strict=True):
            confidence = max(row)
            if (b - 1) / bins < confidence <= b / bins:
                members.append((confidence, float(row.index(confidence) == label)))
        if members:
            right = sum(correct for _, correct in members) / len(members)
            sure = sum(confidence for confidence, _ in members) / len(members)
            total += len(members) / len(labels) * abs(right - sure)
    return total
