"""Streams by name: equal where the names are, different elsewhere, and no global generator is
touched."""

import hashlib
import itertools

import numpy as np
import pytest
import torch

from fedkd.runtime.seeding import derive, numpy_stream, torch_seed, torch_stream

DIFFERENT_PATHS = [
    (),
    ("a", 1),
    ("a1",),
    ("a", "1"),
    ("a,1",),
    (1, "a"),
    ("a", 1, 1),
    ("a", 11),
    ('a",1',),
    ("a", -1),
    ("A", 1),
    ("ä", 1),
    ("", "a", 1),
]


def test_a_derived_number_is_the_hash_of_its_path():
    """By hand with hashlib: the first 128 bits of BLAKE2b over the path as compact JSON, read from
    the left."""
    digest = hashlib.blake2b(b'[7,"client",3,"round",12,"batches"]', digest_size=16).hexdigest()
    assert derive(7, "client", 3, "round", 12, "batches") == int(digest, 16)


def test_equal_paths_give_equal_streams():
    path = ("client", 3, "round", 7, "batches")
    assert derive(5, *path) == derive(5, *path)
    assert torch_seed(5, *path) == torch_seed(5, *path)
    assert np.array_equal(numpy_stream(5, *path).random(100), numpy_stream(5, *path).random(100))
    draws = [torch.rand(100, generator=torch_stream(5, *path)) for _ in range(2)]
    assert torch.equal(*draws)


@pytest.mark.parametrize(("one", "other"), itertools.combinations(DIFFERENT_PATHS, 2))
def test_different_paths_give_different_streams(one: tuple, other: tuple):
    assert derive(0, *one) != derive(0, *other)
    assert not np.array_equal(numpy_stream(0, *one).random(4), numpy_stream(0, *other).random(4))
    assert not torch.equal(
        *(torch.rand(4, generator=torch_stream(0, *path)) for path in (one, other))
    )


def test_different_seeds_give_different_streams():
    assert len({derive(seed, "client", 0) for seed in range(100)}) == 100


def test_a_seed_and_a_client_never_stand_for_another_pair():
    """Under seed + client_id, seed 0 with client 1 would be seed 1 with client 0."""
    pairs = list(itertools.product(range(30), repeat=2))
    assert len({derive(seed, "client", client) for seed, client in pairs}) == len(pairs)
    assert derive(1) != derive(0, 1)


def test_twenty_thousand_streams_do_not_collide():
    paths = list(
        itertools.product(
            range(10), range(100), range(5), ("batches", "dropout", "weights", "split")
        )
    )
    numbers = {
        derive(seed, "client", client, "round", round_number, what)
        for seed, client, round_number, what in paths
    }
    assert len(numbers) == len(paths) == 20_000
    assert all(0 <= round_number < 2**128 for round_number in numbers)


def test_neighboring_streams_are_not_correlated():
    """The mean of 1,000 correlations of 50 draws each is 0 give or take 1/sqrt(50,000) = 0.0045; 4
    deviations."""
    draws = np.stack(
        [numpy_stream(0, "client", client).standard_normal(50) for client in range(1001)]
    )
    assert abs((draws[1:] * draws[:-1]).mean()) < 4 / np.sqrt(50_000)


def test_all_128_bits_reach_numpys_generator():
    expected = np.random.default_rng(derive(3, "public")).integers(0, 2**62, 20)
    assert np.array_equal(numpy_stream(3, "public").integers(0, 2**62, 20), expected)


def test_torch_seeds_fit_a_signed_64_bit_number():
    assert all(0 <= torch_seed(seed, "client", 1) < 2**63 for seed in range(200))
    assert torch_seed(3, "x") == derive(3, "x") % 2**63


def test_no_global_generator_is_touched():
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    numpy_stream(0, "a").random(10)
    torch.rand(10, generator=torch_stream(0, "a"))
    torch_seed(0, "a")
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before[1])  # noqa: NPY002


def test_streams_of_one_name_do_not_share_their_position():
    first, second = numpy_stream(0, "a"), numpy_stream(0, "a")
    first.random(50)
    assert second.random() == numpy_stream(0, "a").random()
