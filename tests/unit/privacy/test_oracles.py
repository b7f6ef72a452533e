"""Epsilons against constants that were computed elsewhere: by closed form in high precision, Opacus
and dp-accounting.

delta is 1e-5 throughout. Tolerances are the constants' last digits.
"""

import math

import pytest

from fedkd.privacy.distributions import (
    has_pld,
    pld_epsilon,
    pld_gaussian,
    prv_epsilon,
)
from fedkd.privacy.gaussian_dp import composed_mu, delta_at, epsilon_at, mu_at, sigma_for
from fedkd.privacy.pate import log_misvote
from fedkd.privacy.renyi import (
    epsilon_from,
    gaussian_cost,
    randomized_response_cost,
    sampled_gaussian_cost,
)

DELTA = 1e-5
PROBS = math.sqrt(2)

needs_pld = pytest.mark.skipif(not has_pld(), reason="the extra fedkd[pld] is not installed")


def test_delta_of_gaussian_noise():
    assert delta_at(1.0, 1.0) == pytest.approx(0.12693673750664386, rel=1e-14)


@pytest.mark.parametrize(
    ("mu", "epsilon"),
    [(0.1, 0.340669), (0.5, 1.993091), (1, 4.377178), (2, 9.997256), (3, 16.675494)],
)
def test_epsilon_of_gaussian_noise(mu: float, epsilon: float):
    assert epsilon_at(mu, DELTA) == pytest.approx(epsilon, abs=6e-7)


@pytest.mark.parametrize(
    ("epsilon", "mu"),
    [(0.5, 0.142211), (1, 0.268051), (2, 0.501552), (4, 0.924931), (8, 1.666031), (10, 2.000446)],
)
def test_gaussian_noise_for_an_epsilon(epsilon: float, mu: float):
    assert mu_at(epsilon, DELTA) == pytest.approx(mu, abs=6e-7)


@pytest.mark.parametrize(
    ("rows", "rounds", "sigma"),
    [
        (1, 1, 0.8489),
        (100, 1, 8.4885),
        (1000, 1, 26.8431),
        (1000, 10, 84.8852),
        (5000, 100, 600.2291),
    ],
)
def test_noise_on_probabilities_for_epsilon_8(rows: int, rounds: int, sigma: float):
    assert sigma_for(8.0, DELTA, PROBS, rows * rounds) == pytest.approx(sigma, abs=6e-5)


@pytest.mark.parametrize(("rows", "sigma"), [(1000, 37.962), (10_000, 120.046)])
def test_noise_on_clipped_logits_for_epsilon_8(rows: int, sigma: float):
    assert sigma_for(8.0, DELTA, 2.0, rows) == pytest.approx(sigma, abs=6e-4)


@pytest.mark.parametrize(
    ("rows", "epsilon"), [(1, 0.0400), (100, 0.4970), (1000, 1.7601), (10_000, 6.573)]
)
def test_epsilon_of_sigma_100_on_probabilities(rows: int, epsilon: float):
    assert epsilon_at(composed_mu([(rows, PROBS, 100.0)]), DELTA) == pytest.approx(
        epsilon, abs=6e-5
    )


def test_renyi_and_zcdp_say_more_than_the_exact_8():
    mu = mu_at(8.0, DELTA)
    rho = mu**2 / 2
    assert epsilon_from(gaussian_cost(mu), DELTA) == pytest.approx(8.5993, abs=1e-4)
    assert rho + 2 * math.sqrt(rho * math.log(1 / DELTA)) == pytest.approx(9.3823, abs=6e-5)


@pytest.mark.parametrize(
    ("per_label", "classes", "labels", "epsilon"),
    [(1.0, 10, 10, 8.66706), (0.1, 10, 1000, 7.26304)],
)
def test_randomized_response(per_label: float, classes: int, labels: int, epsilon: float):
    costs = labels * randomized_response_cost(per_label, classes)
    assert epsilon_from(costs, DELTA) == pytest.approx(epsilon, abs=6e-6)


@pytest.mark.parametrize(
    ("votes", "sigma", "log_q"), [([90, 5, 5], 10.0, -20.10777), ([60, 40], 5.0, -6.058088)]
)
def test_how_rarely_noisy_votes_name_another_class(votes: list[int], sigma: float, log_q: float):
    assert log_misvote(votes, sigma) == pytest.approx(log_q, abs=6e-6)


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "epsilon"),
    [
        (1.1, 0.01, 1000, 1.7118),
        (1.5, 0.04, 2250, 7.3291111714),
        (1.0, 0.125, 8, 3.7934),
        (1.0, 0.125, 16, 4.6965),
        (1.0, 0.125, 24, 5.4109),
        (1.0, 0.125, 400, 20.508),
    ],
)
def test_dp_sgd_by_renyi(sigma: float, rate: float, steps: int, epsilon: float):
    found = epsilon_from(steps * sampled_gaussian_cost(sigma, rate), DELTA)
    assert found == pytest.approx(epsilon, abs=6e-5 if epsilon < 20 else 6e-4)
    if steps == 2250:
        assert found == pytest.approx(epsilon, abs=6e-11)


@pytest.mark.fast(1)
@pytest.mark.parametrize(
    ("history", "epsilon", "digits"),
    [
        ([(1.1, 0.01, 1000)], 1.5255, 6e-5),
        ([(1.5, 0.04, 2249)], 6.7773957, 6e-8),
        ([(1.0, 0.1, 10), (2.0, 0.1, 5)], 2.90045, 6e-6),
    ],
)
def test_dp_sgd_by_prv(history: list[tuple[float, float, int]], epsilon: float, digits: float):
    assert prv_epsilon(history, DELTA) == pytest.approx(epsilon, abs=digits)


def test_two_settings_of_dp_sgd_add_up_by_renyi():
    costs = 10 * sampled_gaussian_cost(1.0, 0.1) + 5 * sampled_gaussian_cost(2.0, 0.1)
    assert epsilon_from(costs, DELTA) == pytest.approx(3.47648, abs=6e-6)


@pytest.mark.slow
@needs_pld
@pytest.mark.parametrize(("replace_one", "epsilon"), [(False, 1.5154), (True, 2.4778)])
def test_dp_sgd_by_pld(replace_one: bool, epsilon: float):
    loss = pld_gaussian(1.1, 0.01, 1000, replace_one=replace_one)
    assert pld_epsilon([loss], DELTA) == pytest.approx(epsilon, abs=6e-5)
