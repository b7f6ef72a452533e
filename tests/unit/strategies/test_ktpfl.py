"""KT-pFL: its gradient against autograd, two golden steps, and what absence leaves alone."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.fusion import mix
from fedkd.messages import Cohort
from strategies.ktpfl import KTpFL


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


def test_two_steps_by_hand():
    """K = 2, step 0.1, rho 0.7, from W_0 = (1/2, 1/2).

    p_0 - W_0 p = (1/2, -1/2): the gradient is -2 (1/2, -1/2) = (-1, 1), and W_0 - 0.1 g = (0.6,
    0.4). Then softmax(3, 2) = 1 / (1 + e^-1) = 0.73105858 for the first. Now p_0 - W_0 p =
    (0.26894142, -0.26894142), and g = -0.53788284 + 1.4 * 0.23105858 = -0.21440083 for the first:
    0.75249866 and 0.24750134, whose softmax at five times is 1 / (1 + e^-2.52498662) = 0.92587502.
    """
    strategy, state = KTpFL(step=0.1), None
    for own in (0.73105858, 0.92587502):
        fusion = strategy.fuse(cohort_of(OPPOSITE), state)
        expected = torch.tensor([[own, 1 - own], [1 - own, own]])
        torch.testing.assert_close(fusion.weights, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(fusion.teachers[:, 0], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(fusion.state, expected, rtol=0, atol=1e-6)
        state = fusion.state


@given(
    seed=st.integers(0, 2**20),
    clients=st.integers(1, 5),
    rho=st.floats(0, 0.9),
    step=st.floats(0.01, 1),
    sharpness=st.floats(0.5, 10),
)
def test_the_step_is_along_the_gradient_of_the_loss(
    seed: int, clients: int, rho: float, step: float, sharpness: float
):
    """``mean_x |p_i - sum_j W_ij p_j|^2 + rho |W_i - 1/K|^2``, summed over i, by loops and
    autograd."""
    probs = random_logits(seed, clients).softmax(dim=-1)
    start = random_logits(seed + 1, clients, 1, clients)[:, 0].softmax(dim=-1)
    weights = start.double().requires_grad_()
    loss = torch.zeros((), dtype=torch.float64)
    for i in range(clients):
        teacher = sum(weights[i, j] * probs[j].double() for j in range(clients))
        loss = loss + ((probs[i].double() - teacher) ** 2).sum(dim=-1).mean()
        loss = loss + rho * ((weights[i] - 1 / clients) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    expected = torch.softmax(sharpness * (start.double() - step * gradient), dim=1)
    found = KTpFL(rho=rho, step=step, sharpness=sharpness).learn(start, probs)
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-5)


@given(seed=st.integers(0, 2**20), clients=st.integers(1, 6), rho=st.sampled_from([0.0, 0.7]))
def test_clients_that_are_alike_keep_equal_weights(seed: int, clients: int, rho: float):
    """However often: where p_i is the mean of all there is nothing to gain."""
    strategy, state = KTpFL(rho=rho), None
    cohort = cohort_of(random_logits(seed, 1).expand(clients, -1, -1).contiguous())
    for _ in range(3):
        fusion = strategy.fuse(cohort, state)
        torch.testing.assert_close(fusion.weights, torch.full((clients, clients), 1 / clients))
        state = fusion.state


@given(seed=st.integers(0, 2**20))
def test_at_half_the_pull_a_round_starts_from_equal_weights_anew(seed: int):
    """rho * step = 1/2 takes W all the way back to 1/K, so that only the data term of W counts."""
    probs = random_logits(seed, 3).softmax(dim=-1)
    first, second = (random_logits(s, 3, 1, 3)[:, 0].softmax(dim=-1) for s in (seed + 1, seed + 2))
    strategy = KTpFL(rho=0.5, step=1.0)
    flat = probs.flatten(1)
    for weights in (first, second):
        data = 2 * (flat - weights @ flat) @ flat.T / 4
        torch.testing.assert_close(
            strategy.learn(weights, probs), torch.softmax(5 * (1 / 3 + data), dim=1)
        )


def test_weights_learn_who_is_alike():
    """Two and two clients agree: after a few rounds each listens to its pair, and hardly to the
    others."""
    logits = torch.cat([OPPOSITE[:1], OPPOSITE[:1], OPPOSITE[1:], OPPOSITE[1:]])
    strategy, state = KTpFL(), None
    for _ in range(5):
        fusion = strategy.fuse(cohort_of(logits), state)
        state = fusion.state
    pairs = torch.block_diag(torch.full((2, 2), 0.5), torch.full((2, 2), 0.5))
    torch.testing.assert_close(fusion.weights, pairs, rtol=0, atol=0.05)


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
        ({"step": 0.0}, "step must be > 0"),
        ({"step": 1e30}, "step must be <="),
        ({"sharpness": 0.0}, "sharpness must be > 0"),
        ({"sharpness": 1e30}, "sharpness must be <="),
        ({"rho": 1.0}, r"rho=1.0 with step=1.0 .* beyond .* rho \* step below 1"),
        ({"step": 2.0}, r"rho=0.7 with step=2.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        KTpFL(**settings)
