"""How far coded values may be off, against slow and obvious versions of each rule."""

import itertools

import numpy as np
import pytest
from codecs_cases import softmax, some_logits
from hypothesis import given
from hypothesis import strategies as st

from fedkd.codecs import Codec, Delta, Float16, Quantized, TopK
from fedkd.codecs.bits import pack, packed_bytes, unpack
from fedkd.codecs.levels import nearest_counts, stable_range
from fedkd.codecs.top_k_mask import top_k_mask

seeds = st.integers(0, 2**20)
shapes = st.tuples(st.integers(1, 6), st.integers(2, 7))


def through(codec: Codec, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    message, _ = codec.encode(arrays, None)
    return codec.decode(message, None)[0]


def stay_largest(found: np.ndarray, values: np.ndarray) -> bool:
    """Whether the class that is largest now was the largest, or one of those that tied."""
    now = np.take_along_axis(values, found.argmax(axis=1)[:, None], axis=1)[:, 0]
    return bool((now == values.max(axis=1)).all())


# Bits.


@given(seed=seeds, bits=st.integers(1, 8), count=st.integers(0, 40))
def test_packing_is_writing_numbers_in_binary_one_after_the_other(seed: int, bits: int, count: int):
    codes = np.random.default_rng(seed).integers(0, 2**bits, count).astype(np.uint8)
    text = "".join(f"{code:0{bits}b}" for code in codes)
    octets = [int(text[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(text), 8)]
    packed = pack(codes, bits)
    assert packed.tolist() == octets
    assert len(packed) == packed_bytes(count, bits)
    np.testing.assert_array_equal(unpack(packed, bits, count), codes)


@given(seed=seeds, shape=shapes)
def test_the_largest_are_those_that_a_stable_sort_puts_first(seed: int, shape: tuple[int, int]):
    stream = np.random.default_rng(seed)
    values = stream.integers(0, 4, shape).astype(np.float32)
    counts = stream.integers(0, shape[1] + 1, shape[0])
    for chosen in (counts, int(counts[0])):
        mask = top_k_mask(values, chosen)
        for row, value, count in zip(mask, values, np.broadcast_to(chosen, shape[0]), strict=True):
            first = sorted(range(shape[1]), key=lambda c: (-value[c], c))[:count]
            assert sorted(np.flatnonzero(row).tolist()) == sorted(first)


# float16.


@given(seed=seeds, shape=shapes)
def test_float16_is_off_by_half_of_its_last_bit(seed: int, shape: tuple[int, int]):
    values = some_logits(np.random.default_rng(seed), *shape)
    found = through(Float16(), logits=values)["logits"]
    np.testing.assert_array_equal(found, values.astype(np.float16).astype(np.float32))
    assert (np.abs(found - values) <= np.maximum(np.abs(values) * 2.0**-11, 2.0**-25)).all()


def test_float16_clips_what_it_cannot_hold():
    values = np.array([[1e6, -1e6, 65504.0, 1e-9]], np.float32)
    assert through(Float16(), logits=values)["logits"].tolist() == [
        [65504.0, -65504.0, 65504.0, 0.0]
    ]


# Uniform levels.


@given(seed=seeds, shape=shapes, bits=st.integers(1, 8))
def test_a_plain_number_is_at_most_half_a_step_off(seed: int, shape: tuple[int, int], bits: int):
    values = some_logits(np.random.default_rng(seed), *shape)
    found = through(Quantized(bits=bits), features=values)["features"]
    extent = float(values.max()) - float(values.min())
    rounding = 1e-6 * np.abs(values).max()
    assert np.abs(found - values).max() <= extent / (2**bits - 1) / 2 + rounding
    assert (found.min(), found.max()) == (values.min(), values.max())
    assert len(np.unique(found)) <= 2**bits


@given(seed=seeds, shape=shapes, bits=st.integers(2, 8))
def test_a_number_sent_by_delta_is_at_most_half_of_twice_a_step_off(
    seed: int, shape: tuple[int, int], bits: int
):
    stream, memory = np.random.default_rng(seed), None
    for _ in range(4):
        values = some_logits(stream, *shape)
        message, after = Delta(bits=bits).encode({"features": values}, memory)
        found = Delta(bits=bits).decode(message, memory)[0]["features"]
        extent = float(values.max()) - float(values.min())
        assert (
            np.abs(found - values).max()
            <= 2 * extent / (2**bits - 1) / 2 + 1e-6 * np.abs(values).max()
        )
        memory = after


@given(
    low=st.floats(-100, 100, width=32),
    extent=st.just(0.0)
    | st.floats(2**-6, 100, width=32),  # or far above the resolution of a float32 near 100
    seed=seeds,
)
def test_a_settled_range_holds_the_numbers_and_stays_while_they_fit(
    low: float, extent: float, seed: int
):
    first = stable_range(low, low + extent, None)
    assert first[0] <= low
    assert first[1] >= low + extent - 1e-4
    assert stable_range(low, low + extent, first) is first or extent == 0
    wider = stable_range(low - extent, low + 2 * extent, first)
    assert wider is not first or extent == 0


@given(seed=seeds, shape=shapes)
def test_equal_logits_keep_their_codes_though_others_grow_a_little(
    seed: int, shape: tuple[int, int]
):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    values[0, 0], values[-1, -1] = -10, 10
    before = np.concatenate([values, [[10.0] * shape[1]]]).astype(np.float32)
    after = before.copy()
    after[-1] = 11
    _, memory = Delta(bits=8).encode({"logits": before}, None)
    message, _ = Delta(bits=8).encode({"logits": after}, memory)
    assert message["logits:changed"].tolist() == np.packbits([0] * len(values) + [1]).tolist()
    assert len(message["logits:codes"]) == shape[1]


# Soft labels.


def best_counts(row: np.ndarray, total: int) -> float:
    """The least squared distance of any whole numbers >= 0 that sum to ``total``, by trying them
    all."""
    every = itertools.product(range(total + 1), repeat=len(row))
    return min(
        sum((c - total * p) ** 2 for c, p in zip(some, row, strict=True))
        for some in every
        if sum(some) == total
    )


@given(seed=seeds, classes=st.integers(2, 4), total=st.sampled_from([1, 3, 7]))
def test_no_other_counts_are_nearer(seed: int, classes: int, total: int):
    probs = softmax(some_logits(np.random.default_rng(seed), 3, classes))
    counts = nearest_counts(probs, total)
    assert (counts.sum(axis=1) == total).all()
    for row, found in zip(probs, counts, strict=True):
        distance = float(((found - total * row.astype(np.float64)) ** 2).sum())
        assert distance <= best_counts(row.astype(np.float64), total) + 1e-5


@given(seed=seeds, shape=shapes, bits=st.integers(2, 8))
def test_a_quantized_probability_is_less_than_a_step_off(
    seed: int, shape: tuple[int, int], bits: int
):
    probs = softmax(some_logits(np.random.default_rng(seed), *shape))
    found = through(Quantized(bits=bits), probs=probs)["probs"]
    assert np.abs(found - probs).max() < 1 / (2**bits - 1) + 1e-6


@given(seed=seeds, shape=shapes)
def test_one_bit_of_soft_labels_is_the_one_hot_argmax(seed: int, shape: tuple[int, int]):
    probs = softmax(some_logits(np.random.default_rng(seed), *shape))
    np.testing.assert_array_equal(
        through(Quantized(bits=1), probs=probs)["probs"], np.eye(shape[1])[probs.argmax(1)]
    )


@given(seed=seeds, shape=shapes)
def test_one_bit_of_logits_keeps_the_argmax_and_both_means(seed: int, shape: tuple[int, int]):
    logits = some_logits(np.random.default_rng(seed), *shape)
    found = through(Quantized(bits=1), logits=logits)["logits"]
    np.testing.assert_array_equal(found.argmax(axis=1), logits.argmax(axis=1))
    assert len(np.unique(found)) == 2
    np.testing.assert_allclose(
        found.mean(), logits.mean(dtype=np.float64), rtol=1e-4, atol=1e-5 * np.abs(logits).max()
    )


# Top k.


@given(seed=seeds, shape=st.tuples(st.integers(1, 6), st.integers(4, 9)), k=st.integers(1, 3))
def test_top_k_of_soft_labels_keeps_k_and_spreads_what_they_lack(
    seed: int, shape: tuple[int, int], k: int
):
    probs = softmax(some_logits(np.random.default_rng(seed), *shape))
    found = through(TopK(k=k), probs=probs)["probs"]
    assert stay_largest(found, probs)
    for row, was in zip(found, probs, strict=True):
        kept = sorted(range(shape[1]), key=lambda c: (-was[c], c))[:k]
        others = [c for c in range(shape[1]) if c not in kept]
        np.testing.assert_allclose(row[kept], was[kept], atol=1e-6)
        np.testing.assert_allclose(row[others], was[others].mean(), atol=1e-6)
        assert row[others].max() <= row[kept].min()


@given(seed=seeds, shape=st.tuples(st.integers(1, 6), st.integers(4, 9)), k=st.integers(1, 3))
def test_top_k_of_logits_keeps_k_and_their_softmax(seed: int, shape: tuple[int, int], k: int):
    logits = some_logits(np.random.default_rng(seed), *shape)
    found = through(TopK(k=k), logits=logits)["logits"]
    assert stay_largest(found, logits)
    kept = top_k_mask(logits, k)
    np.testing.assert_array_equal(found[kept], logits[kept])
    np.testing.assert_allclose(softmax(found)[kept], softmax(logits)[kept], atol=1e-4)
    assert (
        np.where(kept, np.inf, found).min(axis=1) == np.where(kept, -np.inf, found).max(axis=1)
    ).all()


def test_codecs_of_classes_do_not_depend_on_their_order():
    """Permuting the classes permutes the result, where no two are equal."""
    stream = np.random.default_rng(3)
    logits, order = stream.normal(size=(5, 8)).astype(np.float32), stream.permutation(8)
    probs = softmax(logits)
    for codec in (Quantized(bits=1), Quantized(bits=4), TopK(k=3), Float16()):
        for name, values in (("probs", probs), ("logits", logits)):
            expected = through(codec, **{name: values})[name][:, order]
            found = through(codec, **{name: values[:, order]})[name]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_come_back_as_float32(dtype: type):
    values = np.array([[0.25, 0.75], [0.5, 0.5]], dtype)
    for codec in (Quantized(bits=2), TopK(k=1), Delta(bits=2), Float16()):
        assert through(codec, probs=values)["probs"].dtype == np.float32
    assert through(Delta(), probs=values)["probs"].dtype == dtype
