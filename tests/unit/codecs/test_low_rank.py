"""The codec ``low_rank``: the least rank that keeps a share of a matrix's energy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.codecs import LowRank
from fedkd.codecs.low_rank import decompose
from fedkd.errors import UploadRejected


def lost(values: np.ndarray, codec: LowRank) -> float:
    """The share of energy that does not arrive."""
    message, _ = codec.encode({"w": values}, None)
    found, _ = codec.decode(message, None)
    return float(((found["w"] - values) ** 2).sum() / (values**2).sum())


@given(
    seed=st.integers(0, 2**20),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    energy=st.floats(0.05, 1.0),
)
def test_the_rank_is_the_least_that_keeps_the_energy(
    seed: int, shape: tuple[int, int], energy: float
) -> None:
    matrix = np.random.default_rng(seed).normal(size=shape)
    rank, left, sigma, right = decompose(matrix, energy)
    found = (left[:, :rank] * sigma[:rank]) @ right[:rank]
    total = (matrix**2).sum()
    assert ((matrix - found) ** 2).sum() <= (1 - energy + 1e-9) * total
    fewer = (left[:, : rank - 1] * sigma[: rank - 1]) @ right[: rank - 1]
    assert ((matrix - fewer) ** 2).sum() > (1 - energy - 1e-9) * total


def test_a_matrix_that_needs_its_last_singular_value_arrives() -> None:
    """Ten equal singular values: nine are 90 % of the energy, and 95 % needs all ten."""
    assert decompose(np.eye(10), 0.95)[0] == 10
    assert lost(np.eye(10, dtype=np.float32), LowRank()) == 0.0
    assert (
        lost(np.random.default_rng(0).normal(size=(10, 512)).astype(np.float32), LowRank()) < 0.05
    )


def test_nothing_is_sent_of_zeros_and_kernels_are_matrices_by_their_first_axis() -> None:
    stream = np.random.default_rng(0)
    kernel = np.einsum("o,ijk->oijk", stream.normal(size=9), stream.normal(size=(4, 3, 3)))
    arrays = {"still": np.zeros((20, 30), np.float32), "kernel": kernel.astype(np.float32)}
    message, _ = LowRank().encode(arrays, None)
    assert message["still:left"].size == 0
    assert (message["kernel:left"].size, message["kernel:right"].size) == (9, 36)


def test_the_share_rises_from_message_to_message_and_starts_over_with_the_memory() -> None:
    codec = LowRank(energy=0.3, last_energy=1.0, over=2)
    matrix = np.random.default_rng(1).normal(size=(30, 40)).astype(np.float32)
    memory, sizes = None, []
    for _ in range(4):
        message, memory = codec.encode({"w": matrix}, memory)
        sizes.append(sum(a.size for a in message.values()))
    assert sizes[0] < sizes[1] < sizes[2] == sizes[3]
    assert sum(a.size for a in codec.encode({"w": matrix}, None)[0].values()) == sizes[0]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"w:left": np.zeros(61, np.float32)}, "numbers for 30 rows|expected"),
        ({"w:right": np.zeros(3, np.float32)}, "expected 40 numbers"),
        ({"w:shape": np.array([1200], np.uint32)}, "came in two factors"),
        ({"w:left": np.full(30, 1e38, np.float32)}, "too large"),
        ({"codec:message": np.array([4], np.uint32)}, "message 4 came, expected 0"),
    ],
)
def test_broken_factors_are_rejected(changed: dict[str, np.ndarray], reason: str) -> None:
    codec = LowRank()
    stream = np.random.default_rng(0)
    matrix = 1e3 * np.outer(stream.normal(size=30), 1 + stream.random(40)).astype(np.float32)
    message, _ = codec.encode({"w": matrix}, None)
    if "too large" in reason:
        message["w:right"] = np.full(40, 1e38, np.float32)
    with pytest.raises(UploadRejected, match=reason):
        codec.decode({**message, **changed}, None)
