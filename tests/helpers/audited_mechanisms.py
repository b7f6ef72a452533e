"""Does a mechanism's code keep the epsilon that its accountant claims? Thousands of releases from
two neighbors.

The attack is the best there is for Gaussian noise: the projection of a release on the difference of
the two inputs. Wrong sensitivities, forgotten compositions and a variance in the place of a
standard deviation are found in a second. Not for: mechanisms whose inputs are a training set (a
run's canaries are), nor for proving that code is right.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedkd.audit.bounds import Errors, clopper_pearson_bound, gaussian_bound, two_sample_ceiling
from fedkd.audit.verdicts import Verdict, judge
from fedkd.errors import SettingError

Release = Callable[[np.ndarray, int], np.ndarray]
"""``release(value, draws)``: that many independent releases of one input, stacked on a new first
axis."""
CHUNK = 2000
"""Releases asked for at once, so that memory stays small."""


@dataclass(frozen=True)
class MechanismAudit:
    """What the releases show. Both bounds hold for the same threshold and errors."""

    claimed_epsilon: float
    delta: float
    errors: Errors
    gaussian: float
    """Lower bound on epsilon for a mechanism that adds Gaussian noise: the one that is judged."""
    clopper_pearson: float
    """Lower bound that assumes nothing; blind to small mistakes."""
    ceiling: float
    """The largest Gaussian bound that so many draws can show."""
    verdict: Verdict


def audit_mechanism(
    release: Release,
    first: np.ndarray,
    second: np.ndarray,
    *,
    claimed_epsilon: float,
    delta: float,
    draws: int = 20_000,
    held_out: int = 1_000,
    confidence: float = 0.95,
) -> MechanismAudit:
    """Return what ``draws`` releases of each of two neighboring inputs say of ``claimed_epsilon``.

    ``first`` and ``second`` should be as far apart as neighbors can be in *every* row that is
    released: an audit finds nothing where its inputs do not differ. Let rows differ in different
    directions, so that noise that is shared by rows cancels. The threshold is halfway between the
    medians of ``held_out`` further releases of each, which are not counted. Guarantee: a mechanism
    of Gaussian noise that keeps its claim is called VIOLATION with probability ``1 - confidence``
    at most.

    Args:
        release: The mechanism; its noise must be fresh in every draw.
        first: One input, for example the clipped predictions [N, C].
        second: Its neighbor, of the same shape.
        claimed_epsilon: What the accountant says of one such release (all rows), > 0.
        delta: Of the claim, above 0.
        draws: Releases counted from each input.
        held_out: Releases from each input that choose the threshold.
        confidence: Of the whole audit: both error rates together.

    Raises:
        SettingError: The inputs are equal or of different shapes, or the release is of another
            shape than its input.
    """
    difference = second.astype(np.float64) - first if first.shape == second.shape else np.zeros(1)
    if not difference.any():
        raise SettingError(
            f"two neighbors of one shape that differ are needed, got {first.shape} and"
            f" {second.shape}"
        )
    direction = (difference / (difference**2).sum()).ravel()

    def project(value: np.ndarray, count: int) -> np.ndarray:
        """Return ``count`` releases on the line from first (0) to second (1)."""
        found = []
        for start in range(0, count, CHUNK):
            round_number = min(CHUNK, count - start)
            released = np.asarray(release(value, round_number))
            if released.shape != (round_number, *value.shape):
                raise SettingError(
                    f"release must return {(round_number, *value.shape)}, got {released.shape}"
                )
            found.append((released.reshape(round_number, -1) - first.ravel()) @ direction)
        return np.concatenate(found)

    threshold = (np.median(project(first, held_out)) + np.median(project(second, held_out))) / 2
    errors = Errors(
        false_positives=int((project(first, draws) > threshold).sum()),
        negatives=draws,
        false_negatives=int((project(second, draws) <= threshold).sum()),
        positives=draws,
    )
    bound = gaussian_bound(errors, delta, confidence)
    ceiling = two_sample_ceiling(draws, draws, delta, confidence, gaussian=True)
    return MechanismAudit(
        claimed_epsilon=claimed_epsilon,
        delta=delta,
        errors=errors,
        gaussian=bound,
        clopper_pearson=clopper_pearson_bound(errors, delta, confidence),
        ceiling=ceiling,
        verdict=judge(claimed_epsilon, bound, ceiling),
    )
