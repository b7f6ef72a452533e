"""FedCache's teachers: near samples of one class, whoever has them, by what was last said of
them."""

import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import SettingError
from fedkd.knowledge import PrivateLogitsCohort
from fedkd.knowledge.private_logits import SampleLogits
from fedkd.strategies import fedcache
from fedkd.strategies.fedcache import FedCache, nearest


def upload(
    logits: Any, hashes: list[int] | None = None, labels: list[int] | None = None
) -> SampleLogits:
    """An upload of hashes of eight bits each."""
    return SampleLogits(
        logits=torch.tensor(logits),
        hashes=None if hashes is None else torch.tensor(hashes, dtype=torch.uint8)[:, None],
        labels=None if labels is None else torch.tensor(labels),
    )


def cohort_of(**uploads: SampleLogits) -> PrivateLogitsCohort:
    """A cohort of clients named c0, c1 and so on."""
    ids = tuple(int(name[1:]) for name in uploads)
    return PrivateLogitsCohort(round=1, client_ids=ids, uploads=tuple(uploads.values()))


# Client 0: samples a, b of class 0 and c of class 1. Client 1: samples d of class 0 and e of class
# 2.
FIRST = cohort_of(
    c0=upload([[1.0], [2.0], [3.0]], [0b0000, 0b0111, 0b0001], [0, 0, 1]),
    c1=upload([[4.0], [5.0]], [0b0001, 0b0000], [0, 2]),
)


# Who is near.


@given(
    seed=st.integers(0, 2**20),
    size=st.integers(1, 12),
    count=st.integers(1, 5),
    at_once=st.sampled_from([1, 3, 100]),
)
def test_the_nearest_of_a_class_are_those_of_a_naive_search(
    seed: int, size: int, count: int, at_once: int
):
    stream = torch.Generator().manual_seed(seed)
    hashes = torch.randint(0, 256, (size, 2), generator=stream, dtype=torch.uint8)
    labels = torch.randint(0, 3, (size,), generator=stream)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fedcache, "ROWS_AT_ONCE", at_once)
        found = nearest(hashes, labels, count)
    codes = [int(high) * 256 + int(low) for high, low in hashes]
    for i in range(size):
        others = [j for j in range(size) if j != i and labels[j] == labels[i]]
        expected = sorted(others, key=lambda j: ((codes[i] ^ codes[j]).bit_count(), j))[:count]
        assert found[i].tolist() == expected + [-1] * (count - len(expected))


# What is taught.


def test_a_sample_is_taught_by_its_nearest_of_the_same_class_in_any_client():
    """a and b are nearest to d (1 and 2 bits off), d to a; c and e are alone in their class."""
    fusion = FedCache(neighbors=1, hash_bits=8).fuse(FIRST, None)
    assert fusion.teachers[0]["logits"].tolist() == [[4.0], [4.0], [0.0]]
    assert fusion.teachers[0]["taught"].tolist() == [True, True, False]
    assert fusion.teachers[1]["logits"].tolist() == [[1.0], [0.0]]
    assert fusion.teachers[1]["taught"].tolist() == [True, False]
    assert fusion.weights.tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_many_neighbors_are_the_rest_of_the_class_and_never_the_sample_itself():
    """a learns (b + d) / 2 = 3, b (a + d) / 2 = 2.5, d (a + b) / 2 = 1.5; half of client 0's
    neighbors are its own."""
    fusion = FedCache(hash_bits=8).fuse(FIRST, None)
    assert fusion.teachers[0]["logits"].tolist() == [[3.0], [2.5], [0.0]]
    assert fusion.teachers[1]["logits"].tolist() == [[1.5], [0.0]]
    assert fusion.weights.tolist() == [[0.5, 0.5], [1.0, 0.0]]


def test_a_client_alone_in_the_world_with_one_sample_a_class_teaches_itself_nothing():
    fusion = FedCache(hash_bits=8).fuse(cohort_of(c3=upload([[1.0]], [1], [0])), None)
    assert fusion.weights.tolist() == [[1.0]]
    assert fusion.teachers[3]["taught"].tolist() == [False]


# What is remembered.


def test_absent_clients_teach_what_they_said_last_and_are_taught_by_who_came():
    rule = FedCache(neighbors=1, hash_bits=8)
    state = pickle.loads(pickle.dumps(rule.fuse(FIRST, None).state))
    kept = pickle.loads(pickle.dumps(state))
    fusion = rule.fuse(cohort_of(c0=upload([[10.0], [20.0], [30.0]])), state)
    assert fusion.teachers[0]["logits"].tolist() == [[4.0], [4.0], [0.0]]
    assert fusion.teachers[1]["logits"].tolist() == [[10.0], [0.0]]
    assert fusion.weights.tolist() == [[1.0]]  # of the cohort nobody else teaches client 0
    assert all(torch.equal(state["logits"][i], kept["logits"][i]) for i in (0, 1))


def test_a_client_that_comes_later_is_found_by_those_before():
    """Its sample has the hash of b, 2 bits nearer to it than d."""
    rule = FedCache(neighbors=1, hash_bits=8)
    state = rule.fuse(FIRST, None).state
    late = cohort_of(c0=upload([[1.0], [2.0], [3.0]]), c7=upload([[9.0]], [0b0111], [0]))
    fusion = rule.fuse(late, state)
    assert fusion.teachers[0]["logits"].tolist() == [[4.0], [9.0], [0.0]]
    assert fusion.teachers[7]["logits"].tolist() == [[2.0]]
    assert fusion.weights.tolist() == [[0.0, 1.0], [1.0, 0.0]]


# In a run.


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"neighbors": 0}, "neighbors must be >= 1"),
        ({"cache_weight": 0.0}, "cache_weight must be > 0"),
        ({"hash_bits": 0}, "hash_bits must be >= 8"),
        ({"hash_bits": 12}, "hash_bits must be a multiple of 8, got 12"),
    ],
)
def test_settings_out_of_range_are_errors(changes: dict[str, Any], reason: str):
    with pytest.raises(SettingError, match=reason):
        FedCache(**changes)
