"""Laws of the accounting, and slow second implementations of its formulas."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import norm

from fedkd.errors import SettingError
from fedkd.privacy import distributions
from fedkd.privacy.composition import epsilon_of
from fedkd.privacy.distributions import pld_epsilon, pld_pure, pld_randomized_response, prv_epsilon
from fedkd.privacy.events import LaplaceRows, RandomizedLabels
from fedkd.privacy.gaussian_dp import composed_mu, delta_at, epsilon_at, mu_at, sigma_for
from fedkd.privacy.pate import confident_gnmax_cost, data_dependent_cost, gnmax_cost, log_misvote
from fedkd.privacy.renyi import (
    ORDERS,
    epsilon_from,
    gaussian_cost,
    laplace_cost,
    randomized_response_cost,
    sampled_gaussian_cost,
)
from fedkd.settings import optional_libraries

mus = st.floats(1e-3, 100)
epsilons = st.floats(1e-2, 50)
deltas = st.sampled_from([1e-2, 1e-5, 1e-9])
needs_pld = pytest.mark.skipif(
    not distributions.has_pld(), reason="the extra fedkd[pld] is not installed"
)


@given(mus, st.floats(0, 30))
def test_delta_is_a_probability_that_falls_with_epsilon_and_grows_with_mu(
    mu: float, epsilon: float
):
    delta = delta_at(epsilon, mu)
    assert 0 <= delta_at(epsilon + 0.1, mu) <= delta <= delta_at(epsilon, 1.1 * mu) <= 1


@given(epsilons, deltas)
def test_the_noise_for_an_epsilon_costs_that_epsilon(epsilon: float, delta: float):
    assert epsilon_at(mu_at(epsilon, delta), delta) == pytest.approx(epsilon, rel=1e-8)
    sigma = sigma_for(epsilon, delta, 2.0, 70)
    assert epsilon_at(composed_mu([(30, 2.0, sigma), (40, 2.0, sigma)]), delta) == pytest.approx(
        epsilon, rel=1e-8
    )


def test_the_textbook_rule_is_unsafe_for_large_epsilons():
    delta, epsilon = 1e-5, 12.0
    textbook = math.sqrt(2 * math.log(1.25 / delta)) / epsilon
    assert epsilon_at(1 / textbook, delta) > epsilon


@given(mus, deltas)
def test_renyi_is_never_below_the_exact_epsilon(mu: float, delta: float):
    assert epsilon_from(gaussian_cost(mu), delta) >= epsilon_at(mu, delta) - 1e-9


def test_no_noise_is_an_infinite_epsilon_and_no_release_none():
    assert epsilon_at(composed_mu([(1, 1.0, 0.0)]), 1e-5) == math.inf
    assert epsilon_at(composed_mu([]), 1e-5) == epsilon_from(gaussian_cost(0.0), 1e-5) == 0


@pytest.mark.parametrize("order", [1.5, 4.0, 30.0])
@pytest.mark.parametrize(("sensitivity", "scale"), [(1.0, 1.0), (2.0, 0.7), (0.1, 5.0)])
def test_laplace_costs_what_quadrature_says(order: float, sensitivity: float, scale: float):
    def integrand(x: float) -> float:
        logs = -abs(x) / scale * order - abs(x - sensitivity) / scale * (1 - order)
        return math.exp(logs) / (2 * scale)

    edge = 60 * scale + sensitivity
    moment, _ = integrate.quad(integrand, -edge, edge, points=[0, sensitivity], limit=200)
    expected = math.log(moment) / (order - 1)
    assert laplace_cost(sensitivity, scale)[ORDERS.index(order)] == pytest.approx(
        expected, rel=1e-6
    )


@given(st.lists(st.floats(0.01, 2), min_size=2, max_size=5), st.floats(0.1, 5))
def test_a_row_with_laplace_noise_costs_most_where_one_number_moves_alone(
    shifts: list[float], scale: float
):
    spread = sum(laplace_cost(shift, scale) for shift in shifts)
    assert (spread <= laplace_cost(sum(shifts), scale) + 1e-9).all()


@pytest.mark.parametrize(("epsilon", "classes"), [(0.5, 2), (1.0, 3), (4.0, 10)])
def test_randomized_response_costs_its_definition(epsilon: float, classes: int):
    truth = math.exp(epsilon) / (math.exp(epsilon) + classes - 1)
    other = (1 - truth) / (classes - 1)
    one, two = ([truth if i == j else other for j in range(classes)] for i in (0, 1))
    for order in (1.1, 2.0, 20.0):
        divergence = math.log(
            sum(a**order * b ** (1 - order) for a, b in zip(one, two, strict=True))
        ) / (order - 1)
        assert randomized_response_cost(epsilon, classes)[ORDERS.index(order)] == pytest.approx(
            divergence
        )


@pytest.mark.slow
@settings(max_examples=10)
@given(st.floats(0.5, 20), st.floats(1e-3, 1))
def test_a_sample_of_everyone_is_plain_noise_and_a_part_costs_less(sigma: float, rate: float):
    whole = sampled_gaussian_cost(sigma, 1.0)
    np.testing.assert_allclose(whole, gaussian_cost(1 / sigma), rtol=1e-12)
    assert (sampled_gaussian_cost(sigma, rate) <= whole * (1 + 1e-9)).all()


def test_costs_that_were_handed_out_may_be_written_to():
    first = sampled_gaussian_cost(1.0, 0.5)
    first += 1
    assert (sampled_gaussian_cost(1.0, 0.5) < first).all()


@pytest.mark.slow
def test_prv_is_between_the_truth_and_renyi_and_without_steps_nothing():
    renyi = epsilon_from(100 * sampled_gaussian_cost(1.0, 0.05), 1e-5)
    assert 0 < prv_epsilon([(1.0, 0.05, 100)], 1e-5) < renyi
    assert prv_epsilon([], 1e-5) == 0


@needs_pld
def test_pld_counts_pure_mechanisms_below_renyi():
    by_renyi = epsilon_from(100 * randomized_response_cost(0.3, 10), 1e-5)
    exact = pld_epsilon([pld_randomized_response(0.3, 10, 100)], 1e-5)
    assert exact <= pld_epsilon([pld_pure(0.3, 100)], 1e-5) + 1e-3 <= 30 + 1e-3
    assert exact <= by_renyi + 1e-3


@needs_pld
def test_pld_leaves_to_the_sum_what_is_as_good_as_open():
    for event in (
        RandomizedLabels(rows=5, classes=10, label_epsilon=1000.0),
        LaplaceRows(rows=5, sensitivity=1.0, scale=1e-3),
    ):
        assert event.loss(1) is None
        epsilon, accountant = epsilon_of([(event, 1)], 1e-5, "pld")
        assert epsilon == epsilon_of([(event, 1)], 1e-5)[0]
        assert 4900 < epsilon <= 5000
        assert accountant != "pld"


def test_without_the_extra_pld_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(optional_libraries, "is_installed", lambda library: False)
    with pytest.raises(SettingError, match=r"needs dp_accounting, .* pip install 'fedkd\[pld\]'"):
        distributions.pld_gaussian(1.0, 1.0, 1)


def monte_carlo_misvotes(votes: list[int], sigma: float) -> float:
    noisy = np.array(votes) + sigma * np.random.default_rng(0).standard_normal(
        (200_000, len(votes))
    )
    return float((noisy.argmax(axis=1) != np.argmax(votes)).mean())


@pytest.mark.parametrize("votes", [[12, 8, 5], [30, 3, 0], [5, 5, 5]])
def test_votes_name_another_class_no_oftener_than_the_bound(votes: list[int]):
    bound = math.exp(log_misvote(votes, 6.0))
    measured = monte_carlo_misvotes(votes, 6.0)
    assert measured <= bound + 0.005
    assert (
        monte_carlo_misvotes(votes, 12.0)
        > math.exp(log_misvote([3 * v for v in votes], 6.0)) - 0.005
    )


def naive_data_dependent(log_q: float, sigma: float, order: float) -> float:
    """Theorem 6 of arXiv 1802.08908, letter by letter, in plain floating point."""
    plain = order / sigma**2
    q = math.exp(log_q)
    mu2 = sigma * math.sqrt(-log_q)
    mu1 = mu2 + 1
    if mu2 <= 1 or mu1 < order:
        return plain
    e1, e2 = mu1 / sigma**2, mu2 / sigma**2
    if (
        q > math.exp((mu2 - 1) * e2) / (mu1 / (mu1 - 1) * mu2 / (mu2 - 1)) ** mu2
        or q * math.exp(e2) >= 1
    ):
        return plain
    a = (1 - q) / (1 - (q * math.exp(e2)) ** ((mu2 - 1) / mu2))
    b = math.exp(e1) / q ** (1 / (mu1 - 1))
    return min(plain, math.log((1 - q) * a ** (order - 1) + q * b ** (order - 1)) / (order - 1))


@given(st.floats(-200, -1), st.floats(2, 60))
def test_the_data_dependent_cost_is_the_theorem_and_never_above_the_plain_one(
    log_q: float, sigma: float
):
    costs = data_dependent_cost(log_q, 1 / sigma**2)
    for order in (1.5, 3.0, 8.0):
        expected = naive_data_dependent(log_q, sigma, order)
        assert costs[ORDERS.index(order)] == pytest.approx(expected, rel=1e-5, abs=1e-12)
    assert (costs >= 0).all()
    assert (costs <= np.array(ORDERS) / sigma**2 * (1 + 1e-12)).all()


def test_votes_that_agree_cost_almost_nothing_and_close_ones_the_noise():
    unanimous, split = gnmax_cost([100, 0, 0], 10.0), gnmax_cost([34, 33, 33], 10.0)
    assert epsilon_from(1000 * unanimous, 1e-5) < 1 < epsilon_from(1000 * split, 1e-5)
    np.testing.assert_allclose(split, np.array(ORDERS) / 100)


def test_confident_votes_pay_for_the_check_and_for_an_answer_only_if_there_was_one():
    votes = [60, 35, 5]
    refused = confident_gnmax_cost(votes, 10.0, 70.0, 20.0, answered=False)
    answered = confident_gnmax_cost(votes, 10.0, 70.0, 20.0, answered=True)
    np.testing.assert_allclose(answered - refused, gnmax_cost(votes, 10.0))
    assert (refused <= np.array(ORDERS) / (2 * 20.0**2) * (1 + 1e-12)).all()
    far = confident_gnmax_cost([5, 5, 5], 10.0, 500.0, 20.0, answered=False)
    assert epsilon_from(1000 * far, 1e-5) < 0.1


def test_the_check_of_a_threshold_costs_by_how_close_the_votes_are_to_it():
    plain = np.array(ORDERS) / (2 * 20.0**2)
    for most, answered in [(70, True), (70, False), (60, False), (80, True)]:
        close = confident_gnmax_cost([most, 5, 5], 10.0, 70.0, 20.0, answered=answered)
        close = close - gnmax_cost([most, 5, 5], 10.0) if answered else close
        np.testing.assert_allclose(close, plain)
    for most, answered in [(400, True), (0, False)]:
        far = confident_gnmax_cost([most, 0, 0], 10.0, 200.0, 20.0, answered=answered)
        assert (far[:50] < plain[:50] / 10).all()


def test_delta_is_what_two_gaussians_can_be_told_apart_by():
    """The hockey stick by quadrature."""
    mu, epsilon = 1.3, 0.8
    excess, _ = integrate.quad(
        lambda x: max(0.0, norm.pdf(x, mu) - math.exp(epsilon) * norm.pdf(x)), -10, 12, limit=400
    )
    assert delta_at(epsilon, mu) == pytest.approx(excess, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mu_at(0.0, 1e-5), "epsilon must be > 0, got 0.0"),
        (lambda: epsilon_at(1.0, 0.0), "delta must be above 0 and below 1, got 0.0"),
        (lambda: epsilon_at(1.0, 1.0), "delta must be above 0 and below 1, got 1.0"),
        (lambda: sigma_for(1.0, 1e-5, 0.0, 1), "sensitivity must be > 0"),
        (lambda: sigma_for(1.0, 1e-5, 1.0, 0), "rows must be >= 1"),
        (
            lambda: sampled_gaussian_cost(1.0, 0.0),
            "sample_rate must be above 0 and at most 1, got 0.0",
        ),
        (lambda: sampled_gaussian_cost(0.0, 0.5), "noise_multiplier must be > 0"),
        (lambda: randomized_response_cost(1.0, 1), "classes must be >= 2"),
    ],
)
def test_what_cannot_be_counted_is_refused(call, message: str):
    with pytest.raises(SettingError, match=message):
        call()
