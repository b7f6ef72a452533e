"""Laws of softening."""

import torch
from fusion_problems import CLOSE, Problem, assert_rows_are_distributions, entropy, law, problems
from hypothesis import given
from hypothesis import strategies as st

from fedkd.fusion import (
    soften,
)


@law(soften)
@given(problem=problems(), temperature=st.floats(0.05, 100))
def test_soft_labels_are_distributions_that_keep_the_order_of_logits(
    problem: Problem, temperature: float
):
    probs = soften(problem.logits, temperature)
    assert_rows_are_distributions(probs)
    ordered = probs.gather(-1, problem.logits.argsort(dim=-1))
    assert (ordered.diff(dim=-1) >= 0).all()


@law(soften)
@given(problem=problems(), low=st.floats(0.1, 10), factor=st.floats(1, 10))
def test_a_larger_temperature_never_lowers_entropy(problem: Problem, low: float, factor: float):
    assert (
        entropy(soften(problem.logits, low * factor)) >= entropy(soften(problem.logits, low)) - 1e-5
    ).all()


@law(soften)
@given(problem=problems())
def test_a_very_large_temperature_gives_uniform_soft_labels(problem: Problem):
    probs = soften(problem.logits, 1e6)
    torch.testing.assert_close(probs, torch.full_like(probs, 1 / probs.shape[-1]), **CLOSE)


@law(soften)
@given(problem=problems())
def test_a_very_small_temperature_splits_all_between_the_largest_logits(problem: Problem):
    apart = problem.logits.round()
    largest = apart == apart.max(dim=-1, keepdim=True).values
    torch.testing.assert_close(
        soften(apart, 1e-3), largest / largest.sum(dim=-1, keepdim=True), **CLOSE
    )


@law(soften)
@given(problem=problems(), shift=st.floats(-50, 50))
def test_a_constant_added_to_all_logits_changes_no_soft_label(problem: Problem, shift: float):
    torch.testing.assert_close(
        soften(problem.logits + shift, 2.0), soften(problem.logits, 2.0), **CLOSE
    )


@law(soften)
@given(problem=problems())
def test_soften_at_temperature_one_is_the_softmax(problem: Problem):
    naive = problem.logits.exp() / problem.logits.exp().sum(dim=-1, keepdim=True)
    torch.testing.assert_close(soften(problem.logits), naive, **CLOSE)
