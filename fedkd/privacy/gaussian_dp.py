"""Exact (epsilon, delta) of Gaussian releases, and the noise for a budget.

A release with sensitivity ``D`` and noise of standard deviation ``s`` is Gaussian-DP with ``mu = D
/ s``; releases compose as ``mu^2 = sum of mu_i^2`` without any loss (Dong, Roth & Su 2019, arXiv
1905.02383). The conversion to (epsilon, delta) is exact too (Balle & Wang 2018, arXiv 1805.06530),
so nothing here is a bound. The textbook rule ``s = D sqrt(2 ln(1.25 / delta)) / epsilon`` is not
used: it is unsafe for large epsilon. Not for: noise on a random subset (``fedkd.privacy.renyi``),
or noise whose size depends on what was released.
"""

import math
from collections.abc import Callable, Iterable

from fedkd.errors import SettingError
from fedkd.privacy.lazy_scipy import log_ndtr
from fedkd.settings.validators import at_least, positive


def delta_at(epsilon: float, mu: float) -> float:
    """Return the smallest delta of a ``mu``-Gaussian-DP mechanism at ``epsilon``, in [0, 1].

    ``Phi(-epsilon / mu + mu / 2) - e^epsilon Phi(-epsilon / mu - mu / 2)`` (Balle & Wang 2018,
    theorem 8), in logarithms. ``mu = 0`` releases nothing: delta is 0. SettingError unless both are
    >= 0.

    >>> round(delta_at(1.0, 1.0), 6)
    0.126937
    """
    at_least(0, epsilon=epsilon, mu=mu)
    if mu == 0:
        return 0.0
    first = float(log_ndtr(-epsilon / mu + mu / 2))
    second = epsilon + float(log_ndtr(-epsilon / mu - mu / 2))
    return max(0.0, -math.exp(first) * math.expm1(second - first)) if second < first else 0.0


def epsilon_at(mu: float, delta: float) -> float:
    """Return the smallest epsilon of a ``mu``-Gaussian-DP mechanism at ``delta``.

    0 where delta alone covers it.

    Infinite ``mu`` (no noise) is an infinite epsilon. SettingError unless mu >= 0 and 0 < delta <
    1.

    >>> round(epsilon_at(1.0, 1e-5), 4)
    4.3772
    """
    check_delta(delta)
    if mu == math.inf:
        return math.inf
    if delta_at(0.0, mu) <= delta:
        return 0.0
    above = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta))  # what zCDP would say
    return _root(lambda epsilon: delta_at(epsilon, mu) - delta, 0.0, above)


def mu_at(epsilon: float, delta: float) -> float:
    """Return the largest mu > 0 that is (``epsilon``, ``delta``)-DP.

    The budget as Gaussian-DP counts it.

    SettingError unless epsilon > 0 and 0 < delta < 1.

    >>> round(mu_at(8.0, 1e-5), 4)
    1.666
    """
    positive(epsilon=epsilon)
    check_delta(delta)
    above = 1.0
    while delta_at(epsilon, above) <= delta:
        above *= 2
    return _root(lambda mu: delta_at(epsilon, mu) - delta, 0.0, above)


def composed_mu(releases: Iterable[tuple[int, float, float]]) -> float:
    """Return the mu of all ``releases`` together: ``mu^2 = sum n D^2 / s^2``.

    Each is (rows n, sensitivity D of a row, sigma s).

    No release is 0; a release without noise is infinite.

    >>> composed_mu([(3, 1.0, 1.0), (1, 2.0, 2.0)])
    2.0
    """
    total = 0.0
    for rows, sensitivity, sigma in releases:
        at_least(0, rows=rows, sensitivity=sensitivity, sigma=sigma)
        cost = rows * sensitivity**2
        total += 0.0 if cost == 0 else math.inf if sigma == 0 else cost / sigma**2
    return math.sqrt(total)


def sigma_for(epsilon: float, delta: float, sensitivity: float, rows: int) -> float:
    """Return the standard deviation for which ``rows`` releases spend a budget.

    Together they cost (``epsilon``, ``delta``).

    ``rows`` counts all rows of all rounds; ``sensitivity`` is one row's, in the unit of the noise.

    >>> round(sigma_for(8.0, 1e-5, 2**0.5, 1000), 4)
    26.8431

    Args:
        epsilon: The budget, > 0.
        delta: The budget's delta, above 0 and below 1.
        sensitivity: L2 sensitivity of a row.
        rows: Number of releases.
    """
    positive(sensitivity=sensitivity)
    at_least(1, rows=rows)
    return sensitivity * math.sqrt(rows) / mu_at(epsilon, delta)


def check_delta(delta: float) -> None:
    """Raise unless delta is above 0 and below 1."""
    if not 0 < delta < 1:
        raise SettingError(f"delta must be above 0 and below 1, got {delta}")


def _root(function: Callable[[float], float], below: float, above: float) -> float:
    from scipy.optimize import brentq  # takes a third of a second to import

    return float(brentq(function, below, above, xtol=1e-13, rtol=1e-14))
