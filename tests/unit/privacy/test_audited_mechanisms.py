"""The seeded bugs: copies of a mechanism (noise on the soft labels of 100 rows, epsilon 4) with one
mistake each.

Means of the bounds, computed by hand. mu(4) = 0.924931, and errors of a right mechanism are Phi(-mu
/ 2) = 0.3219 of 20,000 draws, 0.3284 with its interval: mu >= 0.888, epsilon 3.82. Wrong
sensitivity (1 in place of sqrt 2): mu sqrt 2, 5.79. No composition over 100 rows: mu 9.2, never an
error: the ceiling, 54.96. A variance for a deviation: sigma = sqrt 2 * 10 / mu = 15.29, noise sqrt
sigma, mu 3.617: 20.8. Chance moves the first two by 0.1, the last by 0.3.
"""

import math
import time

import numpy as np
import pytest
from audited_mechanisms import MechanismAudit, audit_mechanism

from fedkd.errors import SettingError
from fedkd.runtime.seeding import numpy_stream

ROWS, CLASSES, DELTA, EPSILON = 100, 10, 1e-5, 4.0
MU = 0.924931
RIGHT_SIGMA = math.sqrt(2) * math.sqrt(ROWS) / MU


def neighbors() -> tuple[np.ndarray, np.ndarray]:
    """Two clients, sure of other labels in every row: rows differ in different directions, each by
    sqrt 2."""
    first, second = np.zeros((2, ROWS, CLASSES), np.float32)
    rows = np.arange(ROWS)
    first[rows, rows % CLASSES] = 1
    second[rows, (rows + 1 + rows // CLASSES % 9) % CLASSES] = 1
    return first, second


class Mechanism:
    """Gaussian noise on soft labels [N, C]; ``bug`` is the mistake that is planted in this copy."""

    def __init__(self, bug: str = "", seed: int = 0) -> None:
        self.bug, self.stream = bug, numpy_stream(seed, "mechanism", bug)

    def sigma(self) -> float:
        sensitivity = 1.0 if self.bug == "wrong sensitivity" else math.sqrt(2)
        rows = 1 if self.bug == "no composition" else ROWS
        sigma = sensitivity * math.sqrt(rows) / MU
        return math.sqrt(sigma) if self.bug == "variance for deviation" else sigma

    def release(self, value: np.ndarray, draws: int) -> np.ndarray:
        rows = 1 if self.bug == "one noise for all rows" else ROWS
        noise = self.stream.standard_normal((draws, rows, CLASSES), np.float32)
        return value + np.float32(self.sigma()) * noise


def audit(bug: str = "", seed: int = 0) -> MechanismAudit:
    return audit_mechanism(
        Mechanism(bug, seed).release, *neighbors(), claimed_epsilon=EPSILON, delta=DELTA
    )


@pytest.mark.slow
def test_right_code_is_consistent_and_nearly_shows_its_epsilon() -> None:
    started = time.process_time()
    found = audit()
    assert time.process_time() - started < 3  # under one on an idle machine
    assert found.verdict == "consistent (power unknown)"
    assert found.gaussian == pytest.approx(3.82, abs=0.25)
    assert found.ceiling == pytest.approx(54.96, abs=0.05)


@pytest.mark.fast(0)
@pytest.mark.parametrize(
    ("bug", "bound", "within"),
    [
        ("wrong sensitivity", 5.79, 0.3),
        ("no composition", 54.96, 0.05),
        ("variance for deviation", 20.8, 1.2),
        ("one noise for all rows", 54.96, 0.05),
    ],
)
def test_every_seeded_bug_is_caught(bug: str, bound: float, within: float) -> None:
    found = audit(bug)
    assert found.verdict == "VIOLATION"
    assert found.gaussian == pytest.approx(bound, abs=within)


@pytest.mark.slow
def test_clopper_pearson_alone_misses_the_wrong_sensitivity() -> None:
    found = audit("wrong sensitivity")
    assert found.clopper_pearson < EPSILON < found.gaussian
    assert audit("no composition").clopper_pearson > EPSILON


def test_right_code_is_not_accused_by_other_seeds() -> None:
    """Fewer draws, so that many audits fit: the bound may exceed the claim once in twenty."""
    first, second = np.zeros((1, 2)), np.array([[math.sqrt(2), 0.0]])
    wrong = 0
    for seed in range(60):
        stream = np.random.default_rng(seed)

        def release(
            value: np.ndarray, draws: int, stream: np.random.Generator = stream
        ) -> np.ndarray:
            return value + math.sqrt(2) / MU * stream.standard_normal((draws, 1, 2))

        found = audit_mechanism(
            release, first, second, claimed_epsilon=EPSILON, delta=DELTA, draws=2000, held_out=200
        )
        wrong += found.verdict == "VIOLATION"
    assert wrong <= 4


def test_inputs_that_do_not_differ_and_releases_of_another_shape_are_refused() -> None:
    first, second = neighbors()
    with pytest.raises(SettingError, match="differ"):
        audit_mechanism(Mechanism().release, first, first, claimed_epsilon=4, delta=DELTA)
    with pytest.raises(SettingError, match="differ"):
        audit_mechanism(Mechanism().release, first, second[:5], claimed_epsilon=4, delta=DELTA)
    with pytest.raises(SettingError, match="release must return"):
        audit_mechanism(lambda value, draws: value, first, second, claimed_epsilon=4, delta=DELTA)
