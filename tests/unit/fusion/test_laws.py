"""Laws of all public functions of fedkd.fusion: permutations, untouched inputs, and that each is
described.

Functions are found by themselves: one without an entry in SPECS, or without a law of its own in
this folder, fails this file. An entry says which axes the function's tensors have (K clients, N
samples, C classes), and that is enough to test that permuting clients, samples and classes permutes
the result. Golden numbers are in test_golden.py.
"""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from fusion_problems import (
    CLOSE,
    Problem,
    problems,
)
from hypothesis import assume, given
from torch import Tensor

import fedkd.fusion
from fedkd.fusion import (
    DIVERGENCES,
    average_states,
)


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
    "are_tied": Spec(lambda p: (p.probs[0],), ("NC",), "N"),
    "argmax_histogram": Spec(lambda p: (p.probs,), ("KNC",), "KC", breaks_ties_by_class=True),
    "average_states": Spec(lambda p: (p.logits, p.weights[0]), ("KNC", "K"), "NC"),
    "by_largest": Spec(lambda p: (p.apart,), ("KK",), "KK"),
    "by_largest_of_row": Spec(lambda p: (p.apart,), ("KK",), "KK"),
    "count_votes": Spec(lambda p: (p.probs,), ("KNC",), "NC", breaks_ties_by_class=True),
    "effective_neighbors": Spec(lambda p: (p.weights,), ("KK",), "K"),
    "filtered_mean": Spec(
        lambda p: (p.logits,), ("KNC",), "NC K", {"tolerate": 0.3, "threshold": 0.5}
    ),
    "geometric_median": Spec(lambda p: (p.logits,), ("KNC",), "NC K"),
    "hard_labels": Spec(lambda p: (p.probs,), ("KNC",), "KNC", breaks_ties_by_class=True),
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
    "most_voted": Spec(lambda p: (p.probs[0],), ("NC",), "NC"),
    "pairwise_cosine": Spec(lambda p: (p.distributions,), ("KC",), "KK"),
    "pairwise_js": Spec(lambda p: (p.distributions,), ("KC",), "KK"),
    "pairwise_kl": Spec(lambda p: (p.distributions,), ("KC",), "KK"),
    "pairwise_l2": Spec(lambda p: (p.distributions,), ("KC",), "KK"),
    "pairwise_tv": Spec(lambda p: (p.distributions,), ("KC",), "KK"),
    "reach_majority": Spec(lambda p: (p.probs[0],), ("NC",), "N", {"majority": 0.6}),
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
"""Functions that return indices of samples.

Their laws are in tests/unit/federation/test_sample_selection.py."""


LEARNS = ["descend", "linear_weights"]
"""Functions of named tensors and random streams, which have no axes; see test_descent.py."""


def call(name: str, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the tensors that a function returns, one or several."""
    others = {
        key: value(tensors[0]) if callable(value) else value
        for key, value in SPECS[name].others.items()
    }
    function = AS_TENSORS.get(name) or getattr(fedkd.fusion, name)
    result = function(*tensors, **others)
    return result if isinstance(result, tuple) else (result,)


def test_the_package_offers_every_public_function_of_its_modules():
    assert [name for name in public_functions() if not hasattr(fedkd.fusion, name)] == []


def test_every_public_function_is_described_here():
    assert sorted([*SPECS, *CHOOSES_SAMPLES, *LEARNS]) == public_functions()


def test_every_public_function_has_a_law_of_its_own():
    laws = {
        function.id
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "law"
        for function in node.args
        if isinstance(function, ast.Name)
    }
    assert sorted({*laws, *CHOOSES_SAMPLES}) == public_functions()


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
