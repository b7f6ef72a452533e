import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from fedkd.audit.audited_claims import AuditedClaim
from fedkd.audit.bounds import (
    Errors,
    bonferroni,
    clopper_pearson_bound,
    gaussian_bound,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    two_sample_ceiling,
)
from fedkd.audit.one_run import Guesses, guess, one_run_bound, one_run_ceiling, one_run_p_value
from fedkd.audit.roc import random_halves, upper_rate
from fedkd.audit.verdicts import judge
from fedkd.errors import SettingError

DELTA = 1e-5


@pytest.mark.parametrize(
    ("mu", "epsilon"),
    [(0.1, 0.340669), (0.5, 1.993091), (1, 4.377178), (2, 9.997256), (3, 16.675494),
     (0.142211, 0.5), (0.501552, 2), (0.924931, 4), (1.666031, 8), (2.000446, 10)],
)  # fmt: skip
def test_mu_becomes_the_oracles_epsilon(mu: float, epsilon: float) -> None:
    assert gaussian_epsilon(mu, DELTA) == pytest.approx(epsilon, abs=2e-5)


def test_delta_is_the_oracle_and_epsilon_its_inverse() -> None:
    assert gaussian_delta(1.0, 1.0) == pytest.approx(0.12693673750664386, rel=1e-14)
    for mu, delta in product((0.01, 0.3, 2.0, 12.0), (1e-9, 1e-5, 1e-3)):
        epsilon = gaussian_epsilon(mu, delta)
        assert epsilon == 0 or gaussian_delta(epsilon, mu) == pytest.approx(delta, rel=1e-6)
    assert gaussian_epsilon(0.0, DELTA) == gaussian_epsilon(-1.0, DELTA) == 0


def test_clopper_pearson_without_an_error_is_computed_by_hand() -> None:
    # both upper limits are 1 - 0.025^(1/100) = 0.036217
    limit = 1 - 0.025 ** (1 / 100)
    expected = math.log((1 - limit - DELTA) / limit)
    assert clopper_pearson_bound(Errors(0, 100, 0, 100), DELTA) == pytest.approx(expected)
    assert two_sample_ceiling(100, 100, DELTA) == pytest.approx(expected)
    assert 3.2 < expected < 3.5


def test_the_gaussian_form_is_its_formula() -> None:
    errors = Errors(30, 1000, 50, 900)
    mu = norm.ppf(1 - upper_rate(30, 1000, 0.025)) - norm.ppf(upper_rate(50, 900, 0.025))
    assert gaussian_mu(errors) == pytest.approx(mu)
    assert gaussian_bound(errors, DELTA) == pytest.approx(gaussian_epsilon(mu, DELTA))


@given(st.integers(0, 50), st.integers(0, 50))
def test_bounds_never_pass_their_ceilings_and_chance_shows_nothing(first: int, second: int) -> None:
    errors = Errors(first, 50, second, 50)
    assert 0 <= clopper_pearson_bound(errors, DELTA) <= two_sample_ceiling(50, 50, DELTA)
    assert 0 <= gaussian_bound(errors, DELTA) <= two_sample_ceiling(50, 50, DELTA, gaussian=True)
    if first + second >= 50:
        assert gaussian_bound(errors, DELTA) == 0
        assert clopper_pearson_bound(errors, DELTA) == 0
    tests = 10
    assert gaussian_bound(errors, DELTA, bonferroni(0.95, tests)) <= gaussian_bound(errors, DELTA)


def test_randomized_response_is_bounded_by_its_epsilon_as_often_as_stated() -> None:
    """A coin flipped with probability 1/(1+e): epsilon 1, delta 0. The exact chance of a wrong
    bound is below 5 %."""
    trials, flip = 30, 1 / (1 + math.e)
    wrong = 0.0
    masses = binom.pmf(np.arange(trials + 1), trials, flip)
    for first, second in product(range(trials + 1), repeat=2):
        if clopper_pearson_bound(Errors(first, trials, second, trials), 0.0) > 1:
            wrong += masses[first] * masses[second]
    assert 0 < wrong <= 0.05


@pytest.mark.parametrize(
    ("canaries", "made", "right", "epsilon"),
    [(100, 100, 100, 3.4902), (1000, 1000, 600, 0.29723), (1000, 100, 95, 2.16518)],
)
def test_one_run_bounds_are_the_oracles(
    canaries: int, made: int, right: int, epsilon: float
) -> None:
    assert one_run_bound(Guesses(canaries, made, right), DELTA) == pytest.approx(epsilon, abs=5e-5)


def naive_p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    chance = math.exp(epsilon) / (1 + math.exp(epsilon))
    mass = [
        math.comb(guesses.made, k) * chance**k * (1 - chance) ** (guesses.made - k)
        for k in range(guesses.made + 1)
    ]
    steepest = max(
        (sum(mass[guesses.right - i : guesses.right]) / i for i in range(1, guesses.right + 1)),
        default=0,
    )
    return min(1.0, sum(mass[guesses.right :]) + 2 * guesses.canaries * delta * steepest)


@given(st.integers(1, 25), st.floats(0, 3), st.sampled_from([0.0, 1e-5, 1e-2]), st.data())
def test_one_run_p_value_is_the_naive_one(
    made: int, epsilon: float, delta: float, data: st.DataObject
) -> None:
    guesses = Guesses(made + data.draw(st.integers(0, 9)), made, data.draw(st.integers(0, made)))
    assert one_run_p_value(guesses, epsilon, delta) == pytest.approx(
        naive_p_value(guesses, epsilon, delta), abs=1e-12
    )


def test_one_run_ceilings_are_those_that_are_printed() -> None:
    assert one_run_ceiling(100, DELTA) == pytest.approx(3.4902, abs=5e-5)
    assert one_run_ceiling(1000, 0.0) == pytest.approx(5.81, abs=0.01)
    assert one_run_ceiling(1000, DELTA) < 5.81


def test_guessing_at_random_shows_nothing_and_knowing_all_shows_the_ceiling() -> None:
    stream = np.random.default_rng(0)
    found = []
    for _ in range(200):
        included = stream.random(200) < 0.5
        found.append(one_run_bound(guess(stream.normal(size=200), included, 100), DELTA))
    assert np.mean(np.array(found) > 0) <= 0.06
    included = random_halves(200, stream)
    guesses = guess(included.astype(np.float64), included, 200)
    assert (guesses.right, one_run_bound(guesses, DELTA)) == (200, one_run_ceiling(200, DELTA))


def test_guesses_are_the_extremes() -> None:
    included = np.array([True, False, True, False, False])
    assert guess(np.array([5.0, 1.0, 3.0, 2.0, 9.0]), included, 4) == Guesses(5, 4, 3)
    with pytest.raises(SettingError, match="even"):
        guess(np.zeros(5), included, 3)


def test_the_verdict_compares_bound_claim_and_ceiling() -> None:
    assert judge(8.0, 8.01, 57) == "VIOLATION"
    assert judge(8.0, 8.0, 57) == "consistent (power unknown)"
    assert judge(8.0, 0.0, 57, power=8.0) == "consistent (absent noise would not show)"
    assert judge(8.0, 0.0, 57, power=8.1) == "consistent (absent noise would show)"
    assert judge(8.0, 8.1, 57, power=9.0) == "VIOLATION"
    assert judge(8.0, 0.0, 8.0, power=7.0) == "uninformative"
    assert judge(8.0, 0.0, 3.5) == "uninformative"
    assert judge(3.4902, 0.0, 3.4902) == "uninformative"
    assert judge(None, 50.0, 57) == "no claim"


def test_counts_and_claims_that_make_no_sense_are_refused() -> None:
    for make in (
        lambda: Errors(3, 2, 0, 1),
        lambda: Errors(0, 0, 0, 1),
        lambda: Guesses(10, 11, 5),
        lambda: bonferroni(0.95, 0),
        lambda: gaussian_epsilon(1.0, 0.0),
        lambda: AuditedClaim("gaussian", "record", "zero-out", "server", 1.0, None),
        lambda: AuditedClaim("gaussian", "record", "zero-out", "server", -1.0, 1e-5),
    ):
        with pytest.raises(SettingError):
            make()
