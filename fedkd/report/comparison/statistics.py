"""Means with intervals, paired tests and Holm's correction, over one number per seed.

Made for few seeds: a figure that cannot be computed is None, never a number without meaning.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
DIGITS = 12
"""Decimals of differences: rounding errors of equal figures are no difference."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval."""

    mean: float | None
    half: float | None
    """Half the width of the interval; None with fewer than two seeds."""
    seeds: int
    """The number of seeds that have the figure."""


@dataclass(frozen=True)
class Paired:
    """Two-sided p-values of paired differences."""

    t: float | None
    """That the mean difference is 0 (Student)."""
    wilcoxon: float | None
    """That differences are symmetric about 0 (Wilcoxon)."""


def interval(values: Sequence[float]) -> Interval:
    """Return the mean with Student's 95 % interval, ``t(0.975, n - 1) * s / sqrt(n)``.

    NaN is left out. The interval takes the figure to be about normal over seeds. With three seeds
    t is 4.3, with five 2.8.

    >>> interval([1.0, 2.0, 3.0])  # s = 1, t = 4.3027
    Interval(mean=2.0, half=2.4841..., seeds=3)
    >>> interval([0.5])
    Interval(mean=0.5, half=None, seeds=1)
    """
    known = np.array([value for value in values if not math.isnan(value)], dtype=np.float64)
    if len(known) == 0:
        return Interval(None, None, 0)
    if len(known) == 1:
        return Interval(float(known[0]), None, 1)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1)
    return Interval(
        float(known.mean()), float(reach * known.std(ddof=1) / math.sqrt(len(known))), len(known)
    )


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Return the p-values of the paired t-test and of Wilcoxon's signed-rank test.

    Both sequences have one figure per seed, in the same order of seeds. Pairs with a NaN are left
    out. With fewer than two pairs there is no test; without any difference both p-values are 1.
    Equal differences have no spread, so that t is None. Wilcoxon's test is exact for few seeds, and
    cannot be below ``2 / 2^n``: 0.0625 for five.

    >>> # Differences 1, 2, 3: t = 2 / (1 / sqrt(3)), two degrees of freedom
    >>> paired([2.0, 3.0, 5.0], [1.0, 1.0, 2.0])
    Paired(t=0.0741..., wilcoxon=0.25)
    """
    pairs = [
        (a, b) for a, b in zip(first, second, strict=True) if not (math.isnan(a) or math.isnan(b))
    ]
    if len(pairs) < 2:
        return Paired(None, None)
    differences = np.round([a - b for a, b in pairs], DIGITS)
    if not differences.any():
        return Paired(1.0, 1.0)
    signed_rank = float(stats.wilcoxon(differences).pvalue)
    if np.ptp(differences) == 0:
        return Paired(None, signed_rank)
    return Paired(float(stats.ttest_rel(*zip(*pairs, strict=True)).pvalue), signed_rank)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for multiple tests, which bounds the chance of any false finding.

    The k-th smallest of m becomes ``max(the one before, (m - k + 1) * p)``, at most 1 (Holm 1979).
    None stays None, and is not counted among the m tests.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    ascending = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    least = 0.0
    for rank, (p, i) in enumerate(ascending):
        least = max(least, min(1.0, (len(ascending) - rank) * p))
        corrected[i] = least
    return corrected
