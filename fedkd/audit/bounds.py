"""Lower bounds on epsilon from an attack's errors on two samples of releases.

An attack guesses which of two data sets a release comes from. A false positive is a release from
the first data set guessed as second; a false negative the opposite. The bounds hold for independent
releases: draws of a mechanism, or runs. Canaries of one run are not independent; use
``fedkd.audit.one_run`` for those. Thresholds must be fixed beforehand or chosen on a hold-out, and
the confidence corrected for the number of tests (``bonferroni``).
"""

import math
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

from fedkd.audit.roc import upper_rate
from fedkd.errors import SettingError


@dataclass(frozen=True)
class Errors:
    """An attack's numbers of errors on two samples of releases."""

    false_positives: int
    negatives: int
    """Releases from the first data set."""
    false_negatives: int
    positives: int
    """Releases from the second data set."""

    def __post_init__(self) -> None:
        for name, count, of in (
            ("false_positives", self.false_positives, self.negatives),
            ("false_negatives", self.false_negatives, self.positives),
        ):
            if of < 1 or not 0 <= count <= of:
                raise SettingError(f"{name} must be 0 to {of} of at least 1 release, got {count}")


def bonferroni(confidence: float, tests: int) -> float:
    """Return the confidence of each of several tests that jointly hold with ``confidence``.

    >>> round(bonferroni(0.95, 10), 6)
    0.995
    """
    if not 0 < confidence < 1 or tests < 1:
        raise SettingError(
            f"a confidence is between 0 and 1, for at least one test; got {confidence} and {tests}"
        )
    return 1 - (1 - confidence) / tests


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return the delta of a mu-Gaussian-DP mechanism at ``epsilon``.

    Corollary 2.13 of Dong et al. 2019, arXiv 1905.02383.

    >>> round(gaussian_delta(1.0, 1.0), 12)
    0.126936737507
    """
    if mu == 0:
        return 0.0
    second = math.exp(min(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)), 0.0))
    return max(float(ndtr(-epsilon / mu + mu / 2)) - second, 0.0)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the smallest epsilon >= 0 of a mu-Gaussian-DP mechanism at ``delta``; 0 if mu <= 0.

    >>> round(gaussian_epsilon(1.0, 1e-5), 6)
    4.377178
    """
    _delta(delta, positive=True)
    if mu <= 0 or gaussian_delta(0.0, mu) <= delta:
        return 0.0
    top = mu * mu / 2 + mu * (float(-ndtri(delta)) + 1)  # where the first term alone is below delta
    return float(brentq(lambda epsilon: gaussian_delta(epsilon, mu) - delta, 0.0, top, xtol=1e-12))


def clopper_pearson_bound(errors: Errors, delta: float, confidence: float = 0.95) -> float:
    """Return the lower bound on the epsilon of any mechanism with these errors (>= 0).

    ``TPR <= e^epsilon FPR + delta`` and ``TNR <= e^epsilon FNR + delta`` (Kairouz et al. 2015,
    arXiv 1311.0776), with each error rate at its upper limit; both limits jointly hold with
    ``confidence``. Assumes nothing of the mechanism. Needs many releases, because a large bound
    takes error rates that are certainly small.
    """
    _delta(delta)
    false_positive, false_negative = _upper(errors, confidence)
    ratios = (
        (1 - false_negative - delta) / false_positive,
        (1 - false_positive - delta) / false_negative,
    )
    return max(0.0, math.log(max(1.0, *ratios)))


def gaussian_bound(errors: Errors, delta: float, confidence: float = 0.95) -> float:
    """Return the lower bound on the epsilon of a Gaussian mechanism with these errors (>= 0).

    ``mu = Phi^-1(1 - FPR_hi) - Phi^-1(FNR_hi)`` (Nasr et al. 2023, arXiv 2302.07956), then
    ``gaussian_epsilon``. Much tighter than Clopper-Pearson, but valid for Gaussian noise only: for
    another mechanism it is the epsilon of the Gaussian mechanism with the same errors.
    """
    return gaussian_epsilon(gaussian_mu(errors, confidence), delta)


def gaussian_mu(errors: Errors, confidence: float = 0.95) -> float:
    """Return the lower limit of mu, which is negative if the guesses are no better than chance."""
    false_positive, false_negative = _upper(errors, confidence)
    return float(ndtri(1 - false_positive) - ndtri(false_negative))


def two_sample_ceiling(
    negatives: int,
    positives: int,
    delta: float,
    confidence: float = 0.95,
    *,
    gaussian: bool = False,
) -> float:
    """Return the bound of an attack without errors, the largest that so many releases can show.

    Args:
        negatives: Releases from the first data set.
        positives: Releases from the second data set.
        delta: Of the bound.
        confidence: Of the bound.
        gaussian: Whether the bound is ``gaussian_bound`` or ``clopper_pearson_bound``.
    """
    bound = gaussian_bound if gaussian else clopper_pearson_bound
    return bound(Errors(0, negatives, 0, positives), delta, confidence)


def _upper(errors: Errors, confidence: float) -> tuple[float, float]:
    tail = 1 - bonferroni(confidence, 2)
    return (
        upper_rate(errors.false_positives, errors.negatives, tail),
        upper_rate(errors.false_negatives, errors.positives, tail),
    )


def _delta(delta: float, *, positive: bool = False) -> None:
    if not 0 <= delta < 1 or (positive and delta == 0):
        raise SettingError(
            f"delta must be {'above 0' if positive else '>= 0'} and below 1, got {delta}"
        )
