"""Laws of every codec with each of its settings, on arrays of every kind. A new codec needs a line
in VARIANTS."""

import copy
from typing import Any

import numpy as np
import pytest
from codecs_cases import KINDS, VARIANTS, assert_same, is_exact, some_arrays, title, travelled
from hypothesis import given
from hypothesis import strategies as st

from fedkd.codecs import CODECS, Codec, Delta, Quantized, raw_bytes

every_codec = pytest.mark.parametrize(
    "codec", [c for group in VARIANTS.values() for c in group], ids=title
)

seeds = st.integers(0, 2**20)
sizes = st.tuples(st.sampled_from(KINDS), st.integers(1, 6), st.integers(3, 12))


def test_every_codec_is_tried_here():
    assert list(VARIANTS) == list(CODECS)
    assert all(
        isinstance(codec, CODECS[name]) for name, group in VARIANTS.items() for codec in group
    )


@every_codec
def test_a_codec_is_frozen_and_says_whether_it_remembers(codec: Any):
    assert isinstance(codec, Codec)
    assert type(codec).__dataclass_params__.frozen
    _, memory = codec.encode(some_arrays("probs", np.random.default_rng(0), 2, 4), None)
    assert (memory is not None) == codec.stateful


@every_codec
@given(seed=seeds, size=sizes)
def test_arrays_come_back_by_name_shape_and_type(codec: Any, seed: int, size: tuple[str, int, int]):
    arrays = some_arrays(size[0], np.random.default_rng(seed), *size[1:])
    if codec.objection(arrays):
        return
    message, _ = codec.encode(arrays, None)
    found, _ = codec.decode(travelled(message), None)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        if is_exact(codec) or array.dtype.kind != "f":
            np.testing.assert_array_equal(found[name], array)
        assert np.isfinite(found[name]).all()


@every_codec
@given(seed=seeds, size=sizes)
def test_soft_labels_remain_distributions(codec: Any, seed: int, size: tuple[str, int, int]):
    """Rows of zeros, as a table has them for classes that a client lacks, are for whoever reads the
    mask."""
    arrays = some_arrays(size[0], np.random.default_rng(seed), *size[1:])
    if codec.objection(arrays) or "probs" not in arrays:
        return
    message, _ = codec.encode(arrays, None)
    found, _ = codec.decode(message, None)
    has_class = arrays["probs"].any(axis=1)
    assert (found["probs"] >= 0).all()
    np.testing.assert_allclose(
        found["probs"][has_class].sum(axis=1, dtype=np.float64), 1, atol=1e-5
    )
    if not (
        isinstance(codec, Quantized | Delta) and codec.bits == 1
    ):  # a label is always one of the classes
        assert not found["probs"][~has_class].any()


@every_codec
@given(seed=seeds, kind=st.sampled_from(KINDS), rounds=st.integers(2, 5))
def test_both_sides_remember_the_same_over_changing_rounds(
    codec: Any, seed: int, kind: str, rounds: int
):
    """Other ids, other numbers of rows, some rows as before; where there are no ids a new shape
    starts over."""
    stream = np.random.default_rng(seed)
    ours = theirs = None
    arrays: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        new = some_arrays(kind, stream, int(stream.integers(1, 7)), 5)
        arrays = new if stream.random() < 0.7 or not arrays else arrays
        if codec.objection(arrays):
            return
        message, ours = codec.encode(arrays, ours)
        found, theirs = codec.decode(travelled(message), theirs)
        assert_same(ours, theirs)
        ours = None if ours is None else copy.deepcopy(ours)
        if isinstance(codec, Delta) and codec.bits is None:
            assert_same(found, arrays)


@every_codec
@given(seed=seeds, size=sizes)
def test_inputs_stay_untouched_and_two_calls_agree(
    codec: Any, seed: int, size: tuple[str, int, int]
):
    stream = np.random.default_rng(seed)
    first, second = (some_arrays(size[0], stream, *size[1:]) for _ in range(2))
    if codec.objection(first) or codec.objection(second):
        return
    _, memory = codec.encode(first, None)
    before = copy.deepcopy((second, memory))
    message, after = codec.encode(second, memory)
    again, after_again = codec.encode(second, memory)
    assert_same(message, again)
    assert_same(after, after_again)
    kept = copy.deepcopy(message)
    found, _ = codec.decode(message, memory)
    assert_same(message, kept)
    for array in (*found.values(), *(after or {}).values()):
        if array.flags.writeable and not any(array is one for one in second.values()):
            array.fill(1)
    assert_same(second, before[0])
    assert_same(memory, before[1])


@every_codec
def test_what_is_remembered_is_no_view_of_what_was_sent(codec: Any):
    arrays = some_arrays("features", np.random.default_rng(1), 3, 4)
    if codec.objection(arrays):
        return
    _, memory = codec.encode(arrays, None)
    kept = copy.deepcopy(memory)
    arrays["features"].fill(0)
    assert_same(memory, kept)


@every_codec
def test_a_message_without_rows_is_a_message(codec: Any):
    for scale in ("probs", "logits"):
        empty = {"ids": np.zeros(0, np.int32), scale: np.zeros((0, 5), np.float32)}
        message, ours = codec.encode(empty, None)
        found, theirs = codec.decode(travelled(message), None)
        assert_same(found, empty)
        assert_same(ours, theirs)
        filled = some_arrays(scale, np.random.default_rng(0), 3, 5)
        for arrays in (filled, empty, filled):
            message, ours = codec.encode(arrays, ours)
            found, theirs = codec.decode(travelled(message), theirs)
            assert_same(ours, theirs)
        assert found[scale].shape == (3, 5)


@every_codec
@pytest.mark.parametrize("scale", ["probs", "logits"])
def test_a_vocabulary_is_coded_as_classes_are(codec: Any, scale: str):
    arrays = some_arrays(scale, np.random.default_rng(0), 3, 4096)
    message, memory = codec.encode(arrays, None)
    found, theirs = codec.decode(travelled(message), None)
    assert_same(memory, theirs)
    assert found[scale].shape == (3, 4096)
    assert raw_bytes(message) <= raw_bytes(arrays) + 16
