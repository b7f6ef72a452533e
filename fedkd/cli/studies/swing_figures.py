"""Figures of the studies of swing by seed: exposures, cuts and losses, intervals and verdicts.

What was repeated are seeds: each gives one figure, a mean over its secrets or models, and an
interval is Student's over seeds (95 %). With fewer than five seeds nothing is judged. Not for: what
is asked of the figures (``swing_report``, ``swing_kd_report``), nor running anything
(``swing_study``).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedkd.cli.studies.swing_study import Outcome, Results, SwingStudy
from fedkd.report.comparison import family_verdicts
from fedkd.report.comparison.statistics import interval

Range = tuple[float, float, float]
"""A figure and its 95 % interval."""


@dataclass(frozen=True)
class SwingFigures:
    """The results of a study, by setting and seed; each figure is an array [seeds]."""

    study: SwingStudy
    results: Results
    utility: str = "bits_by_model"
    """Whose bits a token of clean test text count: bits_by_model or student_bits."""

    @property
    def seeds(self) -> int:
        """How many seeds there are."""
        return len({seed for _, seed in self.results})

    @property
    def measured(self) -> list[str]:
        """The settings with results, where what they are held against has them too."""
        have = {name for name, _ in self.results}
        return [s.name for s in self.study.settings if s.name in have and s.against in have]

    @property
    def missing(self) -> list[str]:
        """The settings that were not run, or not what they are held against."""
        return [s.name for s in self.study.settings if s.name not in self.measured]

    def against(self, name: str) -> str:
        """Return the setting that another is held against."""
        return self.study.by_name[name].against

    def outcomes(self, name: str) -> list[Outcome]:
        """Return a setting's outcomes, seed by seed."""
        return [self.results[key] for key in sorted(self.results) if key[0] == name]

    def exposure(self, name: str, view: str) -> np.ndarray:
        """Return the mean exposure in bits of a run's secrets to an adversary."""
        return np.array([np.mean(one["exposures"][view]) for one in self.outcomes(name)])

    def excess(self, name: str, view: str) -> np.ndarray:
        """Return the mean exposure in bits above chance."""
        chance = np.array([one["chance"] for one in self.outcomes(name)])
        return np.asarray(self.exposure(name, view) - chance)

    def bits(self, name: str) -> np.ndarray:
        """Return the bits a token of clean test text, a mean over a run's models."""
        return np.array([np.mean(one[self.utility]) for one in self.outcomes(name)])

    def cut(self, name: str, view: str, *, above_chance: bool = True) -> np.ndarray:
        """Return the share of exposure, or of what is above chance, that is gone.

        It is a share of what the setting has that ``name`` is held against.
        """
        of = self.excess if above_chance else self.exposure
        return np.asarray(1 - of(name, view) / of(self.against(name), view))

    def loss(self, name: str) -> np.ndarray:
        """Return the bits a token above those of the setting that ``name`` is held against."""
        return np.asarray(self.bits(name) - self.bits(self.against(name)))


def over_seeds(values: np.ndarray) -> Range:
    """Return a mean over seeds with its t-interval, which is without end where there is one seed.

    >>> [round(x, 2) for x in over_seeds(np.array([1.0, 2.0, 3.0]))]  # t = 4.30 with three seeds
    [2.0, -0.48, 4.48]
    """
    found = interval([float(value) for value in values])
    assert found.mean is not None, "each setting has results"
    half = math.inf if found.half is None else found.half
    return found.mean, found.mean - half, found.mean + half


def percent(value: Range) -> str:
    """Return a share and its interval in words."""
    return "{} % [{}, {}]".format(*(f"{100 * x:.0f}" for x in value))


def signed(value: Range) -> str:
    """Return a difference in bits a token and its interval in words."""
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*value)


def in_bits(value: Range) -> str:
    """Return an exposure and its interval in words."""
    return "{:.2f} bits [{:.2f}, {:.2f}]".format(*value)


@dataclass(frozen=True)
class SwingClaim:
    """A figure by seed, and what is claimed of it: that it is at least, or at most, a threshold."""

    text: str
    values: np.ndarray
    threshold: float
    words: Callable[[Range], str]
    at_least: bool = True

    @property
    def claimed(self) -> str:
        """The threshold in words."""
        value = f"{self.threshold:.0%}".replace("%", " %") if self.words is percent else ""
        return f"{value or f'{self.threshold:g}'} or {'more' if self.at_least else 'less'}"

    @property
    def excess(self) -> np.ndarray:
        """By how much the figure is on the claimed side of the threshold [seeds]."""
        return (self.values - self.threshold) * (1 if self.at_least else -1)


def judged(claims: Sequence[SwingClaim]) -> list[tuple[str, str]]:
    """Return each claim's verdict and p-value, both "" where there are fewer than five seeds.

    A claim holds where the test with Holm's correction over all of them says so at 5 %.
    """
    found = family_verdicts.judge([claim.excess.tolist() for claim in claims])
    return [(v.word, v.p) if v.p else ("", "") for v in found]


def judge(claims: Sequence[SwingClaim]) -> list[str]:
    """Return each claim with its figure, and from five seeds on with its verdict."""
    return [
        f"{claim.text}: {claim.words(over_seeds(claim.values))}"
        + (f"; {claim.claimed}: **{verdict}** ({p})" if verdict else "")
        for claim, (verdict, p) in zip(claims, judged(claims), strict=True)
    ]
