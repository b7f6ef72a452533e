"""Laws of votes: hard labels, counts, ties and majorities."""

import torch
from fusion_problems import Problem, law, problems
from hypothesis import given

from fedkd.fusion import are_tied, count_votes, hard_labels, most_voted, reach_majority


@given(problem=problems())
@law(hard_labels, count_votes)
def test_counts_are_sums_of_one_hot_rows_and_those_that_abstain_count_for_nothing(
    problem: Problem,
):
    votes = hard_labels(problem.probs)
    assert torch.equal(votes.sum(dim=-1), torch.ones(votes.shape[:-1]))
    assert torch.equal(votes.argmax(dim=-1), problem.probs.argmax(dim=-1))
    everybody = count_votes(problem.probs)
    assert torch.equal(everybody, votes.sum(dim=0))
    assert torch.equal(everybody.sum(dim=-1), torch.full(everybody.shape[:-1], float(len(votes))))
    answered = torch.ones(votes.shape[:2], dtype=torch.bool)
    answered[0] = False
    assert torch.equal(count_votes(problem.probs, answered), everybody - votes[0])


@given(problem=problems())
@law(most_voted, are_tied, reach_majority)
def test_winners_share_a_row_and_a_majority_above_half_has_one(problem: Problem):
    shares = count_votes(problem.probs) / len(problem.probs)
    winners = most_voted(shares)
    torch.testing.assert_close(winners.sum(dim=-1), torch.ones(len(shares)))
    assert torch.equal(are_tied(shares), (winners > 0).sum(dim=-1) > 1)
    assert not (reach_majority(shares, 0.6) & are_tied(shares)).any()
    assert reach_majority(shares, 0.0).all()
    assert torch.equal(most_voted(hard_labels(shares)), hard_labels(shares))
