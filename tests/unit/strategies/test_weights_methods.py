"""Methods that exchange weights, against a second implementation of whole runs: plain loops over
tensors."""

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.knowledge import WeightsCohort
from fedkd.strategies.centralized import Centralized
from fedkd.strategies.fedavg import FedAvg
from fedkd.strategies.fedprox import FedProx
from fedkd.strategies.lg_fedavg import LgFedAvg

State = Mapping[str, Tensor]


def cohort_of(
    states: list[State], sizes: list[int], names: list[str] | None = None
) -> WeightsCohort:
    return WeightsCohort(
        round=1,
        client_ids=tuple(range(len(states))),
        states=tuple(states),
        architectures=tuple(names or ["mlp"] * len(states)),
        train_sizes=tuple(sizes),
        public_ids=torch.arange(0),
    )


# The second implementation: a client's training, with the gradient of FedProx's term written out.


# centralized


def test_centralized_hands_on_what_was_trained():
    states = [{"w": torch.tensor([float(i)])} for i in range(2)]
    fusion = Centralized().fuse(cohort_of(states, [3, 5], ["mlp", "cnn"]), None)
    assert torch.equal(fusion.weights, torch.eye(2))
    assert fusion.teachers == {"mlp": states[0], "cnn": states[1]}


# fedavg


def test_fedavg_by_hand():
    """(1 * 3 + 5 * 1) / 4 = 2 and (0 * 3 + 8 * 1) / 4 = 2; the counter is the first client's."""
    states = [
        {
            "w": torch.tensor([1.0, 0.0]),
            "running_mean": torch.tensor([0.0]),
            "seen": torch.tensor(7),
        },
        {
            "w": torch.tensor([5.0, 8.0]),
            "running_mean": torch.tensor([4.0]),
            "seen": torch.tensor(2),
        },
    ]
    fusion = FedAvg().fuse(cohort_of(states, [3, 1]), None)
    assert fusion.weights.tolist() == [[0.75, 0.25], [0.75, 0.25]]
    found = fusion.teachers["mlp"]
    assert found["w"].tolist() == [2.0, 2.0]
    assert found["running_mean"].tolist() == [1.0]
    assert found["seen"] == 7


@st.composite
def cohorts(draw: st.DrawFn) -> WeightsCohort:
    clients = draw(st.integers(1, 6))
    stream = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    states = [
        {
            "a": torch.randn(3, 2, generator=stream),
            "b": torch.randn(4, generator=stream),
            "n": torch.tensor(i),
        }
        for i in range(clients)
    ]
    return cohort_of(
        states, draw(st.lists(st.integers(1, 1000), min_size=clients, max_size=clients))
    )


@given(cohort=cohorts())
def test_fedavg_is_the_naive_mean(cohort: WeightsCohort):
    fusion = FedAvg().fuse(cohort, None)
    whole = sum(cohort.train_sizes)
    for name in ("a", "b"):
        flat = [state[name].flatten().tolist() for state in cohort.states]
        expected = [
            sum(size * row[context] for size, row in zip(cohort.train_sizes, flat, strict=True))
            / whole
            for context in range(len(flat[0]))
        ]
        torch.testing.assert_close(
            fusion.teachers["mlp"][name].flatten(), torch.tensor(expected), rtol=1e-4, atol=1e-5
        )
    shares = torch.tensor([size / whole for size in cohort.train_sizes])
    torch.testing.assert_close(fusion.weights, shares.expand(cohort.size, -1))


@given(cohort=cohorts(), size=st.integers(1, 50))
def test_equal_sizes_make_the_plain_mean(cohort: WeightsCohort, size: int):
    equal = cohort_of(list(cohort.states), [size] * cohort.size)
    found = FedAvg().fuse(equal, None).teachers["mlp"]["a"]
    torch.testing.assert_close(
        found, torch.stack([state["a"] for state in cohort.states]).mean(dim=0)
    )


@given(cohort=cohorts())
def test_one_client_and_equal_clients_keep_their_weights_to_the_bit(cohort: WeightsCohort):
    one = cohort_of(list(cohort.states[:1]), [5])
    equal = cohort_of([cohort.states[0]] * cohort.size, list(cohort.train_sizes))
    for same in (one, equal):
        found = FedAvg().fuse(same, None).teachers["mlp"]
        assert all(torch.equal(found[name], tensor) for name, tensor in cohort.states[0].items())


# lg_fedavg


def test_last_layers_are_averaged_by_sizes_or_alike():
    """(1 * 3 + 5 * 1) / 4 = 2, and (1 + 5) / 2 = 3."""
    states = [{"1.weight": torch.tensor([1.0])}, {"1.weight": torch.tensor([5.0])}]
    cohort = cohort_of(states, [3, 1], ["mlp", "cnn"])
    assert LgFedAvg().fuse(cohort, None).teachers["1.weight"].tolist() == [2.0]
    plain = LgFedAvg(mean="plain").fuse(cohort, None)
    assert plain.teachers["1.weight"].tolist() == [3.0]
    assert plain.weights.tolist() == [[0.5, 0.5]] * 2
    with pytest.raises(SettingError, match="layers must be >= 1"):
        LgFedAvg(layers=0)


# fedprox


@pytest.mark.parametrize("mu", [0.0, -1.0, float("nan"), float("inf")])
def test_a_mu_that_does_nothing_or_makes_no_sense_is_refused(mu: float):
    with pytest.raises(SettingError, match="mu must be"):
        FedProx(mu=mu)
