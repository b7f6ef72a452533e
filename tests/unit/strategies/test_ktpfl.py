"""KT-pFL: its step against a naive one, golden steps, that weights settle, and absence."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.fusion import mix
from fedkd.messages import Cohort
from fedkd.strategies.ktpfl import KTpFL


def cohort_of(
    logits: Tensor, client_ids: tuple[int, ...] | None = None, temperature: float = 1.0
) -> Cohort:
    return Cohort(
        round=1,
        client_ids=client_ids or tuple(range(len(logits))),
        public_ids=torch.arange(logits.shape[1]),
        values=logits,
        temperature=temperature,
    )


def random_logits(seed: int, clients: int, samples: int = 4, classes: int = 3) -> Tensor:
    return 2 * torch.randn(clients, samples, classes, generator=torch.Generator().manual_seed(seed))


OPPOSITE = torch.tensor([[[100.0, 0.0]], [[0.0, 100.0]]])
"""Two clients that are certain of two classes: soft labels (1, 0) and (0, 1)."""


def test_a_bounded_step_by_hand():
    """K = 2, rho 0.7, from W_0 = (1/2, 1/2).

    p_0 - W_0 p = (1/2, -1/2), with a mean over N C = 2 entries: the gradient is -2 (1/2, -1/2) / 2
    = (-1/2, 1/2). The curvature along (1, -1) is 2 * 1 / 2 + 2 * 0.7 / 2 = 1.7, so that
    W_0 - g / 1.7 = (0.79411765, 0.20588235), the minimum, and the softmax at five times gives
    1 / (1 + e^-2.94117647) = 0.94984480. The next step ends in the same minimum: weights stay.
    """
    strategy, state = KTpFL(), None
    for _ in range(3):
        fusion = strategy.fuse(cohort_of(OPPOSITE), state)
        expected = torch.tensor([[0.94984480, 0.05015520], [0.05015520, 0.94984480]])
        torch.testing.assert_close(fusion.weights, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(fusion.teachers[:, 0], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(fusion.state, expected, rtol=0, atol=1e-6)
        state = fusion.state


def test_two_searched_steps_by_hand():
    """The same gradient (-1/2, 1/2): 0.5 is divided by 5 twice, to 0.02, so that the step is 0.04.

    W_0 - 0.04 g = (0.52, 0.48), and 1 / (1 + e^-0.2) = 0.54983400. Then g = -0.45016600 + 0.7 *
    0.04983400 = -0.41528220, the step again 0.04: 0.56644529, and 1 / (1 + e^-0.66445285) =
    0.66025995.
    """
    strategy, state = KTpFL(step="searched"), None
    for own in (0.54983400, 0.66025995):
        state = strategy.fuse(cohort_of(OPPOSITE), state).state
        torch.testing.assert_close(
            state, torch.tensor([[own, 1 - own], [1 - own, own]]), rtol=0, atol=1e-6
        )


def naive_loss(row: Tensor, i: int, probs: Tensor, rho: float) -> Tensor:
    """Client i's loss of its row of W: two means of squares, written out."""
    clients = len(probs)
    teacher = sum((row[j] * probs[j] for j in range(clients)), torch.zeros_like(probs[0]))
    return ((probs[i] - teacher) ** 2).mean() + rho * ((row - 1 / clients) ** 2).mean()


def naive_step(gradient: Tensor) -> float:
    """The search of the released code on one row, with plain floats."""
    size, step = gradient.abs().sum().item() / len(gradient), 1.0
    for _ in range(5):
        if size > 0.01:
            size, step = size / 5, step / 5
        if size < 0.01:
            size, step = size * 5, step * 5
    return step


def naive_curvature(i: int, probs: Tensor, rho: float) -> float:
    """The largest second derivative of the loss along a direction of length 1 that sums to 0."""
    clients = len(probs)
    hessian = torch.autograd.functional.hessian(
        lambda row: naive_loss(row, i, probs, rho), torch.full((clients,), 1 / clients).double()
    )
    center = torch.eye(clients, dtype=torch.float64) - 1 / clients
    return torch.linalg.eigvalsh(center @ hessian @ center)[-1].item()


@pytest.mark.parametrize("step", ["searched", "bounded"])
@given(
    seed=st.integers(0, 2**20),
    clients=st.integers(2, 5),
    rho=st.floats(0.1, 2),
    sharpness=st.floats(0.5, 10),
)
def test_a_step_equals_a_naive_one_by_loops_and_autograd(
    step: Any, seed: int, clients: int, rho: float, sharpness: float
):
    probs = random_logits(seed, clients).softmax(dim=-1)
    start = random_logits(seed + 1, clients, 1, clients)[:, 0].softmax(dim=-1)
    rows = []
    for i in range(clients):
        row = start[i].double().requires_grad_()
        (gradient,) = torch.autograd.grad(naive_loss(row, i, probs.double(), rho), row)
        if step == "searched":
            size = naive_step(gradient)
        else:
            size = 1 / naive_curvature(i, probs.double(), rho)
        rows.append(torch.softmax(sharpness * (row.detach() - size * gradient), dim=0))
    found = KTpFL(rho=rho, step=step, sharpness=sharpness).learn(start, probs)
    torch.testing.assert_close(found, torch.stack(rows).float(), rtol=0, atol=1e-4)


@given(seed=st.integers(0, 2**20), clients=st.integers(2, 6), rho=st.floats(0, 2))
def test_bounded_steps_on_equal_uploads_all_lower_one_function(seed: int, clients: int, rho: float):
    """``sum W ln W / sharpness - |W|^2 / 2 + s L(W)``: what falls in every round comes back to
    nothing that it was, so that weights cannot swing."""
    probs = random_logits(seed, clients).softmax(dim=-1).double()
    weights = random_logits(seed + 1, clients, 1, clients)[:, 0].softmax(dim=-1).double()
    strategy = KTpFL(rho=rho)
    for i in range(clients):
        size = 1 / max(naive_curvature(i, probs, rho), 1e-9)

        def energy(row: Tensor, i: int = i, size: float = size) -> float:
            entropy = torch.xlogy(row, row).sum() / strategy.sharpness
            return (entropy - row.square().sum() / 2 + size * naive_loss(row, i, probs, rho)).item()

        rows, values = weights, [energy(weights[i])]
        for _ in range(6):
            rows = strategy.learn(rows, probs)
            values.append(energy(rows[i]))
        assert all(after <= before + 1e-9 for before, after in itertools.pairwise(values))


def two_groups(each: int = 5) -> Tensor:
    """Logits of clients that know digits 0 to 4, and of as many that know 5 to 9."""
    stream = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (100,), generator=stream)
    logits = 0.5 * torch.randn(2 * each, 100, 10, generator=stream)
    for client in range(2 * each):
        known = torch.arange(10) // 5 == client // each
        own = known[labels]
        logits[client, own, labels[own]] += 5.0
        logits[client, ~own] += 2.5 * known
    return logits


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.62), (10.0, 0.503)])
def test_effective_neighbors_settle_on_two_groups(temperature: float, share: float):
    """Each client's own group gets the larger share, and weights stay there.

    At T = 10 soft labels are nearly alike, and the pull towards equal weights leaves little more
    than a half.
    """
    cohort, strategy, state, trace = cohort_of(two_groups(), None, temperature), KTpFL(), None, []
    for _ in range(30):
        state = strategy.fuse(cohort, state).state
        trace.append(state)
    own = torch.block_diag(torch.ones(5, 5), torch.ones(5, 5))
    assert ((trace[-1] * own).sum(dim=1) > share).all()
    neighbors = [(1 / w.square().sum(dim=1)).mean().item() for w in trace]
    assert max(neighbors[10:]) - min(neighbors[10:]) < 0.01
    torch.testing.assert_close(trace[-1], trace[-2], rtol=0, atol=1e-5)


def test_searched_steps_may_swing_for_ever():
    """The reason why they are not the default: the same two groups at T = 10."""
    cohort, strategy, state = cohort_of(two_groups(), None, 10.0), KTpFL(step="searched"), None
    shares = []
    for _ in range(40):
        state = strategy.fuse(cohort, state).state
        shares.append(state[0, :5].sum().item())
    assert max(shares[20:]) - min(shares[20:]) > 0.05


@given(seed=st.integers(0, 2**20), clients=st.integers(1, 6), rho=st.sampled_from([0.0, 0.7]))
def test_clients_that_are_alike_keep_equal_weights(seed: int, clients: int, rho: float):
    """However often: where p_i is the mean of all there is nothing to gain."""
    strategy, state = KTpFL(rho=rho), None
    cohort = cohort_of(random_logits(seed, 1).expand(clients, -1, -1).contiguous())
    for _ in range(3):
        fusion = strategy.fuse(cohort, state)
        torch.testing.assert_close(fusion.weights, torch.full((clients, clients), 1 / clients))
        state = fusion.state


def test_teachers_are_mixtures_of_soft_labels_at_the_distillation_temperature():
    cohort = cohort_of(random_logits(0, 3), temperature=10.0)
    fusion = KTpFL().fuse(cohort, None)
    torch.testing.assert_close(
        fusion.teachers, mix(fusion.weights, torch.softmax(cohort.values / 10, dim=-1))
    )


# Absence.


@given(
    seed=st.integers(0, 2**20),
    rounds=st.lists(st.sets(st.integers(0, 5), min_size=1), min_size=1, max_size=5),
)
def test_rows_of_all_weights_sum_to_one_whoever_takes_part(seed: int, rounds: list[set[int]]):
    strategy, state = KTpFL(), None
    for round_number, present in enumerate(rounds):
        ids = tuple(sorted(present))
        fusion = strategy.fuse(cohort_of(random_logits(seed + round_number, len(ids)), ids), state)
        known = max(max(ids) + 1, 0 if state is None else len(state))
        assert fusion.state.shape == (known, known)
        for rows in (fusion.state, fusion.weights):
            torch.testing.assert_close(rows.sum(dim=1), torch.ones(len(rows)))
        if state is not None:
            gone = [i for i in range(len(state)) if i not in ids]
            before = state * len(state) / known  # new clients take their part of everybody
            torch.testing.assert_close(fusion.state[gone][:, : len(state)], before[gone])
            torch.testing.assert_close(fusion.state[: len(state), gone], before[:, gone])
        state = fusion.state


def test_the_weights_of_absent_clients_stay():
    whole = random_logits(0, 4, 1, 4)[:, 0].softmax(dim=-1)
    before = whole.clone()
    fusion = KTpFL().fuse(cohort_of(random_logits(1, 2), (1, 3)), whole)
    assert torch.equal(whole, before)
    here = before[[1, 3]][:, [1, 3]]
    expected = KTpFL().learn(
        here / here.sum(dim=1, keepdim=True), random_logits(1, 2).softmax(dim=-1)
    )
    torch.testing.assert_close(fusion.weights, expected)
    assert torch.equal(fusion.state[[0, 2]], before[[0, 2]])
    assert torch.equal(fusion.state[[1, 3]][:, [0, 2]], before[[1, 3]][:, [0, 2]])
    torch.testing.assert_close(
        fusion.state[[1, 3]][:, [1, 3]], expected * here.sum(dim=1, keepdim=True)
    )


def test_who_only_listened_to_absent_clients_begins_anew_with_those_present():
    """At a large sharpness weights become exactly 0; among those present there is then nothing to
    scale."""
    whole = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    fusion = KTpFL(sharpness=1000.0).fuse(cohort_of(random_logits(0, 2), (0, 1)), whole)
    expected = KTpFL(sharpness=1000.0).fuse(cohort_of(random_logits(0, 2)), None).weights
    torch.testing.assert_close(fusion.weights, expected)
    assert torch.equal(fusion.state, whole)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rho": -0.1}, "rho must be >= 0"),
        ({"step": "fixed"}, "step must be one of bounded, searched"),
        ({"sharpness": 0.0}, "sharpness must be > 0"),
        ({"sharpness": 1e30}, "sharpness must be <="),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        KTpFL(**settings)
