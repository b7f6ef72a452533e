"""Laws of the estimates of clients' label distributions."""

import pytest
import torch
from fusion_problems import (
    CLOSE,
    Problem,
    assert_in_hull,
    assert_rows_are_distributions,
    law,
    problems,
)
from hypothesis import given

from fedkd.fusion import (
    argmax_histogram,
    mean_soft_label,
)


@law(mean_soft_label, argmax_histogram)
@pytest.mark.parametrize("estimate", [mean_soft_label, argmax_histogram])
@given(problem=problems())
def test_estimates_are_distributions_and_do_not_depend_on_the_order_of_samples(
    estimate, problem: Problem
):
    estimates = estimate(problem.probs)
    assert_rows_are_distributions(estimates)
    torch.testing.assert_close(estimate(problem.probs[:, problem.order["N"]]), estimates, **CLOSE)


@law(mean_soft_label, argmax_histogram)
@pytest.mark.parametrize("estimate", [mean_soft_label, argmax_histogram])
@given(problem=problems())
def test_an_estimate_of_one_client_does_not_depend_on_the_others(estimate, problem: Problem):
    torch.testing.assert_close(
        estimate(problem.probs[:1]), estimate(problem.probs)[:1], rtol=0, atol=1e-6
    )


@law(mean_soft_label, argmax_histogram)
@given(problem=problems())
def test_both_estimates_agree_where_predictions_are_certain(problem: Problem):
    labels = problem.logits.argmax(dim=-1)
    certain = torch.nn.functional.one_hot(labels, problem.logits.shape[-1]).float()
    torch.testing.assert_close(argmax_histogram(certain), mean_soft_label(certain), **CLOSE)


@law(mean_soft_label)
@given(problem=problems())
def test_the_mean_soft_label_stays_in_the_hull_of_the_soft_labels(problem: Problem):
    assert_in_hull(mean_soft_label(problem.probs), problem.probs.transpose(0, 1))


@law(argmax_histogram)
@given(problem=problems())
def test_the_histogram_counts_whole_samples(problem: Problem):
    samples = problem.logits.shape[1]
    counts = argmax_histogram(problem.probs) * samples
    torch.testing.assert_close(counts, counts.round(), **CLOSE)


@law(argmax_histogram)
def test_a_tie_counts_for_the_lowest_class():
    assert argmax_histogram(torch.full((1, 2, 3), 1 / 3)).tolist() == [[1.0, 0.0, 0.0]]
