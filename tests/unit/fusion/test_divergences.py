"""Laws of the divergences between label distributions."""

import math

import pytest
import torch
from fusion_problems import CLOSE, Problem, assert_rows_are_distributions, law, problems
from hypothesis import given
from hypothesis import strategies as st

from fedkd.fusion import (
    DIVERGENCES,
    by_largest,
    by_largest_of_row,
    pairwise_cosine,
    pairwise_js,
    pairwise_kl,
    pairwise_l2,
    pairwise_tv,
    smooth,
    soften,
)


@law(pairwise_cosine, pairwise_js, pairwise_kl, pairwise_l2, pairwise_tv)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@given(problem=problems())
def test_divergences_are_finite_non_negative_and_exactly_zero_between_equals(
    divergence: str, problem: Problem
):
    twice = problem.distributions.repeat(2, 1)
    apart = DIVERGENCES[divergence](twice)
    clients = len(problem.distributions)
    assert torch.isfinite(apart).all()
    assert (apart >= 0).all()
    assert (apart.diagonal() == 0).all()
    assert (apart.diagonal(clients) == 0).all()


@law(pairwise_cosine, pairwise_js, pairwise_kl, pairwise_l2, pairwise_tv)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@given(problem=problems(fewest_clients=2))
def test_divergences_are_positive_between_different_distributions(
    divergence: str, problem: Problem
):
    distributions = problem.distributions
    differ = (distributions[:, None] - distributions[None]).abs().max(dim=-1).values > 0.01
    assert (DIVERGENCES[divergence](distributions)[differ] > 1e-5).all()


@law(pairwise_cosine, pairwise_js, pairwise_l2, pairwise_tv)
@pytest.mark.parametrize(
    ("divergence", "bound"),
    [("js", math.log(2)), ("tv", 1.0), ("cosine", 1.0), ("l2", math.sqrt(2))],
)
@given(problem=problems())
def test_all_but_kl_are_symmetric_and_bounded(divergence: str, bound: float, problem: Problem):
    for distributions in (problem.distributions, soften(problem.logits[:, 0] * 2)):
        apart = DIVERGENCES[divergence](distributions)
        torch.testing.assert_close(apart, apart.T, rtol=0, atol=0)
        assert (apart <= bound + 1e-5).all()


@law(pairwise_cosine, pairwise_js, pairwise_l2, pairwise_tv)
@pytest.mark.parametrize(
    ("divergence", "bound"),
    [("js", math.log(2)), ("tv", 1.0), ("cosine", 1.0), ("l2", math.sqrt(2))],
)
def test_the_bounds_are_reached_by_distributions_that_share_no_class(divergence: str, bound: float):
    opposite = smooth(torch.eye(3), 1e-7)
    off_diagonal = DIVERGENCES[divergence](opposite)[~torch.eye(3, dtype=torch.bool)]
    torch.testing.assert_close(off_diagonal, torch.full((6,), bound), rtol=1e-4, atol=1e-4)


@law(pairwise_kl)
def test_kl_is_not_symmetric():
    apart = pairwise_kl(torch.tensor([[0.5, 0.5], [0.9, 0.1]]))
    assert abs(apart[0, 1] - apart[1, 0]) > 0.1


@law(pairwise_kl, pairwise_tv)
@given(problem=problems())
def test_kl_obeys_pinskers_inequality(problem: Problem):
    kl, tv = pairwise_kl(problem.distributions), pairwise_tv(problem.distributions)
    assert (kl >= 2 * tv.square() - 1e-5).all()


@law(pairwise_js, pairwise_tv)
@given(problem=problems())
def test_js_is_at_most_ln_2_times_the_total_variation(problem: Problem):
    js, tv = pairwise_js(problem.distributions), pairwise_tv(problem.distributions)
    assert (js <= math.log(2) * tv + 1e-5).all()


@law(pairwise_l2, pairwise_tv)
@pytest.mark.parametrize("divergence", ["l2", "tv"])
@given(problem=problems())
def test_l2_and_tv_obey_the_triangle_inequality(divergence: str, problem: Problem):
    apart = DIVERGENCES[divergence](problem.distributions)
    assert (apart[:, None, :] <= apart[:, :, None] + apart[None, :, :] + 1e-5).all()


@law(by_largest, by_largest_of_row)
@given(problem=problems(fewest_clients=2), factor=st.floats(0.1, 10))
def test_scaled_divergences_reach_1_and_do_not_depend_on_their_unit(
    problem: Problem, factor: float
):
    whole, rows = by_largest(problem.apart), by_largest_of_row(problem.apart)
    assert whole.max() == (1 if problem.apart.any() else 0)
    assert torch.equal(rows.amax(dim=1), problem.apart.any(dim=1).float())
    torch.testing.assert_close(by_largest(factor * problem.apart), whole, **CLOSE)
    torch.testing.assert_close(by_largest_of_row(factor * problem.apart), rows, **CLOSE)


@law(by_largest, by_largest_of_row)
def test_clients_that_are_all_alike_stay_at_0():
    nothing = torch.zeros(3, 3)
    assert torch.equal(by_largest(nothing), nothing)
    assert torch.equal(by_largest_of_row(nothing), nothing)


@law(smooth)
@given(problem=problems(), amount=st.floats(1e-4, 10))
def test_smoothing_leaves_no_zero_keeps_the_sum_and_moves_towards_uniform(
    problem: Problem, amount: float
):
    one_hot = torch.eye(problem.logits.shape[-1])
    for distributions in (problem.distributions, one_hot):
        smoothed = smooth(distributions, amount)
        uniform = 1 / distributions.shape[-1]
        assert_rows_are_distributions(smoothed)
        assert (smoothed > 0).all()
        assert ((smoothed - uniform).abs() <= (distributions - uniform).abs() + 1e-6).all()


@law(smooth)
@given(problem=problems())
def test_smoothing_by_nothing_changes_nothing(problem: Problem):
    assert torch.equal(smooth(problem.distributions, 0.0), problem.distributions)
