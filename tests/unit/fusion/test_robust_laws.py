"""Laws of the robust means; second implementations are in test_robust.py."""

from collections.abc import Callable
from dataclasses import dataclass

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
from hypothesis import strategies as st
from torch import Tensor

from fedkd.fusion import (
    filtered_mean,
    geometric_median,
    krum,
    mean_over_clients,
    median_distance,
    median_over_clients,
    renormalize,
    trimmed_mean_over_clients,
)

ROBUST: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "filtered_mean": lambda values: filtered_mean(values, tolerate=0.3, threshold=0.5),
    "geometric_median": geometric_median,
    "krum": lambda values: krum(values, attackers=1, average=2),
    "median_over_clients": median_over_clients,
    "trimmed_mean_over_clients": lambda values: trimmed_mean_over_clients(
        values, (len(values) - 1) // 3
    ),
}
"""The rules that a minority of clients cannot move far, each with settings that suit any number of
clients."""


@law(filtered_mean, geometric_median, krum, median_over_clients, trimmed_mean_over_clients)
@pytest.mark.parametrize("rule", ROBUST)
@given(problem=problems())
def test_robust_means_stay_in_the_hull_and_every_client_has_a_part(rule: str, problem: Problem):
    aggregate, weights = ROBUST[rule](problem.logits)
    assert_in_hull(aggregate, problem.logits)
    assert_rows_are_distributions(weights)


@law(filtered_mean, geometric_median, krum, median_over_clients, trimmed_mean_over_clients)
@pytest.mark.parametrize("rule", ROBUST)
@given(problem=problems())
def test_the_weights_make_the_robust_mean_of_a_single_entry(rule: str, problem: Problem):
    values = problem.logits[:, :1, :1]
    aggregate, weights = ROBUST[rule](values)
    torch.testing.assert_close(aggregate, torch.einsum("k,knc->nc", weights, values), **CLOSE)


@law(filtered_mean, geometric_median, krum, median_over_clients, trimmed_mean_over_clients)
@pytest.mark.parametrize("rule", ROBUST)
@given(problem=problems())
def test_robust_means_of_equals_give_what_all_say_and_of_one_that_client(
    rule: str, problem: Problem
):
    first = problem.logits[:1]
    aggregate, weights = ROBUST[rule](first.expand_as(problem.logits))
    torch.testing.assert_close(aggregate, first[0], **CLOSE)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / len(weights)), **CLOSE)
    alone, weight = ROBUST[rule](first)
    assert torch.equal(alone, first[0])
    assert weight.tolist() == [1.0]


@law(filtered_mean, geometric_median, krum, median_over_clients, trimmed_mean_over_clients)
@pytest.mark.parametrize("rule", ROBUST)
@given(problem=problems(), factor=st.sampled_from([1e-3, 0.5, 300.0]), shift=st.floats(-20, 20))
def test_robust_means_follow_a_change_of_units(
    rule: str, problem: Problem, factor: float, shift: float
):
    aggregate, weights = ROBUST[rule](problem.logits)
    changed, same = ROBUST[rule](factor * (problem.logits + shift))
    torch.testing.assert_close(changed / factor, aggregate + shift, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(same, weights, rtol=1e-2, atol=1e-2)


@law(filtered_mean, geometric_median, median_over_clients, trimmed_mean_over_clients)
@pytest.mark.parametrize("rule", [rule for rule in ROBUST if rule != "krum"])
@given(problem=problems())
def test_all_but_krum_fuse_each_sample_without_the_others(rule: str, problem: Problem):
    samples = torch.stack(
        [ROBUST[rule](problem.logits[:, [n]])[0][0] for n in range(problem.logits.shape[1])]
    )
    torch.testing.assert_close(ROBUST[rule](problem.logits)[0], samples, rtol=0, atol=1e-6)


@law(filtered_mean, geometric_median, krum)
@pytest.mark.parametrize("rule", ["filtered_mean", "geometric_median", "krum"])
@given(problem=problems())
def test_means_of_whole_rows_make_soft_labels_of_soft_labels(rule: str, problem: Problem):
    assert_rows_are_distributions(ROBUST[rule](problem.probs)[0])


@dataclass(frozen=True)
class Attacked:
    """Honest clients, whose logits are within 8 of 0, and how far away the attackers are that join
    them."""

    honest: Tensor
    seed: int
    colluding: bool
    largest: float

    def values(self, attackers: int) -> Tensor:
        """Return all uploads: attackers are at one place, or each at another that is not equally
        far."""
        stream = torch.Generator().manual_seed(self.seed)
        places = 1 if self.colluding else attackers
        signs = torch.rand(places, *self.honest.shape[1:], generator=stream).sub(0.5).sign()
        outliers = self.largest * torch.logspace(0, -1, places)[:, None, None] * signs
        return torch.cat([self.honest, outliers.expand(attackers, -1, -1)])

    def assert_held(self, aggregate: Tensor, widths: float = 0.0) -> None:
        """The aggregate is no more than so many diagonals outside the box that the honest clients
        fill."""
        low, high = self.honest.min(dim=0).values, self.honest.max(dim=0).values
        allowed = 1e-3 + widths * (high - low).norm(dim=-1, keepdim=True)
        assert (aggregate >= low - allowed).all()
        assert (aggregate <= high + allowed).all()


@st.composite
def attacks(draw: st.DrawFn) -> Attacked:
    problem = draw(problems(fewest_clients=4))
    return Attacked(
        problem.logits,
        draw(st.integers(0, 99)),
        draw(st.booleans()),
        draw(st.sampled_from([1e3, 1e5])),
    )


@law(mean_over_clients)
@given(attack=attacks())
def test_one_attacker_moves_the_mean_as_far_as_it_likes(attack: Attacked):
    clients = len(attack.honest)
    moved = mean_over_clients(attack.values(1)) - attack.honest.mean(dim=0)
    assert (moved.abs() >= (attack.largest - 8) / (clients + 1)).all()


@law(median_over_clients, trimmed_mean_over_clients)
@given(attack=attacks(), most=st.integers(1, 5))
def test_a_minority_moves_medians_and_trimmed_means_nowhere_that_no_honest_client_is(
    attack: Attacked, most: int
):
    attackers = min(most, len(attack.honest) - 1)
    attack.assert_held(median_over_clients(attack.values(attackers))[0])
    attack.assert_held(trimmed_mean_over_clients(attack.values(attackers), attackers)[0])


@law(geometric_median)
@given(attack=attacks(), most=st.integers(1, 5))
def test_a_minority_moves_the_geometric_median_no_farther_than_the_theorem_says(
    attack: Attacked, most: int
):
    values = attack.values(min(most, len(attack.honest) - 1))
    share = 1 - len(attack.honest) / len(values)
    center = attack.honest.mean(dim=0)
    farthest = (attack.honest - center).norm(dim=-1).max(dim=0).values
    moved = (geometric_median(values)[0] - center).norm(dim=-1)
    assert (moved <= 1.01 * 2 * (1 - share) / (1 - 2 * share) * farthest + 1e-3).all()


@law(krum)
@given(attack=attacks(), most=st.integers(1, 5))
def test_krum_never_takes_attackers_that_are_far_away(attack: Attacked, most: int):
    clients = len(attack.honest)
    attackers = min(most, clients - 3)  # K >= 2 f + 3
    for average in (1, clients):
        aggregate, weights = krum(attack.values(attackers), attackers, average)
        attack.assert_held(aggregate)
        assert (weights[clients:] == 0).all()


@law(filtered_mean)
@given(attack=attacks(), most=st.integers(1, 5))
def test_the_filter_lets_as_many_attackers_as_it_tolerates_move_it_boundedly(
    attack: Attacked, most: int
):
    clients = len(attack.honest)
    attackers = min(most, int(0.45 * clients / 0.55))
    attack.assert_held(
        filtered_mean(attack.values(attackers), tolerate=0.45, threshold=0.5)[0], widths=1
    )


@law(trimmed_mean_over_clients, median_over_clients, mean_over_clients)
@given(problem=problems())
def test_trimming_nothing_gives_the_mean_and_trimming_most_the_median(problem: Problem):
    aggregate, weights = trimmed_mean_over_clients(problem.logits, 0)
    torch.testing.assert_close(aggregate, mean_over_clients(problem.logits), **CLOSE)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / len(weights)), **CLOSE)
    most = (len(problem.logits) - 1) // 2
    assert torch.equal(
        trimmed_mean_over_clients(problem.logits, most)[0], median_over_clients(problem.logits)[0]
    )


@law(median_over_clients, geometric_median, krum)
@given(problem=problems())
def test_what_more_than_half_say_is_the_median(problem: Problem):
    majority = problem.logits[:1].expand(len(problem.logits) + 1, -1, -1)
    values = torch.cat([problem.logits, majority])
    torch.testing.assert_close(median_over_clients(values)[0], problem.logits[0], rtol=0, atol=0)
    torch.testing.assert_close(geometric_median(values)[0], problem.logits[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        krum(values, attackers=len(problem.logits))[0], problem.logits[0], **CLOSE
    )


@law(geometric_median)
@given(problem=problems(fewest_clients=3))
def test_no_client_and_no_other_mean_is_nearer_to_all_than_the_geometric_median(problem: Problem):
    def summed(centers: Tensor) -> Tensor:
        return (problem.logits - centers).norm(dim=-1).sum(dim=0)

    best = summed(geometric_median(problem.logits)[0])
    others = [*problem.logits, median_over_clients(problem.logits)[0], problem.logits.mean(dim=0)]
    assert all((best <= summed(other) * 1.01).all() for other in others)


@law(krum)
@given(problem=problems(), attackers=st.integers(0, 3))
def test_krum_weighs_the_chosen_alike_and_chooses_all_where_all_are_averaged(
    problem: Problem, attackers: int
):
    clients = len(problem.logits)
    aggregate, weights = krum(problem.logits, attackers, average=clients)
    torch.testing.assert_close(aggregate, problem.logits.mean(dim=0), **CLOSE)
    for average in range(1, clients + 1):
        chosen = krum(problem.logits, attackers, average)[1]
        assert len(set(chosen[chosen > 0].tolist())) == 1
        assert (chosen > 0).sum() >= average
        assert (weights > 0).all()


@law(filtered_mean, mean_over_clients)
@given(problem=problems(), tolerate=st.floats(0.01, 0.49))
def test_a_filter_with_a_large_threshold_is_the_mean_and_none_takes_more_than_it_may(
    problem: Problem, tolerate: float
):
    aggregate, weights = filtered_mean(problem.logits, tolerate, threshold=1e6)
    even = torch.full_like(weights, 1 / len(weights))
    more_than_half_agree = median_distance(problem.logits) < 1e-3
    if not more_than_half_agree.any():
        torch.testing.assert_close(aggregate, mean_over_clients(problem.logits), **CLOSE)
        torch.testing.assert_close(weights, even, **CLOSE)
    # Whatever is filtered, nobody left weighs more than one of all clients less what may be taken.
    strict = filtered_mean(problem.logits[:, :1], tolerate, threshold=1e-6)[1]
    assert (strict <= even / (1 - 2 * tolerate) + 1e-5).all()


@law(filtered_mean)
@given(problem=problems(fewest_clients=3))
def test_classes_that_nobody_speaks_of_change_nothing_in_the_filter(problem: Problem):
    """There are more classes than clients then, and the widest direction is found among clients."""
    clients, samples, _ = problem.logits.shape
    more = torch.cat([problem.logits, torch.zeros(clients, samples, 7)], dim=-1)
    aggregate, weights = ROBUST["filtered_mean"](problem.logits)
    padded, same = ROBUST["filtered_mean"](more)
    torch.testing.assert_close(padded[:, :-7], aggregate, **CLOSE)
    torch.testing.assert_close(same, weights, **CLOSE)


@law(median_distance)
@given(problem=problems(), factor=st.floats(0.01, 100))
def test_the_median_distance_has_the_units_of_the_values_and_no_origin(
    problem: Problem, factor: float
):
    expected = factor * median_distance(problem.logits)
    moved = factor * (problem.logits - problem.logits[0])
    torch.testing.assert_close(median_distance(moved), expected, rtol=1e-3, atol=1e-3)
    assert (median_distance(problem.logits[:1]) == 0).all()


@law(median_distance)
@given(problem=problems(fewest_clients=3))
def test_one_client_of_three_does_not_set_the_median_distance(problem: Problem):
    values = problem.logits[:3].clone()
    values[2] = 1e5
    assert (median_distance(values) <= 2 * (values[0] - values[1]).norm(dim=-1) + 1e-3).all()


@law(renormalize)
@given(problem=problems())
def test_renormalized_rows_are_distributions_in_the_same_proportions(problem: Problem):
    rows = problem.probs[0] * problem.probs[-1]
    rows[0] = 0.0
    renormalized = renormalize(rows, problem.probs[-1])
    assert_rows_are_distributions(renormalized)
    assert torch.equal(renormalized[0], problem.probs[-1][0])
    torch.testing.assert_close(
        renormalized[1:] * rows[1:].sum(dim=-1, keepdim=True), rows[1:], **CLOSE
    )
    torch.testing.assert_close(renormalize(problem.probs[0], rows), problem.probs[0], **CLOSE)
