"""Verdicts on families of claims: paired t-tests over seeds with Holm's correction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedkd.report.comparison.statistics import holm, paired

ENOUGH = 5
"""Seeds below which nothing is judged."""
LEVEL = 0.05
"""The chance of any false verdict in a family."""


@dataclass(frozen=True)
class Verdict:
    """What paired seeds say of one claim of a family."""

    word: Literal["holds", "not shown", "does NOT hold", "too few seeds for a verdict"]
    p_value: float | None
    """Two-sided, with Holm's correction; None where there are too few seeds."""

    @property
    def p(self) -> str:
        """The p-value in words, or "" where there is none."""
        if self.p_value is None:
            return ""
        return "p < 0.001" if self.p_value < 0.001 else f"p {self.p_value:.3f}"


def judge(differences: Sequence[Sequence[float]]) -> list[Verdict]:
    """Return the verdict on each claim of a family that a mean over seeds is above 0.

    Each claim has one difference a seed; NaN is left out. A claim holds, or does not, where the
    two-sided t-test with Holm's correction over all claims of the family that have at least
    ``ENOUGH`` seeds is below ``LEVEL``; equal differences other than 0 have no spread, and p = 0.

    >>> [v.word for v in judge([[1.0, 2.0, 1.5, 1.2, 1.8], [-1.0, 1.0, 0.5, -0.5, 0.1], [1.0]])]
    ['holds', 'not shown', 'too few seeds for a verdict']
    """
    known = [[float(x) for x in of if x == x] for of in differences]
    tested = [_p_value(of) if len(of) >= ENOUGH else None for of in known]
    return [
        Verdict("too few seeds for a verdict", None) if p is None else Verdict(_word(of, p), p)
        for of, p in zip(known, holm(tested), strict=True)
    ]


def _p_value(of: Sequence[float]) -> float:
    found = paired(of, [0.0] * len(of)).t
    return 0.0 if found is None else found


def _word(of: Sequence[float], p: float) -> Literal["holds", "not shown", "does NOT hold"]:
    if p >= LEVEL:
        return "not shown"
    return "holds" if np.mean(of) > 0 else "does NOT hold"
