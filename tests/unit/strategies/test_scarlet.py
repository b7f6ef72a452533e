"""SCARLET by hand, against a cache in a dictionary, and by the bytes of runs."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.codecs import Cached, Full
from fedkd.errors import SettingError
from fedkd.messages import Cohort
from fedkd.strategies.scarlet import Scarlet, sharpen
from fedkd.strategy import SelectsQueries


def soft(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).softmax(dim=-1)


def entropy(probs: Tensor) -> Tensor:
    return -torch.xlogy(probs, probs).sum(dim=-1)


# Enhanced entropy reduction.


def test_sharpening_by_hand():
    """(0.8, 0.2)^2 = (0.64, 0.04), divided by 0.68: 16/17 and 1/17. To the 1/2: 2 to 1, which is
    2/3 and 1/3."""
    probs = torch.tensor([[0.8, 0.2]])
    torch.testing.assert_close(sharpen(probs, 2.0), torch.tensor([[16 / 17, 1 / 17]]))
    torch.testing.assert_close(sharpen(probs, 0.5), torch.tensor([[2 / 3, 1 / 3]]))
    assert torch.equal(sharpen(probs, 1.0), probs)


@given(seed=st.integers(0, 2**20), beta=st.floats(0.1, 100), classes=st.integers(2, 6))
def test_sharpening_keeps_the_order_of_classes_and_gives_soft_labels(
    seed: int, beta: float, classes: int
):
    probs = soft(seed, 5, classes)
    found = sharpen(probs, beta)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(5))
    assert (found.gather(-1, probs.argsort(dim=-1)).diff(dim=-1) >= 0).all()
    change = entropy(found) - entropy(probs)
    assert ((change <= 1e-5) if beta >= 1 else (change >= -1e-5)).all()


def test_a_class_that_nobody_believes_in_stays_impossible():
    certain = torch.tensor([[1.0, 0.0, 0.0], [1e-30, 1.0, 0.0]])
    for beta in (0.5, 1.5, 100.0):
        found = sharpen(certain, beta)
        assert torch.isfinite(found).all()
        assert (found[:, 2] == 0).all()


# The cache, against a dictionary.


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, float, list[tuple[int, list[int], int]]]:
    """A duration, a beta, and rounds: their number (some are left out), their samples, and how many
    clients."""
    rounds, round_number = [], 0
    for _ in range(draw(st.integers(1, 8))):
        round_number += draw(st.integers(1, 2))
        ids = draw(st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True))
        rounds.append((round_number, ids, draw(st.integers(1, 3))))
    return draw(st.integers(1, 4)), draw(st.sampled_from([1.0, 1.5, 2.0])), rounds


@given(history=histories(), seed=st.integers(0, 2**20))
def test_rounds_are_those_of_a_cache_in_a_dictionary(history: Any, seed: int):
    duration, beta, rounds = history
    strategy, state = Scarlet(duration=duration, beta=beta), None
    cache: dict[int, tuple[int, list[float]]] = {}
    for round_number, ids, clients in rounds:
        asked = [i for i in ids if i not in cache or round_number - cache[i][0] >= duration]
        found = strategy.select_queries(round_number, torch.tensor(ids), state)
        assert found.tolist() == asked
        uploads = soft(seed + round_number, clients, len(asked), 3)
        for row, i in enumerate(asked):
            mean = [
                sum(uploads[j, row, c].item() for j in range(clients)) / clients for c in range(3)
            ]
            powers = [p**beta for p in mean]
            cache[i] = (round_number, [p / sum(powers) for p in powers])
        cohort = Cohort(
            round=round_number,
            client_ids=tuple(range(clients)),
            public_ids=found,
            values=uploads,
            scale="probs",
            round_ids=torch.tensor(ids),
        )
        fusion = strategy.fuse(cohort, state)
        assert fusion.public_ids.tolist() == ids
        torch.testing.assert_close(
            fusion.teachers, torch.tensor([cache[i][1] for i in ids]), rtol=0, atol=1e-5
        )
        torch.testing.assert_close(fusion.weights, torch.full((clients, clients), 1 / clients))
        assert fusion.metrics == {"asked": float(len(asked))}
        state = fusion.state
        assert state["ids"].tolist() == sorted(cache)
        assert state["rounds"].tolist() == [cache[i][0] for i in sorted(cache)]


def test_an_answer_serves_for_so_many_rounds_the_one_that_brought_it_included():
    strategy, ids = Scarlet(duration=3), torch.arange(2)
    assert isinstance(strategy, SelectsQueries)
    state = {
        "ids": torch.tensor([0]),
        "probs": torch.tensor([[0.5, 0.5]]),
        "rounds": torch.tensor([4]),
    }
    assert [
        strategy.select_queries(round_number, ids, state).tolist() for round_number in (5, 6, 7)
    ] == [
        [1],
        [1],
        [0, 1],
    ]
    assert strategy.select_queries(1, ids, None) is ids


def test_a_duration_of_one_round_asks_for_everything_in_every_round():
    state = {"ids": torch.arange(3), "probs": soft(0, 3, 2), "rounds": torch.full((3,), 4)}
    assert Scarlet(duration=1).select_queries(5, torch.arange(3), state).tolist() == [0, 1, 2]
    assert Scarlet(duration=1).codec == (Full(), Full())
    assert Scarlet(duration=2).codec == (Full(), Cached(duration=2))


# Runs.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "beta must be > 0"),
        ({"beta": 101.0}, "beta must be <= 100"),
        ({"beta": math.nan}, "beta must be a finite number"),
        ({"duration": 0}, "duration must be >= 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        Scarlet(**settings)
