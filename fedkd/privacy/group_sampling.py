"""RDP of Gaussian noise on samples of which one record has several examples, such as a text's.

Each of a record's ``group`` examples is in a step's sample by a coin of its own, and gradients of
at most C each add up. What the record does to the sum is then worst where all point the same way:
the two outcomes to tell apart are N(0, sigma^2) and N(J, sigma^2) with J ~ Binomial(group, rate),
in units of C (a mixture of Gaussians: Choquette-Choo et al. 2024, arXiv 2310.15526, corollary 4.7;
Charles et al. 2024, arXiv 2407.07737, for just this sampling). Both directions are computed, since
a record may be missing from either data set. Not for: one example a record, for which
``fedkd.privacy.renyi`` has Opacus' analysis.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from fedkd.privacy.renyi import ORDERS, Renyi
from fedkd.settings.validators import at_least, positive, share

LARGEST_ORDER = 256.0
"""The order above which the bound without sampling is taken: its integral would be long."""
LARGEST_SHIFT = 20.0
"""Deviations of noise that a record can move a sum by, above which that bound is taken: no useful
noise is as small."""
TAIL = 12.0
"""Deviations beyond which a normal distribution has nothing left (1e-33)."""


def group_sampled_cost(noise_multiplier: float, sample_rate: float, group: int) -> Renyi:
    """Return the cost of one step, at ``renyi.ORDERS``, for a record of ``group`` examples.

    By quadrature with equal steps, which converges exponentially for these integrands. Never above
    ``order (group / noise_multiplier)^2 / 2``, the cost where all of the record's examples are in
    every sample.

    >>> bool(np.allclose(group_sampled_cost(2.0, 1.0, 3), np.array(ORDERS) * 1.5**2 / 2))
    True

    Args:
        noise_multiplier: Deviation of the noise over the clip norm of one example.
        sample_rate: Each example's chance to be in a step.
        group: Examples of one record, >= 1.
    """
    positive(noise_multiplier=noise_multiplier)
    share(sample_rate=sample_rate)
    at_least(1, group=group)
    return _cost(noise_multiplier, sample_rate, group).copy()


def binomial_weights(sample_rate: float, group: int) -> list[float]:
    """Return the chances that 0, 1, ..., ``group`` examples of a record are in a sample.

    >>> binomial_weights(0.5, 2)
    [0.25, 0.5, 0.25]
    """
    return [
        math.comb(group, j) * sample_rate**j * (1 - sample_rate) ** (group - j)
        for j in range(group + 1)
    ]


@lru_cache(maxsize=256)
def _cost(noise_multiplier: float, sample_rate: float, group: int) -> Renyi:
    alphas = np.array(ORDERS)
    shift = 1 / noise_multiplier
    bound = alphas * (group * shift) ** 2 / 2
    if sample_rate == 1 or group * shift > LARGEST_SHIFT:
        return bound
    weights = binomial_weights(sample_rate, group)
    found = bound.copy()
    for low, high in ((0.0, 16.0), (16.0, 64.0), (64.0, LARGEST_ORDER)):
        chosen = (alphas > low) & (alphas <= high)
        found[chosen] = _divergences(weights, shift, alphas[chosen])
    return np.minimum(found, bound)


def _divergences(weights: Sequence[float], shift: float, alphas: np.ndarray) -> np.ndarray:
    """Return the larger of the two Renyi divergences of a mixture and its noise, by order.

    Args:
        weights: Of the mixture's parts [J], which are 0, 1, ... shifts away.
        shift: What one example adds, in deviations of the noise.
        alphas: Above 1.
    """
    # Integrands of order a have their mass within a * (J - 1) shifts. The likelihood ratio is a
    # polynomial in exp(shift * y) with negative roots alone, so that it is analytic within
    # pi / shift of the real line, and the error of equal steps is below exp(-35) of the integral.
    most, group = float(alphas.max()), len(weights) - 1
    far = most * group * shift + TAIL
    curvature = 1 + most * group * shift**2 / 4
    step = min(1 / 5, 1 / (2 * shift), 2 * math.pi / math.sqrt(70 * curvature))
    points = step * np.arange(-math.ceil(far / step), math.ceil(far / step) + 1)
    ratio = np.full(len(points), -np.inf)
    for j, weight in enumerate(weights):
        if weight > 0:
            part = math.log(weight) + j * shift * points - (j * shift) ** 2 / 2
            ratio = np.logaddexp(ratio, part)
    density = -(points**2) / 2 - math.log(2 * math.pi) / 2 + math.log(step)
    found = []
    for alpha in alphas.tolist():
        both = (_log_sum(density + power * ratio) for power in (alpha, 1 - alpha))
        found.append(max(*both, 0.0) / (alpha - 1))
    return np.array(found)


def _log_sum(logs: np.ndarray) -> float:
    """Return the logarithm of a sum, without overflow."""
    largest = float(logs.max())
    near = logs[logs > largest - 60]  # the others add nothing to a double
    return largest + math.log(float(np.exp(near - largest).sum()))
