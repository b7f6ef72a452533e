"""A lower bound on epsilon from one training run with many canaries.

After Steinke, Nasr and Jagielski 2023, arXiv 2305.08846. Each canary is included by an independent
fair coin. The auditor guesses some of the inclusion bits after seeing the release and abstains on
the rest. Under (epsilon, delta)-privacy for one record, the number of right guesses is hardly
larger than that of independent guesses, each right with probability
``e^epsilon / (1 + e^epsilon)``, however the canaries interact. Not for: several runs or draws of a
mechanism (``fedkd.audit.bounds``).
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binom

from fedkd.errors import SettingError


@dataclass(frozen=True)
class Guesses:
    """Counts of an auditor's guesses of inclusion bits."""

    canaries: int
    made: int
    """Guesses made; the auditor abstains on the other canaries."""
    right: int
    """Guesses that were right."""

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.made <= self.canaries or self.canaries < 1:
            raise SettingError(
                f"guesses need right <= made <= canaries, got {self.right}, {self.made},"
                f" {self.canaries}"
            )


def one_run_p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Return the p-value of so many right guesses in an (epsilon, delta)-private run.

    Theorem 5.2 of the paper. With W ~ Binomial(made, e^epsilon / (1 + e^epsilon)) it is
    ``P[W >= v] + 2 m delta max_i P[v - i <= W < v] / i`` over i from 1 to v, and at most 1.
    """
    right, chance = guesses.right, float(expit(epsilon))
    tail = float(binom.sf(right - 1, guesses.made, chance))
    if right == 0 or delta == 0:
        return min(tail, 1.0)
    just_below = binom.pmf(np.arange(right - 1, -1, -1), guesses.made, chance)
    steepest = float(np.max(np.cumsum(just_below) / np.arange(1, right + 1)))
    return min(tail + 2 * guesses.canaries * delta * steepest, 1.0)


def one_run_bound(guesses: Guesses, delta: float, confidence: float = 0.95) -> float:
    """Return the lower bound on epsilon (>= 0): the smallest that explains the right guesses.

    The number of guesses must be fixed before looking at the inclusion bits.

    >>> round(one_run_bound(Guesses(1000, 100, 95), 1e-5), 5)
    2.16518
    """
    if not 0 <= delta < 1 or not 0 < confidence < 1:
        raise SettingError(
            f"delta must be in [0, 1) and confidence in (0, 1), got {delta} and {confidence}"
        )

    def excess(epsilon: float) -> float:
        return one_run_p_value(guesses, epsilon, delta) - (1 - confidence)

    if guesses.made == 0 or excess(0.0) >= 0:
        return 0.0
    top = 1.0
    while excess(top) < 0:
        top *= 2
        if top > 512:  # any number of right guesses has a p-value of 1 long before
            return math.inf
    return float(brentq(excess, 0.0, top, xtol=1e-10))


def one_run_ceiling(canaries: int, delta: float, confidence: float = 0.95) -> float:
    """Return the bound if all canaries are guessed right, the largest that they can show.

    >>> round(one_run_ceiling(100, 1e-5), 4)
    3.4902
    """
    return one_run_bound(Guesses(canaries, canaries, canaries), delta, confidence)


def guess(scores: Float[np.ndarray, "n"], included: Bool[np.ndarray, "n"], made: int) -> Guesses:
    """Guess membership by score, and count the right guesses.

    The ``made / 2`` highest scores are guessed to be members, the ``made / 2`` lowest non-members.
    ``included`` is read only to count. ``made`` is even and fixed beforehand. Ties are resolved by
    position, which does not depend on the inclusion bits.
    """
    if made % 2 or not 2 <= made <= len(scores):
        raise SettingError(f"guesses must be an even number from 2 to {len(scores)}, got {made}")
    ascending = np.argsort(scores, kind="stable")
    half = made // 2
    right = int(included[ascending[-half:]].sum()) + int((~included[ascending[:half]]).sum())
    return Guesses(len(scores), made, right)
