"""Laws of means of class tables and of models' states."""

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
    average_states,
    leave_one_out,
    mean_by_count,
    mean_over_clients,
)


@law(leave_one_out)
@given(problem=problems())
def test_others_teach_what_they_have_and_own_rows_never_return(problem: Problem):
    """A naive loop over clients and rows."""
    tables, present = problem.logits, problem.logits[..., 0] > 0
    taught, exists, weights = leave_one_out(tables, present)
    clients, rows, _ = tables.shape
    for i in range(clients):
        adds = torch.zeros(clients)
        for row in range(rows):
            others = [j for j in range(clients) if j != i and present[j, row]]
            expected = (
                torch.stack([tables[j, row] for j in others]).mean(dim=0)
                if others
                else 0 * tables[i, row]
            )
            assert bool(exists[i, row]) == bool(others)
            torch.testing.assert_close(taught[i, row], expected, **CLOSE)
            adds[others] += 1 / max(len(others), 1)
        expected = adds / exists[i].sum() if exists[i].any() else torch.eye(clients)[i]
        torch.testing.assert_close(weights[i], expected, **CLOSE)
    assert_rows_are_distributions(weights)


@law(leave_one_out)
@given(problem=problems(fewest_clients=2))
def test_two_clients_swap_their_tables(problem: Problem):
    tables = problem.logits[:2]
    present = torch.ones(tables.shape[:2], dtype=torch.bool)
    taught, exists, weights = leave_one_out(tables, present)
    torch.testing.assert_close(taught, tables.flip(0))
    assert exists.all()
    assert torch.equal(weights, torch.eye(2).flip(0))


@law(average_states)
@given(problem=problems())
def test_an_average_of_states_is_in_their_hull_and_equal_states_come_back(problem: Problem):
    shares = problem.weights[0]
    states = [
        {"weight": values, "steps": torch.tensor(k)} for k, values in enumerate(problem.logits)
    ]
    average = average_states(states, shares)
    torch.testing.assert_close(
        average["weight"], torch.einsum("k,knc->nc", shares, problem.logits), **CLOSE
    )
    assert_in_hull(average["weight"], problem.logits)
    assert average["steps"] == 0
    equal = average_states([states[0]] * len(shares), shares)
    assert torch.equal(equal["weight"], states[0]["weight"])
    scaled = average_states(states, 3 * shares)
    torch.testing.assert_close(scaled["weight"], average["weight"], **CLOSE)


@law(mean_by_count)
@given(problem=problems())
def test_a_mean_by_count_is_the_mean_of_all_samples_and_says_whose_they_are(problem: Problem):
    """A naive loop over every single sample; rows of clients without any are poisoned."""
    tables, counts = problem.logits.clone(), problem.logits[..., 0].clamp(min=0).round()
    tables[counts == 0] = torch.inf
    means, present, weights = mean_by_count(tables, counts)
    clients, rows, columns = tables.shape
    adds = torch.zeros(clients)
    for row in range(rows):
        owners = [k for k in range(clients) for _ in range(int(counts[k, row]))]
        expected = (
            torch.stack([tables[k, row] for k in owners]).mean(dim=0)
            if owners
            else torch.zeros(columns)
        )
        assert bool(present[row]) == bool(owners)
        torch.testing.assert_close(means[row], expected, **CLOSE)
        for owner in owners:
            adds[owner] += 1 / len(owners)
    expected = adds / present.sum() if present.any() else torch.full((clients,), 1 / clients)
    torch.testing.assert_close(weights, expected, **CLOSE)


@law(mean_by_count)
@given(problem=problems())
def test_equal_counts_make_the_plain_mean(problem: Problem):
    means, present, weights = mean_by_count(
        problem.logits, torch.full(problem.logits.shape[:2], 3.0)
    )
    torch.testing.assert_close(means, mean_over_clients(problem.logits), **CLOSE)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / len(weights)))
    assert present.all()
