"""Laws of effectiveness weights."""

import math

import pytest
import torch
from fusion_problems import CLOSE, Problem, assert_rows_are_distributions, law, problems
from hypothesis import given
from hypothesis import strategies as st

from fedkd.fusion import (
    DIVERGENCES,
    effective_neighbors,
    keep_nearest,
    keep_within,
    row_softmax,
    uniform_weights,
    without_self,
)


@law(uniform_weights)
@pytest.mark.parametrize("clients", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_weights_are_one_over_k_everywhere(clients: int, dtype: torch.dtype):
    weights = uniform_weights(clients, dtype)
    assert weights.dtype == dtype
    assert weights.tolist() == [[torch.tensor(1 / clients, dtype=dtype).item()] * clients] * clients


@law(row_softmax)
@given(problem=problems())
def test_weights_are_distributions_and_what_is_never_weighs_nothing(problem: Problem):
    weights = row_softmax(problem.scores)
    assert_rows_are_distributions(weights)
    never = torch.isinf(problem.scores) & ~torch.isinf(problem.scores).all(dim=1, keepdim=True)
    assert (weights[never] == 0).all()
    assert (weights[~torch.isinf(problem.scores)] > 0).all()


@law(row_softmax)
@given(problem=problems())
def test_a_row_without_any_finite_score_teaches_itself(problem: Problem):
    scores = problem.scores.clone()
    scores[0] = -torch.inf
    assert torch.equal(row_softmax(scores)[0], torch.eye(len(scores))[0])


@law(row_softmax)
@given(problem=problems(), shift=st.floats(-20, 20))
def test_a_constant_added_to_a_row_of_scores_changes_no_weight(problem: Problem, shift: float):
    torch.testing.assert_close(
        row_softmax(problem.scores + shift), row_softmax(problem.scores), **CLOSE
    )


@law(row_softmax, uniform_weights)
@pytest.mark.parametrize("score", [-3.0, 0.0, 5.0])
def test_equal_scores_weigh_all_clients_alike(score: float):
    torch.testing.assert_close(row_softmax(torch.full((4, 4), score)), uniform_weights(4))


@law(without_self)
@given(problem=problems())
def test_without_self_changes_the_diagonal_alone(problem: Problem):
    scores = without_self(problem.scores)
    own = torch.eye(len(scores), dtype=torch.bool)
    assert (scores[own] == -torch.inf).all()
    assert torch.equal(scores[~own], problem.scores[~own])


@law(without_self, row_softmax)
@given(problem=problems(fewest_clients=2))
def test_nobody_is_their_own_teacher_without_self_unless_nobody_else_is_left(problem: Problem):
    scores = problem.scores.clamp(min=-8)
    assert (row_softmax(without_self(scores)).diagonal() == 0).all()
    assert row_softmax(without_self(scores[:1, :1])).tolist() == [[1.0]]


@law(keep_nearest)
@given(problem=problems(), count=st.integers(1, 8))
def test_the_nearest_are_kept_and_every_tie_with_the_last(problem: Problem, count: int):
    kept = keep_nearest(problem.scores, problem.apart, count)
    for scores, distances, row in zip(
        problem.scores.tolist(), problem.apart.tolist(), kept.tolist(), strict=True
    ):
        candidates = sorted(d for d, s in zip(distances, scores, strict=True) if s > -math.inf)
        last = candidates[min(count, len(candidates)) - 1] if candidates else math.inf
        for score, distance, found in zip(scores, distances, row, strict=True):
            if distance <= last:
                assert found == score
            elif distance > last + 1e-3:  # what differs by rounding alone may count as a tie
                assert found == -math.inf


@law(keep_nearest)
@given(problem=problems(fewest_clients=2), count=st.integers(1, 6))
def test_at_least_count_neighbors_are_kept_where_there_are_so_many(problem: Problem, count: int):
    scores = problem.scores.clamp(min=-8)
    kept = torch.isfinite(keep_nearest(scores, problem.apart, count)).sum(dim=1)
    assert (kept >= min(count, len(scores))).all()


@law(keep_nearest)
@given(problem=problems())
def test_keeping_as_many_as_there_are_keeps_all(problem: Problem):
    clients = len(problem.scores)
    for count in (clients, clients + 3):
        assert torch.equal(keep_nearest(problem.scores, problem.apart, count), problem.scores)


@law(keep_nearest)
def test_ties_are_found_in_spite_of_rounding():
    """By hand: P_0 is uniform, and P_1, P_2, P_3 are (0.7, 0.2, 0.1) in three orders: equally far
    by any divergence.

    Their three terms are the same and are summed in another order, which changes the last bit of
    the sum. If that decided who teaches, relabeling the classes would change the teachers.
    """
    distributions = torch.tensor(
        [[1 / 3, 1 / 3, 1 / 3], [0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7]]
    )
    scores = torch.zeros(4, 4)
    for divergence in DIVERGENCES.values():
        kept = keep_nearest(without_self(scores), divergence(distributions), 1)
        assert torch.isfinite(kept[0]).tolist() == [False, True, True, True]


@law(keep_within)
@given(problem=problems(), radius=st.floats(0, 2))
def test_those_within_the_radius_are_kept_and_no_other(problem: Problem, radius: float):
    kept = keep_within(problem.scores, problem.apart, radius)
    near = problem.apart <= radius
    assert torch.equal(kept[near], problem.scores[near])
    assert (kept[~near] == -torch.inf).all()


@law(keep_within)
@given(problem=problems())
def test_a_radius_of_zero_keeps_only_equals_and_a_huge_one_keeps_all(problem: Problem):
    assert torch.equal(keep_within(problem.scores, problem.apart, 1e9), problem.scores)
    equals = torch.isfinite(keep_within(torch.zeros_like(problem.scores), problem.apart, 0.0))
    assert torch.equal(equals, problem.apart == 0)


@law(effective_neighbors)
@given(problem=problems())
def test_effective_neighbors_lie_between_one_and_the_number_of_clients(problem: Problem):
    for weights in (problem.weights, row_softmax(problem.scores)):
        neighbors = effective_neighbors(weights)
        assert (neighbors >= 1 - 1e-5).all()
        assert (neighbors <= len(weights) + 1e-4).all()


@law(effective_neighbors, uniform_weights)
@pytest.mark.parametrize("clients", [1, 2, 5, 40])
def test_all_teach_equally_under_uniform_weights_and_one_under_the_identity(clients: int):
    everyone, one = torch.full((clients,), float(clients)), torch.ones(clients)
    torch.testing.assert_close(effective_neighbors(uniform_weights(clients)), everyone)
    torch.testing.assert_close(effective_neighbors(torch.eye(clients)), one)
