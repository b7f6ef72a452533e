"""Renyi differential privacy (RDP): an event's cost at each order, and its epsilon.

RDP adds up over releases of any kind (Mironov 2017, arXiv 1702.07476); the conversion to
epsilon is a bound, a little above the truth. Used where something other than plain Gaussian noise
takes part. The subsampled Gaussian is Opacus' analysis; its fractional orders agree with
quadrature. Opacus' Gaussian-DP accountant ("gdp") is never used: it rests on a central limit
theorem and under-reports. Not for: all-Gaussian runs, which ``fedkd.privacy.gaussian_dp`` counts
exactly.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedkd.errors import SettingError
from fedkd.privacy.gaussian_dp import check_delta
from fedkd.privacy.lazy_scipy import logsumexp
from fedkd.settings.optional_libraries import require
from fedkd.settings.validators import at_least, positive

Renyi = NDArray[np.float64]
"""A cost at each of ``ORDERS``, in nats."""

ORDERS: tuple[float, ...] = (
    *(1 + x / 10 for x in range(1, 100)),
    *(float(alpha) for alpha in range(11, 64)),
    *(64.0, 80.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0, 1024.0),
)
"""Orders above 1 at which costs are kept: fine where epsilon is large, and far out for small
epsilons."""
_ALPHA = np.array(ORDERS)


def gaussian_cost(mu: float) -> Renyi:
    """Return the cost of a ``mu``-Gaussian-DP release: ``alpha mu^2 / 2``."""
    at_least(0, mu=mu)
    return _ALPHA * mu**2 / 2


def laplace_cost(sensitivity: float, scale: float) -> Renyi:
    """Return the cost of one row with Laplace noise of ``scale``.

    Never above L1 ``sensitivity`` over ``scale``.

    With ``t = sensitivity / scale``: ``ln(a/(2a-1) e^((a-1) t) + (a-1)/(2a-1) e^(-a t)) / (a-1)``
    at order a (Mironov 2017, proposition 6). For a row of many numbers it is an upper bound: the
    cost is convex in the shift of a number and 0 without one, so that a shift of all in a single
    number costs the most.
    """
    positive(sensitivity=sensitivity, scale=scale)
    t, a = sensitivity / scale, _ALPHA
    logs = np.stack([np.log(a / (2 * a - 1)) + (a - 1) * t, np.log((a - 1) / (2 * a - 1)) - a * t])
    return np.asarray(np.clip(logsumexp(logs, axis=0) / (a - 1), 0, t))


def randomized_response_cost(epsilon: float, classes: int) -> Renyi:
    """Return the cost of one label by k-ary randomized response, whose pure epsilon is ``epsilon``.

    With p the probability to tell the truth and q that of any other label, two true labels differ
    by ``ln(p^a q^(1-a) + q^a p^(1-a) + (k - 2) q) / (a - 1)`` at order a: the definition, summed
    over the k answers.
    """
    positive(epsilon=epsilon)
    at_least(2, classes=classes)
    log_q = -math.log(math.exp(epsilon) + classes - 1) if epsilon < 700 else -epsilon
    log_p = epsilon + log_q
    a = _ALPHA
    terms = [a * log_p + (1 - a) * log_q, a * log_q + (1 - a) * log_p]
    if classes > 2:
        terms.append(np.full_like(a, math.log(classes - 2) + log_q))
    return np.asarray(np.clip(logsumexp(np.stack(terms), axis=0) / (a - 1), 0, epsilon))


@lru_cache(maxsize=256)
def _sampled_gaussian(noise_multiplier: float, sample_rate: float) -> Renyi:
    from opacus.accountants.analysis.rdp import compute_rdp

    try:
        found = compute_rdp(
            q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=list(ORDERS)
        )
    except (
        ValueError,
        OverflowError,
    ) as error:  # differences of nearly equal numbers, far beyond any useful noise
        raise SettingError(
            f"noise_multiplier={noise_multiplier:g} on samples of rate {sample_rate:g} is beyond"
            " what RDP can count"
        ) from error
    return np.asarray(found)


def sampled_gaussian_cost(noise_multiplier: float, sample_rate: float) -> Renyi:
    """Return the cost of one step of Gaussian noise on a Poisson sample.

    Mironov et al. 2019, arXiv 1908.10530.

    Everyone is in the sample by an own coin of probability ``sample_rate``; ``noise_multiplier`` is
    sigma over the sensitivity to adding or removing one. A sample of fixed size, or shuffled
    batches, are not covered. SettingError where a number is out of its range, or there is more
    noise than can be counted.
    """
    positive(noise_multiplier=noise_multiplier)
    if not 0 < sample_rate <= 1:
        raise SettingError(f"sample_rate must be above 0 and at most 1, got {sample_rate}")
    require("opacus", "privacy=dp_sgd")
    return _sampled_gaussian(noise_multiplier, sample_rate).copy()


def least_epsilon(delta: float) -> float:
    """Return the epsilon at ``delta`` below which RDP shows none.

    It is what the conversion makes of no cost at all.

    >>> round(least_epsilon(1e-5), 4), least_epsilon(1e-3)
    (0.0035, 0.0)
    """
    check_delta(delta)
    return max(0.0, float(np.min(_converted(np.zeros(len(ORDERS)), delta))))


def epsilon_from(costs: Renyi, delta: float) -> float:
    """Return the smallest epsilon >= 0 over the orders at ``delta``.

    Infinite where no order has a finite cost.

    ``a * rho + ln(1 - 1/a) - (ln delta + ln a) / (a - 1)``, with ``a * rho`` the cost at order a
    (Canonne, Kamath & Steinke 2020, arXiv 2004.00010; Balle et al. 2020, arXiv 1905.09982, theorem
    21).

    >>> round(epsilon_from(gaussian_cost(1.0), 1e-5), 3)
    4.729
    """
    check_delta(delta)
    if not costs.any():
        return 0.0
    epsilons = _converted(costs, delta)
    return max(0.0, float(np.nanmin(np.where(np.isnan(epsilons), np.inf, epsilons))))


def _converted(costs: Renyi, delta: float) -> Renyi:
    a = _ALPHA
    return np.asarray(costs + np.log1p(-1 / a) - (math.log(delta) + np.log(a)) / (a - 1))
