"""The router: its gradient against autograd, its steps against a naive loop, the specialists it
finds, and absence."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.fusion import mean_over_clients
from fedkd.messages import Cohort
from fedkd.strategies.routed import Routed, gradient, imbalance, likelihood, route, router_inputs


def cohort_of(
    probs: Tensor, labels: Tensor, client_ids: tuple[int, ...] | None = None, round_number: int = 1
) -> Cohort:
    return Cohort(
        round=round_number,
        client_ids=client_ids or tuple(range(len(probs))),
        public_ids=torch.arange(probs.shape[1]),
        values=probs,
        scale="probs",
        public_labels=labels,
    )


def random_probs(seed: int, clients: int, samples: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(clients, samples, classes, generator=stream)
    return logits.softmax(dim=-1), torch.randint(classes, (samples,), generator=stream)


def specialists(clients: int, each: int = 10, sure: float = 0.9) -> tuple[Tensor, Tensor]:
    """Client j knows the classes 2j and 2j + 1: it gives ``sure`` to the right one of them;
    elsewhere, half to each.

    There are ``each`` samples of every class.
    """
    classes = 2 * clients
    labels = torch.arange(classes).repeat(each)
    probs = torch.zeros(clients, len(labels), classes)
    for client in range(clients):
        for sample, label in enumerate(labels.tolist()):
            own = (2 * client, 2 * client + 1)
            for c in own:
                probs[client, sample, c] = (
                    (sure if c == label else 1 - sure) if label in own else 0.5
                )
    return probs, labels


# The mathematics.


@given(
    seed=st.integers(0, 2**20),
    students=st.integers(1, 3),
    clients=st.integers(1, 4),
    samples=st.integers(1, 5),
    balance=st.floats(0, 3),
)
def test_the_gradient_is_that_of_the_objective(
    seed: int, students: int, clients: int, samples: int, balance: float
):
    probs, labels = (
        x.double() if x.is_floating_point() else x for x in random_probs(seed, clients, samples)
    )
    seen, _ = random_probs(seed + 1, students, samples)
    inputs, right = router_inputs(seen.double()), probs[:, torch.arange(samples), labels]
    stream = torch.Generator().manual_seed(seed)
    router = torch.randn(
        students, clients, 4, generator=stream, dtype=torch.float64, requires_grad=True
    )
    gates = route(router, inputs)
    (expected,) = torch.autograd.grad(
        (balance * imbalance(gates) - likelihood(gates, right)).sum(), router
    )
    torch.testing.assert_close(
        gradient(router.detach(), inputs, right, balance), expected, rtol=1e-8, atol=1e-10
    )


def test_two_clients_and_a_sample_by_hand():
    """p_0(y) = 0.9, p_1(y) = 0.1, R = 0: gates are 1/2, and the first was right with probability
    0.9.

    The gradient by the scores is (1/2 - 0.9, 1/2 - 0.1) = (-0.4, 0.4). z is (ln 3, -ln 3, 1) / 2
    for probs (0.75, 0.25)... that is ln 0.75 less the mean of ln 0.75 and ln 0.25, half of ln 3,
    and a constant 1.
    """
    inputs = router_inputs(torch.tensor([[[0.75, 0.25]]], dtype=torch.float64))
    half = 0.5493061443340549
    assert inputs.flatten().tolist() == pytest.approx([half, -half, 1.0])
    right = torch.tensor([[0.9], [0.1]], dtype=torch.float64)
    found = gradient(torch.zeros(1, 2, 3, dtype=torch.float64), inputs, right, balance=1.0)[0]
    assert found[0].tolist() == pytest.approx([-0.4 * half, 0.4 * half, -0.4])
    assert found[1].tolist() == pytest.approx([0.4 * half, -0.4 * half, 0.4])


@pytest.mark.parametrize("sees", ["mean", "student"])
def test_learning_is_that_of_a_naive_loop(sees: Any):
    """Nesterov's method by autograd, student by student and sample by sample."""
    probs, labels = random_probs(1, 3, 4)
    fusion = Routed(sees=sees, steps=4, balance=0.5).fuse(cohort_of(probs, labels), None)
    probs = probs.double()
    students = probs if sees == "student" else probs.mean(dim=0, keepdim=True)
    said = [probs[:, i, labels[i]] for i in range(4)]
    for round_number, student in enumerate(students):
        logs = student.log()
        seen = [torch.cat([row - row.mean(), torch.ones(1, dtype=torch.float64)]) for row in logs]
        size = 2.0 / (1.5 * (sum(z @ z for z in seen) / 4))
        router, moved = (
            torch.zeros(3, 4, dtype=torch.float64),
            torch.zeros(3, 4, dtype=torch.float64),
        )
        for _ in range(4):
            ahead = (router + 0.9 * moved).requires_grad_()
            gates = [(ahead @ z).softmax(dim=0) for z in seen]
            lost = -sum((g @ p).log() for g, p in zip(gates, said, strict=True)) / 4
            load = sum(gates) / 4
            (by_router,) = torch.autograd.grad(lost + 0.5 * (load @ load - 1 / 3), ahead)
            moved = 0.9 * moved - size * by_router
            router = router + moved
        torch.testing.assert_close(fusion.state["routers"][round_number], router)
        gates = torch.stack([(router @ z).softmax(dim=0) for z in seen])
        expected = torch.einsum("nk,knc->nc", gates, probs).float()
        torch.testing.assert_close(
            fusion.teachers[round_number] if sees == "student" else fusion.teachers, expected
        )
        torch.testing.assert_close(fusion.weights[round_number], gates.mean(dim=0).float())


@pytest.mark.parametrize("sees", ["mean", "student"])
def test_a_router_that_has_not_moved_teaches_the_mean(sees: Any):
    probs, labels = random_probs(2, 4, 6)
    fusion = Routed(sees=sees, steps=1, step=1e-12).fuse(cohort_of(probs, labels), None)
    torch.testing.assert_close(fusion.weights, torch.full((4, 4), 0.25))
    torch.testing.assert_close(fusion.teachers, mean_over_clients(probs).expand_as(fusion.teachers))


@given(seed=st.integers(0, 2**20), balance=st.floats(0, 10), alike=st.booleans())
def test_the_largest_step_does_not_overshoot(seed: int, balance: float, alike: bool):
    """Also where all samples look the same, so that all of the curvature lies along one
    direction."""
    probs, labels = random_probs(seed, 4, 6)
    if alike:
        probs, labels = probs[:, :1].expand(-1, 6, -1), labels[:1].expand(6)
    inputs = router_inputs(probs.double().mean(dim=0, keepdim=True))
    right = probs.double()[:, torch.arange(6), labels]
    start = torch.zeros(1, 4, 4, dtype=torch.float64)

    def objective(router: Tensor) -> float:
        gates = route(router, inputs)
        return (balance * imbalance(gates) - likelihood(gates, right)).item()

    found = objective(Routed(balance=balance).learn(start, inputs, right))
    assert found <= objective(start) + 1e-9


# What it learns.


def test_specialists_are_found_by_what_the_mean_says():
    probs, labels = specialists(3)
    fusion = Routed(sees="mean").fuse(cohort_of(probs, labels), None)
    inputs = router_inputs(probs.double().mean(dim=0, keepdim=True))
    gates = route(fusion.state["routers"], inputs)[0]
    assert (gates.argmax(dim=-1) == labels // 2).all()
    assert gates.max(dim=-1).values.min() > 0.9
    right = fusion.teachers[torch.arange(len(labels)), labels]
    assert right.min() > 0.8  # 0.9 of a specialist; the mean gives 0.3
    assert fusion.metrics["router_likelihood"] > fusion.metrics["mean_likelihood"] + 0.9


def test_a_student_alone_knows_whom_to_ask_only_as_far_as_it_tells_regions_apart():
    """Of two specialists each can: where it is unsure, the other knows. Of three, it can only leave
    itself out."""
    probs, labels = specialists(2)
    gates = gates_of(Routed(sees="student", balance=0.0, steps=500), probs, labels)
    assert (gates.argmax(dim=-1) == (labels // 2).expand(2, -1)).all()
    probs, labels = specialists(3, each=2, sure=0.999)
    gates = gates_of(Routed(sees="student", balance=0.0, steps=2000), probs, labels)
    own = torch.stack([labels // 2 == client for client in range(3)])
    assert gates.diagonal(dim1=0, dim2=2).T[own].min() > 0.8
    elsewhere = gates[0][labels // 2 != 0]
    assert elsewhere[:, 0].max() < 0.1
    torch.testing.assert_close(elsewhere[:, 1], elsewhere[:, 2], rtol=0, atol=1e-6)


def gates_of(strategy: Routed, probs: Tensor, labels: Tensor) -> Tensor:
    return route(
        strategy.fuse(cohort_of(probs, labels), None).state["routers"],
        router_inputs(probs.double()),
    )


def test_labels_that_are_shuffled_teach_the_router_otherwise():
    probs, labels = specialists(3)
    fusion = Routed(sees="mean").fuse(cohort_of(probs, labels.roll(2)), None)
    inputs = router_inputs(probs.double().mean(dim=0, keepdim=True))
    gates = route(fusion.state["routers"], inputs)[0]
    assert (gates.argmax(dim=-1) == labels // 2).float().mean() < 0.5


def test_balance_spreads_the_load_of_a_client_that_is_always_right():
    probs, labels = random_probs(3, 4, 40)
    probs[0] = 0.9 * torch.nn.functional.one_hot(labels, 3) + 0.1 / 3
    loads = [
        Routed(balance=b).fuse(cohort_of(probs, labels), None).weights[0] for b in (0.0, 1.0, 10.0)
    ]
    assert [load.argmax().item() for load in loads] == [0, 0, 0]
    assert loads[0][0] > 0.8 > loads[1][0] > loads[2][0] > 0.25
    assert loads[2][0] < 0.4


# State.


def test_the_router_goes_on_from_where_it_was():
    probs, labels = specialists(3)
    first = Routed(steps=5).fuse(cohort_of(probs, labels), None)
    second = Routed(steps=5).fuse(cohort_of(probs, labels, round_number=2), first.state)
    assert second.metrics["router_likelihood"] > first.metrics["router_likelihood"]


def test_who_is_absent_keeps_its_row_and_who_is_new_starts_at_the_mean_of_the_others():
    probs, labels = specialists(3)
    state = Routed(sees="mean").fuse(cohort_of(probs, labels, (0, 2, 5)), None).state
    assert state["known"].tolist() == [True, False, True, False, False, True]
    still = Routed(sees="mean", steps=1, step=1e-12)
    seen = router_inputs(probs[1:].double().mean(dim=0, keepdim=True))
    after = still.fuse(cohort_of(probs[1:], labels, (2, 5), round_number=2), state).state
    assert torch.equal(after["routers"][:, 0], state["routers"][:, 0])
    whole = route(state["routers"][:, [0, 2, 5]], seen)[..., 1:]
    rest = route(after["routers"][:, [2, 5]], seen)
    torch.testing.assert_close(rest, whole / whole.sum(dim=-1, keepdim=True), rtol=0, atol=1e-6)
    after = still.fuse(cohort_of(probs, labels, (0, 7, 9), round_number=2), state).state
    expected = state["routers"][:, [0, 2, 5]].mean(dim=1, keepdim=True)
    torch.testing.assert_close(
        after["routers"][:, [7, 9]], expected.expand(-1, 2, -1), rtol=0, atol=1e-8
    )
    assert not after["known"][[1, 3, 4, 6, 8]].any()


def test_a_students_router_stays_with_it_and_a_new_student_starts_with_the_mean_of_the_others():
    probs, labels = specialists(3)
    state = Routed(sees="student").fuse(cohort_of(probs, labels, (0, 2, 5)), None).state
    routers = state["routers"]
    still = Routed(sees="student", steps=1, step=1e-12)
    after = still.fuse(cohort_of(probs, labels, (2, 5, 7), round_number=2), state).state["routers"]
    torch.testing.assert_close(after[2][[2, 5]], routers[2][[2, 5]], rtol=0, atol=1e-8)
    assert torch.equal(after[0][:6], routers[0])
    torch.testing.assert_close(after[2, 7], routers[2][[0, 2, 5]].mean(dim=0), rtol=0, atol=1e-8)
    torch.testing.assert_close(after[7, 5], routers[[0, 2, 5], 5].mean(dim=0), rtol=0, atol=1e-8)
    known = routers[[0, 2, 5]][:, [0, 2, 5]]
    torch.testing.assert_close(after[7, 7], known.mean(dim=(0, 1)), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"balance": -1.0}, "balance must be >= 0"),
        ({"steps": 0}, "steps must be >= 1"),
        ({"step": 0.0}, "step must be > 0"),
        ({"step": 3.0}, "step must be <= 2"),
    ],
)
def test_settings_out_of_range_are_errors(changes: dict[str, Any], reason: str):
    with pytest.raises(SettingError, match=reason):
        Routed(**changes)
