"""Methods that exchange weights, against a second implementation of whole runs: plain loops over
tensors."""

import threading
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import mean, records, scenario
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.experiment.build import Experiment, build
from fedkd.experiment.run import execute
from fedkd.federation.round_records import RoundRecord
from fedkd.knowledge import WeightsCohort
from fedkd.runtime.seeding import numpy_stream, torch_seed
from strategies.centralized import Centralized
from strategies.fedavg import FedAvg
from strategies.fedprox import FedProx

State = Mapping[str, Tensor]

UNEQUAL = {
    "models": ["mlp"],
    "samples_per_client": None,
    "partition": {"name": "dirichlet", "alpha": 0.5},
    "train": {"epochs": 1, "batch_size": 64},
}
"""Four clients whose private sets differ in size."""
EVERYBODY = [0, 1, 2, 3]


def ran(**changes: Any) -> tuple[Experiment, list[RoundRecord], list[State]]:
    """Run the tiny scenario; return it with its records and every client's state at the end."""
    found: list[RoundRecord] = []
    stop = threading.Event()
    experiment = build(scenario(**changes), stop)
    execute(experiment, found.append, stop)
    states = [experiment.context.store.get(i) for i in range(len(experiment.context.architectures))]
    return experiment, found, [state for state in states if state is not None]


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


def distance(one: State, other: State) -> float:
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


# The second implementation: a client's training, with the gradient of FedProx's term written out.


def naive_training(
    experiment: Experiment, model: nn.Module, client: int, round_number: int, mu: float = 0.0
) -> None:
    """Train ``model`` in place as a client would in a round; Adam as in the scenario's default."""
    context = experiment.context
    x, y = context.samples(context.train_rows(client))
    stream = numpy_stream(context.seed, "client", client, "round", round_number, "train batches")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    model.train()
    for _ in range(context.training.epochs):
        order, size = stream.permutation(len(y)).tolist(), context.training.batch_size
        for first in range(0, len(y), size):
            batch = order[first : first + size]
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            for parameter, began in zip(model.parameters(), start, strict=True):
                assert parameter.grad is not None
                parameter.grad += mu * (parameter.detach() - began)
            optimizer.step()


def naive_fedavg(experiment: Experiment, rounds: list[list[int]], mu: float = 0.0) -> State:
    """Train each round's clients from the common weights, then average by the number of samples."""
    context = experiment.context
    architecture = context.architectures[0]
    common = architecture.build(
        torch_seed(context.seed, "architecture", architecture.name, "weights")
    ).state_dict()
    for round_number, clients in enumerate(rounds, start=1):
        sizes = {client: len(context.division.train[client]) for client in clients}
        total = {
            name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in common.items()
        }
        for client, size in sizes.items():
            model = architecture.build(0)
            model.load_state_dict(common)
            naive_training(experiment, model, client, round_number, mu)
            for name, tensor in model.state_dict().items():
                total[name] += size * tensor.double() / sum(sizes.values())
        common = {name: tensor.float() for name, tensor in total.items()}
    return common


# centralized


def test_a_centralized_run_is_one_model_of_each_architecture_trained_on_the_union():
    experiment, found, states = ran(strategy="centralized")
    context = experiment.context
    union = sorted(row for rows in context.division.train for row in rows.tolist())
    assert context.train_rows(0).tolist() == context.train_rows(3).tolist() == union
    assert len(union) == 80
    for leader in (0, 1):  # of the mlps, and of the cnns
        alone = context.architectures[leader].build(
            torch_seed(context.seed, "client", leader, "weights")
        )
        for round_number in (1, 2):
            naive_training(experiment, alone, leader, round_number)
        for client in (leader, leader + 2):
            assert distance(states[client], alone.state_dict()) < 1e-6
    assert found[-1].clients[2].global_accuracy == found[-1].clients[0].global_accuracy


def test_what_centralized_counts_is_the_model_handed_around():
    """The leaders alone upload; each client downloads its architecture's model, 4 bytes a
    parameter."""
    experiment, found, _ = ran(strategy="centralized")
    expected = [
        4 * experiment.context.traits[a.name].parameters for a in experiment.context.architectures
    ]
    for record in found:
        assert [client.bytes_up for client in record.clients] == [*expected[:2], 0, 0]
        assert [client.bytes_down for client in record.clients] == expected


def test_centralized_hands_on_what_was_trained():
    states = [{"w": torch.tensor([float(i)])} for i in range(2)]
    fusion = Centralized().fuse(cohort_of(states, [3, 5], ["mlp", "cnn"]), None)
    assert torch.equal(fusion.weights, torch.eye(2))
    assert fusion.teachers == {"mlp": states[0], "cnn": states[1]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"participation": 0.5}, "nobody is absent; leave participation and dropout out"),
        ({"dropout": 0.1}, "nobody is absent; leave participation and dropout out"),
        (
            {"round_order": "distill_first"},
            "at the end of a round, where this order has no message; leave round_order out",
        ),
    ],
)
def test_what_would_keep_the_model_from_some_is_refused_for_centralized_training(
    changes: dict[str, Any], message: str
):
    with pytest.raises(SettingError, match=message):
        records(strategy="centralized", **changes)


# fedavg


@pytest.mark.parametrize("order", ["train_first", "distill_first"])
def test_a_fedavg_run_is_the_naive_one(order: str):
    experiment, _, states = ran(strategy="fedavg", round_order=order, **UNEQUAL)
    sizes = [len(rows) for rows in experiment.context.division.train]
    assert len(set(sizes)) > 1
    if order == "train_first":
        expected = [naive_fedavg(experiment, 2 * [EVERYBODY])] * 4
    else:  # the second round's mean reaches nobody: each client is where it went from the first
        expected = []
        for client in range(4):
            model = experiment.context.architectures[0].build(0)
            model.load_state_dict(dict(naive_fedavg(experiment, [EVERYBODY])))
            naive_training(experiment, model, client, 2)
            expected.append(model.state_dict())
    for state, same in zip(states, expected, strict=True):
        assert distance(state, same) < 1e-5


def test_all_clients_have_one_model_after_a_round_buffers_included():
    _, found, states = ran(
        strategy="fedavg", models=["toys:with_batch_norm"], samples_per_client=16
    )
    assert {"1.running_mean", "1.num_batches_tracked"} <= set(states[0])
    for state in states[1:]:
        assert all(torch.equal(tensor, state[name]) for name, tensor in states[0].items())
    for record in found:
        assert len({client.global_nll for client in record.clients}) == 1


def test_who_was_absent_trains_from_the_newest_model():
    """Some come back after a round without them, some take part for the first time in the last
    one."""
    experiment, found, _ = ran(strategy="fedavg", participation=0.5, rounds=4, **UNEQUAL)
    rounds = [[c.client_id for c in record.clients if c.status == "ok"] for record in found]
    assert all(len(present) == 2 for present in rounds)
    assert set(rounds[-1]) - set(rounds[-2]), "nobody was absent: take another seed"
    expected = naive_fedavg(experiment, rounds)
    assert all(
        distance(experiment.context.store.get(client), expected) < 1e-5 for client in rounds[-1]
    )


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


def test_of_one_client_fedavg_is_local_training():
    alone = {"clients": 1, "models": ["mlp"]}
    experiment, _, (state,) = ran(strategy="fedavg", **alone)
    model = experiment.context.architectures[0].build(
        torch_seed(experiment.context.seed, "architecture", "mlp", "weights")
    )
    for round_number in (1, 2):
        naive_training(experiment, model, 0, round_number)
    assert distance(state, model.state_dict()) < 1e-6


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
def test_a_mixture_of_architectures_is_refused_by_name(strategy: str):
    with pytest.raises(
        SettingError, match=f"strategy={strategy} averages weights .* models are mlp, cnn"
    ):
        records(strategy=strategy)


# fedprox


def test_a_fedprox_run_is_the_naive_one_and_no_fedavg():
    experiment, _, states = ran(strategy={"name": "fedprox", "mu": 1.0}, **UNEQUAL)
    expected = naive_fedavg(experiment, 2 * [EVERYBODY], mu=1.0)
    assert distance(states[0], expected) < 1e-4
    assert distance(states[0], naive_fedavg(experiment, 2 * [EVERYBODY])) > 1e-3


def test_a_small_mu_is_fedavg_and_a_smaller_one_is_nearer():
    _, _, plain = ran(strategy="fedavg", models=["mlp"])
    far, near = (
        distance(plain[0], ran(strategy={"name": "fedprox", "mu": mu}, models=["mlp"])[2][0])
        for mu in (1.0, 1e-9)
    )
    assert near < 1e-6 < 1e-4 < far


def test_a_large_mu_leaves_the_model_where_it_was():
    """By SGD at a learning rate of 1 / mu each step goes back to the start, and one step of the
    gradient further."""
    setting = {
        "models": ["mlp"],
        "rounds": 1,
        "train": {"epochs": 10, "optimizer": "sgd", "learning_rate": 1e-3},
    }
    experiment, _, free = ran(strategy="fedavg", **setting)
    _, _, held = ran(strategy={"name": "fedprox", "mu": 1000.0}, **setting)
    context = experiment.context
    start = (
        context.architectures[0]
        .build(torch_seed(context.seed, "architecture", "mlp", "weights"))
        .state_dict()
    )
    assert distance(held[0], start) < 0.1 * distance(free[0], start)
    assert distance(held[0], start) < 1e-3  # the gradient's size is below 1


def test_the_training_loss_on_record_has_the_proximal_term_in_it():
    with_term, without = (
        records(strategy=strategy, models=["mlp"], rounds=1, train={"epochs": 20})[0]
        for strategy in ({"name": "fedprox", "mu": 1.0}, "fedavg")
    )
    assert mean(with_term, "train_loss") > mean(without, "train_loss")


@pytest.mark.parametrize("mu", [0.0, -1.0, float("nan"), float("inf")])
def test_a_mu_that_does_nothing_or_makes_no_sense_is_refused(mu: float):
    with pytest.raises(SettingError, match="mu must be"):
        FedProx(mu=mu)
