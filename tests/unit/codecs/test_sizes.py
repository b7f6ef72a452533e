"""Bytes counted by hand, and an entropy counted the slow way."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from codecs_cases import softmax, title
from hypothesis import given
from hypothesis import strategies as st

from fedkd.codecs import (
    CODECS,
    Cached,
    Delta,
    Float16,
    Full,
    Quantized,
    TopK,
    coded_bytes,
    raw_bytes,
)

SHAPE = 2 * 4  # two axes of 4 bytes
NUMBER = 4  # of a message
RANGE = MEANS = 2 * 4

PROBS = softmax(np.random.default_rng(0).normal(size=(10, 10)))
LOGITS = np.random.default_rng(1).normal(size=(10, 10)).astype(np.float32)


@pytest.mark.parametrize(
    ("codec", "probs", "logits"),
    [
        (Full(), 400, 400),
        (Float16(), 200, 200),
        (Quantized(bits=1), 10 + SHAPE, 10 + SHAPE + MEANS),
        (Quantized(bits=2), 25 + SHAPE, 25 + SHAPE + RANGE),
        (Quantized(bits=3), 38 + SHAPE, 38 + SHAPE + RANGE),  # 300 bits
        (Quantized(bits=8), 100 + SHAPE, 100 + SHAPE + RANGE),
        (TopK(k=3), 10 * 3 * (1 + 4) + SHAPE, 10 * (3 * (1 + 4) + 4) + SHAPE),
        (Delta(), 400 + SHAPE + NUMBER, 400 + SHAPE + NUMBER),
        (Delta(bits=1), 10 + SHAPE + NUMBER, 10 + SHAPE + MEANS + NUMBER),
        (Delta(bits=4), 50 + SHAPE + NUMBER, 50 + SHAPE + RANGE + NUMBER),
    ],
    ids=lambda value: value if isinstance(value, int) else title(value),
)
def test_ten_rows_of_ten_classes_weigh(codec: Any, probs: int, logits: int):
    assert raw_bytes(codec.encode({"probs": PROBS}, None)[0]) == probs
    assert raw_bytes(codec.encode({"logits": LOGITS}, None)[0]) == logits


def test_three_rows_of_ten_classes_at_one_bit_are_three_labels():
    message, _ = Quantized(bits=1).encode(
        {"ids": np.array([4, 7, 9], np.int32), "probs": PROBS[:3]}, None
    )
    assert {name: array.nbytes for name, array in message.items()} == {
        "ids": 12,
        "probs:labels": 3,
        "probs:shape": 8,
    }
    assert message["probs:labels"].tolist() == PROBS[:3].argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("classes", "size"), [(2, 1), (256, 1), (257, 2), (4096, 2), (65_536, 2), (65_537, 4)]
)
def test_a_label_takes_the_smallest_type(classes: int, size: int):
    logits = np.zeros((2, classes), np.float32)
    logits[1, -1] = 1
    message, _ = Quantized(bits=1).encode({"logits": logits}, None)
    assert message["logits:labels"].tolist() == [0, classes - 1]
    assert message["logits:labels"].nbytes == 2 * size
    if classes > 2:
        assert TopK(k=2).encode({"logits": logits}, None)[0]["logits:classes"].nbytes == 4 * size


def test_a_row_that_is_what_it_was_costs_a_bit():
    """Ten rows; then the same; then one with another label. The bitmap is 10 bits in 2 bytes."""
    ids = np.arange(10, dtype=np.int32)
    codec, memory = Delta(bits=1), None
    changed = PROBS.copy()
    changed[4] = np.roll(PROBS[4], 1)
    sizes = []
    for probs in (PROBS, PROBS, changed):
        message, memory = codec.encode({"ids": ids, "probs": probs}, memory)
        sizes.append(raw_bytes(message) - ids.nbytes - SHAPE - NUMBER)
    assert sizes == [10, 2, 2 + 1]
    assert message["probs:changed"].tolist() == [0b00001000, 0]


def test_rows_that_were_never_sent_cost_no_bit_beside_their_codes():
    codec, memory = Delta(bits=8), None
    for ids, expected in (([1, 2], 20), ([2, 3, 4], 1 + 20), ([5], 10)):
        arrays = {"ids": np.array(ids, np.int32), "probs": PROBS[ids]}
        message, memory = codec.encode(arrays, memory)
        assert raw_bytes(message) - arrays["ids"].nbytes - SHAPE - NUMBER == expected


def test_an_exact_delta_of_a_near_value_has_high_bytes_of_zero():
    """1.0 is 3f800000, 1.25 is 3fa00000: the exclusive or is 00200000."""
    _, memory = Delta().encode({"features": np.array([[1.0]], np.float32)}, None)
    message, _ = Delta().encode({"features": np.array([[1.25]], np.float32)}, memory)
    planes = [message[f"features:plane{context}"].tolist() for context in range(4)]
    assert planes == [[0x00], [0x00], [0x20], [0x00]]


def test_a_cached_row_costs_nothing_until_it_expires():
    arrays = {"ids": np.arange(10, dtype=np.int32), "probs": PROBS}
    codec, memory, sizes = Cached(duration=3), None, []
    for _ in range(7):
        message, memory = codec.encode(arrays, memory)
        sizes.append(raw_bytes(message) - arrays["ids"].nbytes - NUMBER)
    assert sizes == [400, 0, 0, 400, 0, 0, 400]


def test_every_codec_but_full_is_counted_here():
    assert sorted(CODECS) == [
        *("cached", "delta", "float16", "full", "low_rank", "quantized", "top_k")
    ]


# Entropy.


def naive_coded_bytes(content: bytes) -> float:
    return sum(count * math.log2(len(content) / count) for count in Counter(content).values()) / 8


@given(content=st.binary(max_size=300), alphabet=st.integers(1, 256))
def test_coded_bytes_are_the_entropy_of_the_bytes(content: bytes, alphabet: int):
    some = bytes(value % alphabet for value in content)
    array = np.frombuffer(some, np.uint8)
    found = coded_bytes({"a": array})
    assert found == pytest.approx(naive_coded_bytes(some), abs=1e-9)
    assert 0 <= found <= raw_bytes({"a": array})


def test_coded_bytes_by_hand():
    assert coded_bytes({"a": np.full(1000, 7, np.uint8)}) == 0
    assert coded_bytes({"a": np.arange(256, dtype=np.uint8)}) == pytest.approx(256)
    assert coded_bytes({"a": np.zeros(0, np.float32), "b": np.array(True)}) == 0
    # Of the four bytes of an int32 below 256, three are 0.
    ids = np.arange(256, dtype=np.int32)
    zeros, others = 3 * 256 + 1, 255
    bits = zeros * math.log2(1024 / zeros) + others * math.log2(1024)
    assert coded_bytes({"ids": ids}) == pytest.approx(bits / 8)


def test_arrays_are_coded_each_by_itself_whatever_their_layout():
    one, other = np.zeros(100, np.uint8), np.full(100, 9, np.uint8)
    assert coded_bytes({"a": one, "b": other}) == 0
    assert coded_bytes({"a": np.concatenate([one, other])}) == pytest.approx(200 / 8)
    grid = np.arange(12, dtype=np.int16).reshape(3, 4)
    assert coded_bytes({"a": grid.T}) == pytest.approx(coded_bytes({"a": grid}))
