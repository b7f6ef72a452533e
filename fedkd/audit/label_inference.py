"""Label-distribution inference: estimating a client's label histogram from its uploads.

Not for: strategies that estimate the same distribution on purpose (``fedkd.fusion.estimates``).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import rel_entr

from fedkd.errors import SettingError

Shares = Float[np.ndarray, "C"]


@dataclass(frozen=True)
class LabelInference:
    """The error of an estimated label distribution, beside that of a uniform guess."""

    estimate: tuple[float, ...]
    truth: tuple[float, ...]
    kl: float
    """KL(truth || estimate) in nats; 0 for a perfect estimate."""
    total_variation: float
    """Half the summed absolute difference, 0 to 1."""
    blind_kl: float
    """The same KL for an adversary without uploads, who guesses the uniform distribution."""
    blind_total_variation: float
    exact: bool = False
    """Whether every class is right to less than half a record, and the uniform guess is not: so
    near comes no upload with noise that is worth its name."""


def infer_labels(
    probs: Float[np.ndarray, "N C"], label_counts: Int[np.ndarray, "C"]
) -> LabelInference:
    """Estimate a client's label distribution by its mean soft label, and return the errors.

    The mean is over public samples (arXiv 2502.08001). The estimate is at least 1e-12 in every
    class, so that the KL is finite. Raises SettingError for a client without uploads or records.

    >>> found = infer_labels(np.array([[0.9, 0.1], [0.7, 0.3]]), np.array([8, 2]))
    >>> round(found.kl, 12), round(found.total_variation, 12)
    (0.0, 0.0)
    >>> round(found.blind_total_variation, 12)
    0.3
    """
    if len(probs) == 0 or label_counts.sum() <= 0:
        raise SettingError(
            f"label inference needs uploads and records, got {len(probs)} rows and"
            f" {label_counts.sum()}"
        )
    estimate = np.maximum(probs.astype(np.float64).mean(axis=0), 1e-12)
    estimate = estimate / estimate.sum()
    truth = label_counts / label_counts.sum()
    blind = np.full(len(truth), 1 / len(truth))
    return LabelInference(
        estimate=tuple(estimate.tolist()),
        truth=tuple(truth.tolist()),
        kl=_kl(truth, estimate),
        total_variation=_total_variation(truth, estimate),
        blind_kl=_kl(truth, blind),
        blind_total_variation=_total_variation(truth, blind),
        exact=_is_exact(truth, estimate, label_counts)
        and not _is_exact(truth, blind, label_counts),
    )


def _is_exact(truth: Shares, estimate: Shares, label_counts: Int[np.ndarray, "C"]) -> bool:
    return bool(np.abs(truth - estimate).max() * label_counts.sum() < 0.5)


def _kl(truth: Shares, estimate: Shares) -> float:
    return max(float(rel_entr(truth, estimate).sum()), 0.0)


def _total_variation(truth: Shares, estimate: Shares) -> float:
    return float(np.abs(truth - estimate).sum() / 2)
