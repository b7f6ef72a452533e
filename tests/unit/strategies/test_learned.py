"""The learned aggregator: its block and its training against naive versions, its laws, and clients
it never met."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.fusion import mean_over_clients
from fedkd.messages import Cohort
from fedkd.strategies.learned import (
    HEADS,
    WIDTH,
    Learned,
    initial_weights,
    likelihood,
    masked_client,
    shares_of,
)


def cohort_of(
    probs: Tensor, labels: Tensor, client_ids: tuple[int, ...] | None = None, round_number: int = 1
) -> Cohort:
    """From probs [K, N, C]."""
    return Cohort(
        round=round_number,
        client_ids=client_ids or tuple(range(len(probs))),
        public_ids=torch.arange(probs.shape[1]),
        values=probs,
        scale="probs",
        public_labels=labels,
    )


def random_probs(seed: int, clients: int, samples: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(clients, samples, classes, generator=stream)
    return logits.softmax(dim=-1), torch.randint(classes, (samples,), generator=stream)


def random_weights(seed: int) -> dict[str, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return {
        n: t + 0.5 * torch.randn(t.shape, generator=stream, dtype=t.dtype)
        for n, t in initial_weights().items()
    }


def skewed(seed: int, clients: int, samples: int = 120, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Clients that know two classes each: right and sure on those, and elsewhere guessing, mostly
    one of the two."""
    stream = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % classes
    logits = torch.randn(clients, samples, classes, generator=stream)
    for client in range(clients):
        own = torch.randperm(classes, generator=stream)[:2]
        logits[client, :, own] += 2.0
        known = torch.isin(labels, own)
        logits[client, known, labels[known]] += 3.0
    return logits.softmax(dim=-1), labels


def everybody(probs: Tensor) -> Tensor:
    return torch.ones(probs.shape[:2], dtype=torch.bool)


# The block.


def normalized(vector: Tensor) -> Tensor:
    centred = vector - vector.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt()


def naive_tokens(probs: Tensor, sample: int, here: list[int]) -> list[Tensor]:
    """The features of the clients ``here``, one number at a time."""
    samples, _, classes = probs.shape
    mean = sum(probs[sample, k] for k in here) / len(here)
    found = []
    for k in here:
        p = probs[sample, k].tolist()
        largest = sorted(p)[::-1]
        usual = [
            sum(probs[n, k, c].item() for n in range(samples)) / samples for c in range(classes)
        ]

        def entropy(n: int, k: int = k) -> float:
            return -sum(q * math.log(q) for q in probs[n, k].tolist()) / math.log(classes)

        found.append([
            largest[0],
            largest[0] - largest[1],
            entropy(sample),
            sum(entropy(n) for n in range(samples)) / samples,
            sum(a * b for a, b in zip(p, mean.tolist(), strict=True)),
            sum(a * math.log(a / b) for a, b in zip(p, usual, strict=True)),
        ])  # fmt: skip
    return [torch.tensor(row, dtype=torch.float64) for row in found]


def naive_shares(weights: dict[str, Tensor], probs: Tensor, sample: int, here: list[int]) -> Tensor:
    """One transformer block over the clients ``here``, token by token and head by head."""
    size = WIDTH // HEADS
    hidden = [
        row @ weights["embed"] + weights["embed_bias"] for row in naive_tokens(probs, sample, here)
    ]
    parts = [normalized(h) @ weights["attend"] for h in hidden]
    after = []
    for i, h in enumerate(hidden):
        heads = []
        for head in range(HEADS):
            cut = slice(head * size, (head + 1) * size)
            query = parts[i][:WIDTH][cut]
            scores = torch.stack([
                query @ part[WIDTH : 2 * WIDTH][cut] / math.sqrt(size)
                + weights["alike"][head] * (probs[sample, here[i]] @ probs[sample, here[j]])
                for j, part in enumerate(parts)
            ])  # fmt: skip
            attention = scores.softmax(dim=0)
            heads.append(
                sum(a * part[2 * WIDTH :][cut] for a, part in zip(attention, parts, strict=True))
            )
        h = h + torch.cat(heads) @ weights["merge"]
        after.append(
            h
            + torch.relu(normalized(h) @ weights["widen"] + weights["widen_bias"])
            @ weights["narrow"]
        )
    return torch.stack([normalized(h) @ weights["score"] for h in after]).softmax(dim=0)


def test_the_block_is_that_of_a_naive_loop_over_tokens_and_heads():
    weights = random_weights(0)
    probs = random_probs(1, 4, 3)[0].double().transpose(0, 1)
    present = torch.tensor([[True] * 4, [True, False, True, True], [False, True, True, True]])
    found = shares_of(weights, probs, present)
    for sample in range(3):
        here = present[sample].nonzero().flatten().tolist()
        expected = torch.zeros(4, dtype=torch.float64)
        expected[here] = naive_shares(weights, probs, sample, here)
        torch.testing.assert_close(found[sample], expected, rtol=1e-9, atol=1e-12)


@given(seed=st.integers(0, 2**20), clients=st.integers(2, 6), other=st.integers(0, 2**20))
def test_a_masked_client_changes_no_bit(seed: int, clients: int, other: int):
    """Whatever it says of this sample and of all others."""
    weights, probs = (
        random_weights(seed),
        random_probs(seed, clients, 3)[0].double().transpose(0, 1),
    )
    masked = seed % clients
    present = everybody(probs)
    present[0, masked] = False
    before = shares_of(weights, probs, present)[0]
    changed = probs.clone()
    changed[:, masked] = random_probs(other + 1, 1, 3)[0].double()[0]
    assert torch.equal(shares_of(weights, changed, present)[0], before)
    assert before[masked] == 0
    if clients > 2:
        assert not torch.equal(
            shares_of(weights, changed, everybody(probs))[0],
            shares_of(weights, probs, everybody(probs))[0],
        )


@given(seed=st.integers(0, 2**20), clients=st.integers(1, 6), samples=st.integers(1, 4))
def test_permuting_clients_samples_and_classes_permutes_shares(
    seed: int, clients: int, samples: int
):
    weights, probs = (
        random_weights(seed),
        random_probs(seed, clients, samples)[0].double().transpose(0, 1),
    )
    stream = torch.Generator().manual_seed(seed)
    present = everybody(probs)
    present[:, torch.randint(clients, (1,), generator=stream)] = clients == 1
    orders = [torch.randperm(n, generator=stream) for n in probs.shape]
    found = shares_of(
        weights, probs[orders[0]][:, orders[1]][..., orders[2]], present[orders[0]][:, orders[1]]
    )
    expected = shares_of(weights, probs, present)
    torch.testing.assert_close(found, expected[orders[0]][:, orders[1]], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(expected.sum(dim=1), torch.ones(samples, dtype=torch.float64))


def test_an_untrained_aggregator_is_the_mean():
    probs, labels = random_probs(0, 5, 6)
    fusion = Learned(steps=1, learning_rate=1e-12).fuse(cohort_of(probs, labels), None)
    torch.testing.assert_close(fusion.teachers, mean_over_clients(probs))
    torch.testing.assert_close(fusion.weights, torch.full((5, 5), 0.2))
    assert fusion.metrics["aggregator_likelihood"] == pytest.approx(
        fusion.metrics["mean_likelihood"]
    )


# Training.


@pytest.mark.parametrize("client_ids", [(0, 1, 2, 3), (5, 2, 9, 7)])
def test_every_client_is_masked_once_in_as_many_turns_as_there_are_clients(
    client_ids: tuple[int, ...],
):
    turns = torch.stack(
        [masked_client(torch.tensor([3, 4, 11]), client_ids, turn) for turn in range(4)]
    )
    assert (turns.sort(dim=0).values == torch.arange(4)[:, None]).all()
    by_id = torch.tensor(client_ids)[turns]
    same = masked_client(torch.tensor([3, 4, 11]), tuple(sorted(client_ids)), 0)
    assert torch.equal(by_id[0], torch.tensor(sorted(client_ids))[same])


def test_training_is_that_of_a_naive_loop_over_single_samples():
    """Two rounds of two steps: Adam on the mean over samples, each without the client whose turn it
    is."""
    probs, labels = random_probs(2, 4, 3)
    strategy = Learned(steps=2, learning_rate=0.1)
    first = strategy.fuse(cohort_of(probs, labels), None)
    second = strategy.fuse(cohort_of(probs, labels, round_number=2), first.state)
    by_sample = probs.double().transpose(0, 1)
    weights = {name: tensor.clone().requires_grad_() for name, tensor in initial_weights().items()}
    for turn in range(4):
        if turn % 2 == 0:  # moments start afresh with each round
            optimizer = torch.optim.Adam(weights.values(), lr=0.1)
        lost = torch.zeros((), dtype=torch.float64)
        for sample in range(3):
            here = [k for k in range(4) if k != (sample + turn) % 4]
            shares = naive_shares(weights, by_sample, sample, here)
            lost = (
                lost
                - sum(
                    s * by_sample[sample, k, labels[sample]]
                    for s, k in zip(shares, here, strict=True)
                ).log()
            )
        optimizer.zero_grad()
        (lost / 3).backward()
        optimizer.step()
    for name, tensor in weights.items():
        torch.testing.assert_close(second.state[name], tensor.detach(), rtol=1e-6, atol=1e-8)
    shares = torch.stack(
        [naive_shares(weights, by_sample, n, [0, 1, 2, 3]) for n in range(3)]
    ).detach()
    expected = torch.einsum("nk,nkc->nc", shares, by_sample).float()
    torch.testing.assert_close(second.teachers, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        second.weights, shares.mean(dim=0).float().expand(4, 4), rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_clients_that_it_never_met_are_fused_better_than_by_the_mean():
    """Eight clients teach it; eight others, who know other classes, are fused. Moved labels teach
    nothing of that."""
    strategy, state, misled = Learned(), None, None
    probs, labels = skewed(0, 8)
    for round_number in range(1, 5):
        state = strategy.fuse(cohort_of(probs, labels, round_number=round_number), state).state
        misled = strategy.fuse(
            cohort_of(probs, labels.roll(1), round_number=round_number), misled
        ).state
    unseen, truth = skewed(1, 8)
    by_sample = unseen.double().transpose(0, 1)

    def figures(shares: Tensor) -> tuple[float, float]:
        teacher = torch.einsum("nk,nkc->nc", shares, by_sample)
        return (teacher.argmax(dim=-1) == truth).double().mean().item(), likelihood(
            shares, by_sample, truth
        ).item()

    uniform = figures(torch.full((len(truth), 8), 1 / 8, dtype=torch.float64))
    learned, wrong = (
        figures(shares_of(s, by_sample, everybody(by_sample))) for s in (state, misled)
    )
    assert learned[0] > uniform[0] + 0.05
    assert learned[1] > uniform[1] + 0.3
    assert wrong[1] < learned[1] - 0.3


@pytest.mark.parametrize("clients", [1, 2])
def test_with_fewer_than_three_clients_it_does_not_learn(clients: int):
    probs, labels = random_probs(3, clients, 5)
    weights = random_weights(1)
    fusion = Learned().fuse(cohort_of(probs, labels), weights)
    assert all(torch.equal(fusion.state[name], tensor) for name, tensor in weights.items())


def test_what_was_learned_goes_for_any_clients_of_the_next_round():
    probs, labels = skewed(2, 6)
    state = Learned().fuse(cohort_of(probs, labels, (0, 1, 2, 3, 4, 5)), None).state
    still = Learned(steps=1, learning_rate=1e-12)
    fusion = still.fuse(cohort_of(probs[[1, 4, 5]], labels, (1, 7, 9), round_number=2), state)
    shares = shares_of(
        state,
        probs[[1, 4, 5]].double().transpose(0, 1),
        torch.ones(len(labels), 3, dtype=torch.bool),
    )
    torch.testing.assert_close(fusion.weights[0], shares.mean(dim=0).float())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": 0}, "steps must be >= 1"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"learning_rate": 2.0}, "learning_rate must be <= 1"),
    ],
)
def test_settings_out_of_range_are_errors(changes: dict[str, Any], reason: str):
    with pytest.raises(SettingError, match=reason):
        Learned(**changes)
