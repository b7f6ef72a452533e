"""Figures of the study of swing: excess exposure, losses and cuts with paired bootstrap intervals.

An interval resamples secrets, or models, of all seeds together, each with its pair (SciPy's
bootstrap, 95 %). Secrets of one client share a model, so intervals are on the narrow side. Not for:
what follows from them (``swing_report``), nor running anything (``swing_study``).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats
from swing_study import BY_NAME, SETTINGS, Outcome, Results

Range = tuple[float, float, float]
"""A figure and its 95 % interval."""


def measured(results: Results) -> list[str]:
    """Return the settings with results by name, where what they are held against has them too."""
    have = {name for name, _ in results}
    return [s.name for s in SETTINGS if s.name in have and s.against in have]


def seeds_of(results: Results, name: str) -> list[Outcome]:
    """Return a setting's outcomes, seed by seed."""
    return [results[key] for key in sorted(results) if key[0] == name]


def excess(results: Results, name: str, adversary: str) -> np.ndarray:
    """Return the bits above chance of every secret, seeds one after the other."""
    return np.concatenate(
        [np.array(r["exposures"][adversary]) - r["chance"] for r in seeds_of(results, name)]
    )


def losses(results: Results, name: str) -> np.ndarray:
    """Return the loss in bits a token of the server's student and each client, seed by seed.

    It is against the setting that ``name`` is held against.
    """
    pairs = zip(seeds_of(results, name), seeds_of(results, BY_NAME[name].against), strict=True)
    return np.concatenate(
        [np.array(x["bits_by_model"]) - np.array(y["bits_by_model"]) for x, y in pairs]
    )


def mean(values: np.ndarray) -> Range:
    """Return a mean with its bootstrap interval."""
    return _interval((values,), lambda x, axis: np.mean(x, axis=axis))


def cut(results: Results, name: str, adversary: str) -> Range:
    """Return the share of the excess exposure that is gone, with its interval.

    It is a share of the excess of the setting that ``name`` is held against.
    """
    pair = (excess(results, name, adversary), excess(results, BY_NAME[name].against, adversary))
    return _interval(pair, lambda x, y, axis: 1 - np.mean(x, axis=axis) / np.mean(y, axis=axis))


def _interval(data: tuple[np.ndarray, ...], statistic: Callable[..., Any]) -> Range:
    found = float(statistic(*data, axis=0))
    if (len(data) == 1 and np.ptp(data[0]) == 0) or (len(data) == 2 and np.array_equal(*data)):
        return found, found, found
    between = stats.bootstrap(
        data,
        statistic,
        paired=True,
        n_resamples=5000,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return found, float(between.low), float(between.high)


def percent(value: Range) -> str:
    """Return a share and its interval in words."""
    return "{} % [{}, {}]".format(*(round(100 * x) for x in value))


def signed(value: Range) -> str:
    """Return a difference in bits a token and its interval in words."""
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*value)


def bits(value: Range) -> str:
    """Return an exposure and its interval in words."""
    return "{:.2f} bits [{:.2f}, {:.2f}]".format(*value)


def above(value: Range, threshold: float) -> str:
    """Return what an interval says of a figure being at least ``threshold``."""
    if value[1] >= threshold:
        return "**holds**"
    return "**does NOT hold**" if value[2] < threshold else "**not shown**"


def below(value: Range, threshold: float) -> str:
    """Return what an interval says of a figure being at most ``threshold``."""
    if value[2] <= threshold:
        return "**holds**"
    return "**does NOT hold**" if value[1] > threshold else "**not shown**"
