"""The cost of several examples a record, against Opacus, closed forms and dp_accounting."""

import itertools
import math

import numpy as np
import pytest

from fedkd.privacy import distributions
from fedkd.privacy.composition import epsilon_of
from fedkd.privacy.events import DpSgdSteps, event_values, from_dict
from fedkd.privacy.group_sampling import LARGEST_ORDER, binomial_weights, group_sampled_cost
from fedkd.privacy.mechanisms import DpSgd, Schedule
from fedkd.privacy.release_plan import ReleasePlan
from fedkd.privacy.renyi import ORDERS, epsilon_from, gaussian_cost, sampled_gaussian_cost

DELTA = 1e-5
COUNTED = np.array(ORDERS) <= LARGEST_ORDER


@pytest.mark.parametrize(("sigma", "rate"), [(1.1, 0.01), (1.0, 0.125), (0.5, 0.3), (5.0, 0.1)])
def test_a_group_of_one_costs_what_opacus_says(sigma: float, rate: float) -> None:
    ours, opacus = group_sampled_cost(sigma, rate, 1), sampled_gaussian_cost(sigma, rate)
    np.testing.assert_allclose(ours[COUNTED], opacus[COUNTED], rtol=2e-8)
    assert (ours >= opacus * (1 - 2e-8)).all()


@pytest.mark.parametrize(("sigma", "rate", "group"), [(2.0, 0.1, 3), (1.5, 0.4, 2), (6.0, 0.2, 9)])
def test_whole_orders_are_sums_over_who_is_sampled(sigma: float, rate: float, group: int) -> None:
    """The moment of order a of the likelihood ratio of N(J, s^2) to N(0, s^2) is the mean of
    exp(sum over pairs of J_i J_k / s^2) over a independent J: by completing the square."""
    weights, cost = binomial_weights(rate, group), group_sampled_cost(sigma, rate, group)
    for order in (2, 3):
        moment = sum(
            math.prod(weights[j] for j in drawn)
            * math.exp(sum(a * b for a, b in itertools.combinations(drawn, 2)) / sigma**2)
            for drawn in itertools.product(range(group + 1), repeat=order)
        )
        assert cost[ORDERS.index(float(order))] >= math.log(moment) / (order - 1) * (1 - 1e-9)
        assert cost[ORDERS.index(float(order))] == pytest.approx(
            math.log(moment) / (order - 1), rel=1e-9
        )


@pytest.mark.parametrize(
    ("sigma", "rate", "group", "steps", "pld"),
    [
        (2.0, 0.1, 3, 100, 8.38686),
        (4.0, 0.25, 5, 50, 12.20784),
        (1.5, 0.05, 2, 200, 5.19281),
        (10.0, 0.2, 10, 100, 10.21580),
        (3.0, 0.5, 4, 20, 18.26870),
    ],
)
def test_epsilon_is_above_dp_accountings_mixture_of_gaussians_and_not_far(
    sigma: float, rate: float, group: int, steps: int, pld: float
) -> None:
    """``pld``: dp_accounting 0.6.0, ``from_mixture_gaussian_mechanism`` at intervals of 1e-4."""
    event = DpSgdSteps(noise_multiplier=sigma, sample_rate=rate, steps=steps, group=group)
    epsilon, accountant = epsilon_of([(event, 1)], DELTA)
    assert accountant == "rdp"
    assert pld < epsilon < 1.13 * pld
    alone = DpSgdSteps(noise_multiplier=sigma, sample_rate=rate, steps=steps)
    assert epsilon_of([(alone, 1)], DELTA)[0] < pld / 1.7


@pytest.mark.slow
def test_a_group_costs_no_more_than_its_sum_would_if_all_came_together() -> None:
    for sigma, rate, group in [(2.0, 0.1, 3), (1.0, 0.5, 40), (0.1, 0.01, 2)]:
        cost = group_sampled_cost(sigma, rate, group)
        assert (cost <= gaussian_cost(group / sigma) * (1 + 1e-12)).all()
        assert (group_sampled_cost(sigma, rate, group + 1) >= cost * (1 - 1e-12)).all()
    everybody = DpSgdSteps(noise_multiplier=3.0, sample_rate=1.0, steps=4, group=2)
    assert everybody.mu == pytest.approx(2 * math.sqrt(4) / 3.0)
    assert epsilon_of([(everybody, 1)], DELTA)[1] == "exact"


@pytest.mark.slow
@pytest.mark.skipif(not distributions.has_pld(), reason="the extra fedkd[pld] is not installed")
def test_pld_counts_a_group_too_and_prv_leaves_it() -> None:
    event = DpSgdSteps(noise_multiplier=2.0, sample_rate=0.1, steps=100, group=3)
    assert epsilon_of([(event, 1)], DELTA, "pld") == (pytest.approx(8.38686, abs=1e-3), "pld")
    assert epsilon_of([(event, 1)], DELTA, "prv") == epsilon_of([(event, 1)], DELTA)


@pytest.mark.slow
def test_noise_for_a_budget_is_solved_for_the_group() -> None:
    schedule, epsilons = Schedule.of(40, 8, 2), []
    for group in (1, 3):
        sigma = DpSgd(epsilon=4.0).noise_multiplier_in(schedule, 3, group)
        steps = DpSgdSteps(
            noise_multiplier=sigma, sample_rate=0.2, steps=3 * schedule.steps, group=group
        )
        epsilons.append(epsilon_of([(steps, 1)], DELTA)[0])
        assert 3.97 < epsilons[-1] <= 4.0
    plan = ReleasePlan(
        clients=2, rounds=3, rows=10, public_size=10, classes=5, scale="probs",
        records=40, batch_size=8, epochs=2, group=3, record="text", examples="windows",
    )  # fmt: skip
    (spent,) = DpSgd(epsilon=4.0).planned(plan)
    assert isinstance(spent.event, DpSgdSteps)
    assert spent.event.group == 3
    assert from_dict(event_values(spent.event)) == spent.event
    assert epsilon_from(spent.event.cost(), DELTA) == pytest.approx(epsilons[1])
