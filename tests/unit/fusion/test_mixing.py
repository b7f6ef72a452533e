"""Laws of mixing clients' predictions, and of entropy reduction."""

import torch
from fusion_problems import (
    CLOSE,
    Problem,
    assert_in_hull,
    assert_rows_are_distributions,
    entropy,
    law,
    problems,
)
from hypothesis import given
from hypothesis import strategies as st

from fedkd.fusion import (
    mean_over_clients,
    mix,
    reduce_entropy,
    uniform_weights,
)


@law(mix)
@given(problem=problems())
def test_a_mix_stays_in_the_convex_hull(problem: Problem):
    assert_in_hull(mix(problem.weights, problem.logits), problem.logits)


@law(mix)
@given(problem=problems())
def test_a_mix_of_soft_labels_gives_soft_labels(problem: Problem):
    assert_rows_are_distributions(mix(problem.weights, problem.probs))


@law(mix)
@given(problem=problems())
def test_identity_weights_give_every_client_itself(problem: Problem):
    torch.testing.assert_close(
        mix(torch.eye(len(problem.logits)), problem.logits), problem.logits, **CLOSE
    )


@law(mix, uniform_weights, mean_over_clients)
@given(problem=problems())
def test_uniform_weights_give_every_client_the_mean(problem: Problem):
    clients = len(problem.logits)
    mixed = mix(uniform_weights(clients), problem.logits)
    expected = mean_over_clients(problem.logits).expand(clients, -1, -1)
    torch.testing.assert_close(mixed, expected, **CLOSE)


@law(mix)
@given(problem=problems())
def test_a_mix_is_linear_in_the_values(problem: Problem):
    mixed = mix(problem.weights, 2 * problem.logits + problem.probs)
    parts = 2 * mix(problem.weights, problem.logits) + mix(problem.weights, problem.probs)
    torch.testing.assert_close(mixed, parts, rtol=1e-4, atol=1e-4)


@law(mix)
@given(problem=problems())
def test_a_mix_follows_rows_as_recipients_and_columns_as_contributors(problem: Problem):
    mixed = mix(problem.weights, problem.logits)
    for i, row in enumerate(problem.weights):
        naive = sum(row[j] * problem.logits[j] for j in range(len(row)))
        torch.testing.assert_close(mixed[i], naive, **CLOSE)


@law(mix, mean_over_clients)
@given(problem=problems())
def test_equal_values_mix_to_that_value(problem: Problem):
    equal = problem.logits[:1].expand_as(problem.logits)
    torch.testing.assert_close(mix(problem.weights, equal), equal.contiguous(), **CLOSE)
    torch.testing.assert_close(mean_over_clients(equal), problem.logits[0], **CLOSE)


@law(mean_over_clients)
@given(problem=problems())
def test_the_mean_of_one_client_is_that_client(problem: Problem):
    assert torch.equal(mean_over_clients(problem.logits[:1]), problem.logits[0])


@law(mean_over_clients)
@given(problem=problems())
def test_the_mean_stays_in_the_convex_hull(problem: Problem):
    assert_in_hull(mean_over_clients(problem.logits), problem.logits)


@law(reduce_entropy)
@given(problem=problems(), temperature=st.floats(0.02, 10))
def test_entropy_reduction_gives_soft_labels_that_keep_the_order_of_classes(
    problem: Problem, temperature: float
):
    probs = problem.probs[0]
    reduced = reduce_entropy(probs, temperature)
    assert_rows_are_distributions(reduced)
    assert (
        reduced.gather(-1, probs.argmax(dim=-1, keepdim=True))
        == reduced.max(dim=-1, keepdim=True).values
    ).all()
    assert (reduced.gather(-1, probs.argsort(dim=-1)).diff(dim=-1) >= 0).all()


@law(reduce_entropy)
@given(problem=problems())
def test_entropy_reduction_sharpens_where_no_class_has_less_than_the_temperature(problem: Problem):
    """Log p has slope 1/p <= 1/T there, so every gap p_a/T - p_b/T is at least ln p_a - ln p_b: ERA
    majorizes p."""
    classes = problem.logits.shape[-1]
    probs = 0.1 + (1 - 0.1 * classes) * problem.probs[0]
    assert (entropy(reduce_entropy(probs, 0.1)) <= entropy(probs) + 1e-5).all()


@law(reduce_entropy)
@given(problem=problems())
def test_entropy_reduction_flattens_where_no_class_has_more_than_the_temperature(problem: Problem):
    probs = problem.probs[0]
    assert (entropy(reduce_entropy(probs, 1.0)) >= entropy(probs) - 1e-5).all()


@law(reduce_entropy)
@given(problem=problems(), low=st.floats(0.02, 1), factor=st.floats(1, 50))
def test_a_larger_temperature_reduces_entropy_less(problem: Problem, low: float, factor: float):
    probs = problem.probs[0]
    assert (
        entropy(reduce_entropy(probs, low * factor)) >= entropy(reduce_entropy(probs, low)) - 1e-5
    ).all()


@law(reduce_entropy)
@given(problem=problems())
def test_entropy_reduction_at_a_very_large_temperature_is_uniform(problem: Problem):
    reduced = reduce_entropy(problem.probs[0], 1e6)
    torch.testing.assert_close(reduced, torch.full_like(reduced, 1 / reduced.shape[-1]), **CLOSE)
