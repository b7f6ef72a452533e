"""Laws of every public function of fedkd.fusion, tried on random inputs.

Functions are found by themselves: one without an entry in SPECS, or without a law of its own, fails
this file. An entry says which axes the function's tensors have (K clients, N samples, C classes),
and that is enough to test that permuting clients, samples and classes permutes the result. Golden
numbers are in test_golden.py.
"""

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import fedkd.fusion
from fedkd.fusion import (
    DIVERGENCES,
    argmax_histogram,
    average_states,
    effective_neighbors,
    filtered_mean,
    geometric_median,
    keep_nearest,
    keep_within,
    krum,
    leave_one_out,
    mean_by_count,
    mean_over_clients,
    mean_soft_label,
    median_distance,
    median_over_clients,
    mix,
    pairwise_cosine,
    pairwise_js,
    pairwise_kl,
    pairwise_l2,
    pairwise_tv,
    reduce_entropy,
    renormalize,
    row_softmax,
    smooth,
    soften,
    trimmed_mean_over_clients,
    uniform_weights,
    without_self,
)

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
"""Float32 over sums of at most 8 terms, of logarithms down to ln(1e-7)."""


def public_functions() -> list[str]:
    """Every public function defined in a module of the package, and every one that the package
    offers."""
    found = set()
    for module in pkgutil.iter_modules(fedkd.fusion.__path__, "fedkd.fusion."):
        members = vars(importlib.import_module(module.name)).items()
        found |= {
            n
            for n, f in members
            if inspect.isfunction(f) and f.__module__ == module.name and n[0] != "_"
        }
    return sorted(
        found | {n for n, f in vars(fedkd.fusion).items() if inspect.isfunction(f) and n[0] != "_"}
    )


@dataclass(frozen=True)
class Problem:
    """Random inputs: logits [K, N, C], scores [K, K] with some -inf, and a permutation of each
    axis."""

    logits: Tensor
    scores: Tensor
    order: dict[str, Tensor]

    @property
    def probs(self) -> Tensor:
        return torch.softmax(self.logits, dim=-1)

    @property
    def distributions(self) -> Tensor:
        return self.probs.mean(dim=1)

    @property
    def weights(self) -> Tensor:
        return torch.softmax(self.scores.clamp(min=-8), dim=1)

    @property
    def apart(self) -> Tensor:
        """Divergences [K, K]: zero on the diagonal, with ties wherever the logits tie."""
        return (self.distributions[:, None] - self.distributions[None]).abs().sum(dim=-1)

    def permuted(self, tensor: Tensor, axes: str) -> Tensor:
        """Return the tensor with each of its axes relabeled."""
        for dim, axis in enumerate(axes):
            tensor = tensor.index_select(dim, self.order[axis])
        return tensor


@st.composite
def problems(draw: st.DrawFn, fewest_clients: int = 1) -> Problem:
    """K up to 6, N up to 8, C from 2 to 6; logits in [-8, 8], so that soft labels stay above 1e-8.

    Numbers come from a seed, since drawing each of them is slow; every other problem has whole
    numbers and so ties.
    """
    clients, samples, classes = (
        draw(st.integers(fewest_clients, 6)),
        draw(st.integers(1, 8)),
        draw(st.integers(2, 6)),
    )
    stream = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    logits = torch.rand(clients, samples, classes, generator=stream) * 16 - 8
    scores = torch.rand(clients, clients, generator=stream) * 16 - 8
    never = torch.rand(clients, clients, generator=stream) < draw(st.sampled_from([0.0, 0.5]))
    if draw(st.booleans()):
        logits, scores = (logits / 4).round() * 4, scores.round()
    sizes = {"K": clients, "N": samples, "C": classes}
    order = {axis: torch.randperm(size, generator=stream) for axis, size in sizes.items()}
    return Problem(logits, scores.masked_fill(never, -torch.inf), order)


@dataclass(frozen=True)
class Spec:
    """How to call a function on a problem: its tensors with their axes, its other arguments, its
    result's axes.

    Where it returns several tensors, ``gives`` has the axes of each. An argument that depends on
    the tensors is a function of the first.
    """

    tensors: Callable[[Problem], tuple[Tensor, ...]]
    takes: tuple[str, ...]
    gives: str
    others: dict[str, Any] = field(default_factory=dict)
    breaks_ties_by_class: bool = False


SPECS: dict[str, Spec] = {
    "argmax_histogram": Spec(lambda p: (p.probs,), ("KNC",), "KC", breaks_ties_by_class=True),
    "average_states": Spec(lambda p: (p.logits, p.weights[0]), ("KNC", "K"), "NC"),
    "effective_neighbors": Spec(lambda p: (p.weights,), ("KK",), "K"),
    "filtered_mean": Spec(
        lambda p: (p.logits,), ("KNC",), "NC K", {"tolerate": 0.3, "threshold": 0.5}
    ),
    "geometric_median": Spec(lambda p: (p.logits,), ("KNC",), "NC K"),
    "keep_nearest": Spec(lambda p: (p.scores, p.apart), ("KK", "KK"), "KK", {"count": 2}),
    "keep_within": Spec(lambda p: (p.scores, p.apart), ("KK", "KK"), "KK", {"radius": 0.5}),
    "krum": Spec(lambda p: (p.logits,), ("KNC",), "NC K", {"attackers": 1}),
    "leave_one_out": Spec(lambda p: (p.logits, p.logits[..., 0] > 0), ("KNC", "KN"), "KNC KN KK"),
    "mean_by_count": Spec(
        lambda p: (p.logits, p.logits[..., 0].clamp(min=0).round()), ("KNC", "KN"), "NC N K"
    ),
    "mean_over_clients": Spec(lambda p: (p.logits,), ("KNC",), "NC"),
    "mean_soft_label": Spec(lambda p: (p.probs,), ("KNC",), "KC"),
    "median_distance": Spec(lambda p: (p.logits,), ("KNC",), "N"),
    "median_over_clients": Spec(lambda p: (p.logits,), ("KNC",), "NC K"),
    "mix": Spec(lambda p: (p.weights, p.logits), ("KK", "KNC"), "KNC"),
    "pairwise_cosine": Spec(lambda p: (p.distributions,), ("KC",), "KK"),
    "pairwise_js": Spec(lambda p: (p.distributions,), ("KC",), "KK"),
    "pairwise_kl": Spec(lambda p: (p.distributions,), ("KC",), "KK"),
    "pairwise_l2": Spec(lambda p: (p.distributions,), ("KC",), "KK"),
    "pairwise_tv": Spec(lambda p: (p.distributions,), ("KC",), "KK"),
    "reduce_entropy": Spec(lambda p: (p.probs[0],), ("NC",), "NC", {"temperature": 0.1}),
    "renormalize": Spec(lambda p: (p.probs[0] * p.probs[-1], p.probs[0]), ("NC", "NC"), "NC"),
    "row_softmax": Spec(lambda p: (p.scores,), ("KK",), "KK"),
    "smooth": Spec(lambda p: (p.distributions,), ("KC",), "KC", {"amount": 0.01}),
    "soften": Spec(lambda p: (p.logits,), ("KNC",), "KNC", {"temperature": 2.0}),
    "trimmed_mean_over_clients": Spec(
        lambda p: (p.logits,), ("KNC",), "NC K", {"trim": lambda v: (len(v) - 1) // 3}
    ),
    "uniform_weights": Spec(lambda p: (), (), "KK", {"clients": 4}),
    "without_self": Spec(lambda p: (p.scores,), ("KK",), "KK"),
}

AS_TENSORS: dict[str, Callable[..., Tensor]] = {
    "average_states": lambda values, shares: average_states(
        [{"weight": each} for each in values], shares
    )["weight"],
}
"""How to call a function that does not take tensors alone."""

CHOOSES_SAMPLES = ["core_set"]
"""Functions that return indices of samples: their laws are in ``test_selection``."""

LAWS: dict[str, list[str]] = {}
"""The laws of single functions, as ``law`` registers them."""


def law(*functions: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a test as a law of these functions."""

    def register(test: Callable[..., None]) -> Callable[..., None]:
        for function in functions:
            LAWS.setdefault(function.__name__, []).append(test.__name__)
        return test

    return register


def call(name: str, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the tensors that a function returns, one or several."""
    others = {
        key: value(tensors[0]) if callable(value) else value
        for key, value in SPECS[name].others.items()
    }
    function = AS_TENSORS.get(name) or getattr(fedkd.fusion, name)
    result = function(*tensors, **others)
    return result if isinstance(result, tuple) else (result,)


def entropy(probs: Tensor) -> Tensor:
    return -torch.xlogy(probs, probs).sum(dim=-1)


def assert_rows_are_distributions(rows: Tensor) -> None:
    assert (rows >= 0).all()
    torch.testing.assert_close(rows.sum(dim=-1), torch.ones(rows.shape[:-1]), **CLOSE)


def assert_in_hull(mixed: Tensor, values: Tensor) -> None:
    """Each entry lies between the smallest and the largest of the clients' entries."""
    assert (mixed >= values.min(dim=0).values - 1e-5).all()
    assert (mixed <= values.max(dim=0).values + 1e-5).all()


# The package as a whole.


def test_the_package_offers_every_public_function_of_its_modules():
    assert [name for name in public_functions() if not hasattr(fedkd.fusion, name)] == []


def test_every_public_function_is_described_here():
    assert sorted([*SPECS, *CHOOSES_SAMPLES]) == public_functions()


def test_every_public_function_has_a_law_of_its_own():
    assert sorted([*LAWS, *CHOOSES_SAMPLES]) == public_functions()


def test_the_table_of_divergences_holds_every_pairwise_function():
    pairwise = [name for name in public_functions() if name.startswith("pairwise_")]
    assert sorted(f"pairwise_{name}" for name in DIVERGENCES) == pairwise
    assert all(
        function is getattr(fedkd.fusion, f"pairwise_{name}")
        for name, function in DIVERGENCES.items()
    )


@pytest.mark.parametrize("name", SPECS)
@given(problem=problems())
def test_inputs_stay_untouched_and_two_calls_agree(name: str, problem: Problem):
    tensors = SPECS[name].tensors(problem)
    before = [tensor.clone() for tensor in tensors]
    first, second = call(name, tensors), call(name, tensors)
    assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, tensors, before))
    assert all(result.dtype in (torch.float32, torch.bool) for result in first)


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.takes])
@given(problem=problems())
def test_permuting_clients_samples_and_classes_permutes_the_result(name: str, problem: Problem):
    spec = SPECS[name]
    tensors = spec.tensors(problem)
    if spec.breaks_ties_by_class:
        top = tensors[0].topk(2, dim=-1).values
        assume((top[..., 0] > top[..., 1]).all())
    relabeled = tuple(
        problem.permuted(tensor, axes) for tensor, axes in zip(tensors, spec.takes, strict=True)
    )
    results, axes = call(name, tensors), spec.gives.split()
    expected = tuple(
        problem.permuted(result, axis) for result, axis in zip(results, axes, strict=True)
    )
    torch.testing.assert_close(call(name, relabeled), expected, **CLOSE)


# Softening.


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


# Divergences.


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


# Estimates.


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


# Mixing.


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


# Weights.


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


# Robust means.

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


# Tables and states.


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
