"""The cost of votes by GNMax and confident GNMax, the aggregators of PATE.

Papernot et al. 2018, arXiv 1802.08908.

A histogram of the clients' votes on one public sample gets Gaussian noise, and the class with most
votes is told. One client replaced moves the histogram by sqrt(2) in L2. Where nearly all agree, the
answer hardly depends on any one client, and the cost is far below that of the noise: the
*data-dependent* bound. That cost is computed from the votes, so that the epsilon is itself private:
nobody outside the server may see it without further noise. Not for: drawing the noise
(``fedkd.privacy.mechanisms.gnmax``).
"""

import math
from collections.abc import Sequence

import numpy as np

from fedkd.privacy.lazy_scipy import log_ndtr, logsumexp
from fedkd.privacy.renyi import ORDERS, Renyi
from fedkd.settings.validators import positive

_ALPHA = np.array(ORDERS)


def log_misvote(votes: Sequence[float], sigma: float) -> float:
    """Return ``ln q``, q a bound on the probability that noisy votes miss the first class.

    ``q <= sum over other classes of Phi(-(votes of the first - votes) / (sqrt(2) sigma))``
    (proposition 7), at most ``1 - 1/C``. Shape of ``votes``: [C].

    >>> round(log_misvote([60, 40], 5.0), 4)
    -6.0581
    """
    positive(sigma=sigma)
    counts = np.asarray(votes, dtype=np.float64)
    gaps = counts.max() - np.delete(counts, counts.argmax())
    bound = float(logsumexp(log_ndtr(-gaps / (math.sqrt(2) * sigma))))
    return min(bound, math.log1p(-1 / len(counts)))


def log_pass(most_votes: float, threshold: float, sigma: float) -> float:
    """Return ``ln`` of the probability that a noisy count passes the threshold.

    ``most_votes`` plus noise of ``sigma`` is then at least ``threshold``.
    """
    positive(sigma=sigma)
    return float(log_ndtr((most_votes - threshold) / sigma))


def data_dependent_cost(log_q: float, slope: float) -> Renyi:
    """Return what one outcome costs that a mechanism misses with probability at most ``e^log_q``.

    The mechanism costs ``slope * order`` in any case: 1/sigma^2 for noisy votes. Theorem 6 at the
    two orders that proposition 10 finds best for Gaussian noise, ``sqrt(-log_q / slope)`` and one
    more; where the theorem does not apply (small orders, q too large) the cost is ``slope *
    order``, and it never exceeds that.
    """
    positive(slope=slope)
    linear = slope * _ALPHA
    if log_q == -math.inf:
        return np.zeros_like(_ALPHA)
    second = math.sqrt(max(-log_q, 0.0) / slope)
    first = second + 1
    if second <= 1:
        return linear
    cost_first, cost_second = slope * first, slope * second
    largest = (second - 1) * cost_second - second * (
        math.log(first / (first - 1)) + math.log(second / (second - 1))
    )
    if log_q > largest or -log_q <= cost_second:
        return linear
    log_stay = math.log1p(-math.exp(log_q))
    a = log_stay - math.log1p(-math.exp((log_q + cost_second) * (1 - 1 / second)))
    b = cost_first - log_q / (first - 1)
    raised = np.logaddexp(log_stay + (_ALPHA - 1) * a, log_q + (_ALPHA - 1) * b) / (_ALPHA - 1)
    return np.where(first >= _ALPHA, np.minimum(np.maximum(raised, 0.0), linear), linear)


def gnmax_cost(votes: Sequence[float], sigma: float) -> Renyi:
    """Return the cost of one answer by GNMax, given its votes [C]; at most ``order / sigma^2``."""
    return data_dependent_cost(log_misvote(votes, sigma), 1 / sigma**2)


def confident_gnmax_cost(
    votes: Sequence[float],
    sigma: float,
    threshold: float,
    threshold_sigma: float,
    *,
    answered: bool,
) -> Renyi:
    """Return the cost of asking confident GNMax once.

    That is the threshold's check, and the answer if there was one.

    The largest count moves by at most 1 with a client, so the check costs at most ``order / (2
    threshold_sigma^2)``; it has two outcomes, and the rarer one's probability bounds its cost by
    the data.

    Args:
        votes: Counts of votes by class.
        sigma: Deviation of the noise on each count.
        threshold: Votes that the first class must have.
        threshold_sigma: Deviation of the noise of that check.
        answered: Whether the check was passed.
    """
    passes = log_pass(float(np.max(votes)), threshold, threshold_sigma)
    fails = float(log_ndtr(-(float(np.max(votes)) - threshold) / threshold_sigma))
    check = data_dependent_cost(min(passes, fails), 1 / (2 * threshold_sigma**2))
    return check + gnmax_cost(votes, sigma) if answered else check
