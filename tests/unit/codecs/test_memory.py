"""What stateful codecs send and remember, against a dictionary from id to row."""

import copy
from typing import Any

import numpy as np
import pytest
from codecs_cases import assert_same, softmax, title
from hypothesis import given
from hypothesis import strategies as st

from fedkd.codecs import Cached, Delta, Quantized
from fedkd.errors import UploadRejected

seeds = st.integers(0, 2**20)
STATEFUL = [Delta(), Delta(bits=1), Delta(bits=4), Cached(duration=3)]
every_stateful = pytest.mark.parametrize("codec", STATEFUL, ids=title)


def some_round(
    stream: np.random.Generator, public: int = 12, classes: int = 4
) -> dict[str, np.ndarray]:
    """Predictions of a few whole numbers on some of the public samples, so that rows come again."""
    ids = stream.permutation(public)[: stream.integers(1, public)].astype(np.int32)
    return {
        "ids": ids,
        "probs": softmax(stream.integers(0, 2, (len(ids), classes)).astype(np.float32)),
    }


@given(seed=seeds, bits=st.sampled_from([None, 1, 2, 5]))
def test_delta_sends_the_rows_whose_codes_are_new(seed: int, bits: int | None):
    stream, codec = np.random.default_rng(seed), Delta(bits=bits)
    codes: dict[int, bytes] = {}
    ours = theirs = None
    for _ in range(6):
        arrays = some_round(stream)
        message, ours = codec.encode(arrays, ours)
        found, theirs = codec.decode(message, theirs)
        plain = (
            arrays["probs"]
            if bits is None
            else Quantized(bits=bits).decode(Quantized(bits=bits).encode(arrays, None)[0], None)[0][
                "probs"
            ]
        )
        np.testing.assert_array_equal(found["probs"], plain)
        rows = {int(i): row.tobytes() for i, row in zip(arrays["ids"], plain, strict=True)}
        known = [i for i in rows if i in codes]
        changed = [codes[i] != rows[i] for i in known]
        assert message["probs:changed"].tolist() == np.packbits(np.array(changed, bool)).tolist()
        sent = sum(changed) + len(rows) - len(known)
        part, width = {
            None: ("plane0", 4),
            1: ("labels", 1),
            2: ("codes", 1),
            5: ("codes", 20 / 8),
        }[bits]
        assert len(message[f"probs:{part}"]) == int(np.ceil(sent * width))
        codes |= rows


@given(seed=seeds, duration=st.integers(2, 4))
def test_cached_rows_are_those_sent_fewer_than_duration_messages_ago(seed: int, duration: int):
    stream, codec = np.random.default_rng(seed), Cached(duration=duration)
    copies: dict[int, tuple[int, np.ndarray]] = {}
    ours = theirs = None
    for message_number in range(8):
        arrays = some_round(stream)
        message, ours = codec.encode(arrays, ours)
        found, theirs = codec.decode(message, theirs)
        assert_same(ours, theirs)
        sent = []
        for i, row, came in zip(
            arrays["ids"].tolist(), arrays["probs"], found["probs"], strict=True
        ):
            if i not in copies or message_number - copies[i][0] >= duration:
                copies[i] = message_number, row
                sent.append(row)
            np.testing.assert_array_equal(came, copies[i][1])
        np.testing.assert_array_equal(
            message["probs:rows"], np.reshape(sent, (-1, 4)).astype(np.float32)
        )


@every_stateful
def test_a_message_that_was_lost_is_missed_and_starting_over_mends_it(codec: Any):
    stream = np.random.default_rng(0)
    first, lost, third = (some_round(stream) for _ in range(3))
    message, ours = codec.encode(first, None)
    _, theirs = codec.decode(message, None)
    _, ours = codec.encode(lost, ours)
    message, _ = codec.encode(third, ours)
    with pytest.raises(
        UploadRejected, match="message 2 came, expected 1: the sender must start over"
    ):
        codec.decode(message, theirs)
    message, ours = codec.encode(third, None)
    found, theirs = codec.decode(message, theirs)
    np.testing.assert_array_equal(found["ids"], third["ids"])
    assert_same(ours, theirs)
    assert_same(theirs, codec.encode(third, None)[1])


@every_stateful
def test_a_receiver_without_a_memory_takes_only_a_beginning(codec: Any):
    stream = np.random.default_rng(0)
    _, ours = codec.encode(some_round(stream), None)
    message, _ = codec.encode(some_round(stream), ours)
    with pytest.raises(UploadRejected, match="message 1 came, expected 0"):
        codec.decode(message, None)


@every_stateful
def test_a_sender_starts_over_where_its_arrays_change(codec: Any):
    stream = np.random.default_rng(0)
    narrow, wide = some_round(stream), some_round(stream, classes=7)
    other = {"ids": wide["ids"], "logits": wide["probs"]}
    both = {**wide, "logits": wide["probs"]}
    _, ours = codec.encode(narrow, None)
    labels = isinstance(codec, Delta) and codec.bits == 1  # one a row, whatever the classes
    for arrays in (other, both, narrow) if labels else (wide, other, both, narrow):
        message, ours = codec.encode(arrays, ours)
        assert message["codec:message"].tolist() == [0]
        _, theirs = codec.decode(message, None)
        assert_same(ours, theirs)
    message, ours = codec.encode(narrow, ours)
    assert message["codec:message"].tolist() == [1]


def test_a_label_that_was_sent_may_be_no_class_any_more():
    """A sender that says so of a row that it did not send is rejected, as if it had."""
    six = {"ids": np.array([1], np.int32), "probs": np.eye(7, dtype=np.float32)[[6]]}
    _, memory = Delta(bits=1).encode(six, None)
    message, _ = Delta(bits=1).encode(six, memory)
    message["probs:shape"] = np.array([1, 4], np.uint32)
    with pytest.raises(UploadRejected, match="probs have the label 6, of 4 classes"):
        Delta(bits=1).decode(message, memory)


@pytest.mark.parametrize("codec", [Delta(), Delta(bits=4), Cached()], ids=title)
def test_rows_of_another_width_are_rejected_though_their_ids_are_new(codec: Any):
    def rows(ids: list[int], classes: int) -> dict[str, np.ndarray]:
        return {
            "ids": np.array(ids, np.int32),
            "probs": np.full((len(ids), classes), 1 / classes, np.float32),
        }

    _, theirs = codec.encode(rows([1, 2], 5), None)
    _, ours = codec.encode(rows([1, 2], 4), None)
    message, _ = codec.encode(rows([3], 4), ours)
    with pytest.raises(UploadRejected, match="probs are of another form than before"):
        codec.decode(message, theirs)


def test_weights_go_by_their_place_and_a_vector_without_ids_is_one_row():
    weights = {
        "weight": np.arange(6, dtype=np.float32).reshape(3, 2),
        "bias": np.zeros(9, np.float32),
    }
    _, memory = Delta().encode(weights, None)
    changed = copy.deepcopy(weights)
    changed["weight"][1] += 1
    message, after = Delta().encode(changed, memory)
    assert message["weight:changed"].tolist() == [0b01000000]
    assert message["bias:changed"].tolist() == [0]
    assert_same(Delta().decode(message, memory)[0], changed)
    scores = {"ids": np.arange(9), "scores": np.zeros(9)}
    message_by_id, _ = Delta().encode(scores, Delta().encode(scores, None)[1])
    assert message_by_id["scores:changed"].tolist() == [0, 0]
    assert after is not None
    assert sorted(after) == ["bias", "codec:message", "weight"]


def test_exact_deltas_carry_every_bit():
    """NaN, infinity and the sign of zero come back; -0.0 is another row than 0.0."""
    odd = np.array([[np.nan, -np.inf], [-0.0, 1e-45], [0.0, 3.0]], np.float32)
    for dtype in (np.float16, np.float32, np.float64):
        rows = odd.astype(dtype)
        _, memory = Delta().encode({"features": rows[::-1].copy()}, None)
        message, _ = Delta().encode({"features": rows}, memory)
        assert_same(Delta().decode(message, memory)[0], {"features": rows})
    _, memory = Delta().encode({"features": np.zeros((1, 1), np.float32)}, None)
    message, _ = Delta().encode({"features": -np.zeros((1, 1), np.float32)}, memory)
    assert message["features:changed"].tolist() == [0b10000000]


@pytest.mark.parametrize("codec", [Delta(), Delta(bits=1), Cached()], ids=title)
def test_of_rows_with_one_id_the_last_is_remembered(codec: Any):
    twice = {"ids": np.array([3, 3], np.int32), "probs": np.eye(2, dtype=np.float32)}
    message, ours = codec.encode(twice, None)
    found, theirs = codec.decode(message, None)
    np.testing.assert_array_equal(found["probs"], twice["probs"])
    assert_same(ours, theirs)
    once = {"ids": twice["ids"][:1], "probs": twice["probs"][1:]}
    message, _ = codec.encode(once, ours)
    np.testing.assert_array_equal(codec.decode(message, theirs)[0]["probs"], once["probs"])
