"""Settings that make no sense, arrays that a codec is not for, and messages that are none."""

import copy
import re
from typing import Any

import numpy as np
import pytest
from codecs_cases import KINDS, VARIANTS, assert_same, is_exact, some_arrays, title, travelled
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.codecs import Cached, Delta, Float16, Full, Quantized, TopK
from fedkd.errors import SettingError, UploadRejected
from fedkd.settings.reply_limits import LIMITS

every_codec = pytest.mark.parametrize(
    "codec", [c for group in VARIANTS.values() for c in group], ids=title
)
IDS = np.array([5, 2, 9], np.int32)
LOGITS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


# Settings and arrays.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quantized(bits=0), "bits must be >= 1, got 0"),
        (lambda: Quantized(bits=9), "bits must be <= 8, got 9"),
        (lambda: Delta(bits=9), "bits must be <= 8, got 9"),
        (lambda: TopK(k=0), "k must be >= 1, got 0"),
        (lambda: Cached(duration=1), "duration must be >= 2, got 1: at 1 every row is sent"),
    ],
)
def test_settings_that_make_no_sense_are_errors(make: Any, message: str):
    with pytest.raises(SettingError, match=message):
        make()


@pytest.mark.parametrize(
    ("codec", "arrays", "reason"),
    [
        (Float16(), {"counts": np.zeros(3, int)}, "there are none"),
        (Float16(), {"probs": np.zeros((3, 2), np.float16)}, "float16 already"),
        (Quantized(), {"counts": np.zeros(3, int)}, "there are none"),
        (
            Quantized(),
            {"w": np.broadcast_to(np.float32(0), (LIMITS.array_values + 1,))},
            "at most 268435456",
        ),
        (TopK(), {"features": LOGITS}, "features of shape \\[3, 4\\] are none"),
        (TopK(k=4), {"logits": LOGITS}, "k=4 would drop nothing of 4 classes"),
        (Delta(), {}, "there are none"),
        (Delta(), {"ids": IDS, "w": LOGITS[:2]}, "have not one row for each of the 3 ids"),
        (Cached(), {"probs": LOGITS}, "by their ids, and there are none"),
    ],
)
def test_arrays_that_a_codec_is_not_for(codec: Any, arrays: dict[str, np.ndarray], reason: str):
    assert re.search(reason, codec.objection(arrays) or "")
    if isinstance(codec, TopK | Cached) or "ids" in arrays:
        with pytest.raises(SettingError, match="cannot code these arrays"):
            codec.encode(arrays, None)


@every_codec
def test_no_codec_objects_to_predictions(codec: Any):
    for scale in ("probs", "logits"):
        assert codec.objection({"ids": IDS, scale: LOGITS}) is None
    assert Full().objection({}) is None


# Values that are not finite.


@every_codec
@pytest.mark.parametrize("scale", ["probs", "logits"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_rejected_or_comes_as_it_is(codec: Any, scale: str, value: float):
    """A rejected message leaves both memories where they were, and the next is understood."""
    good = {"ids": IDS, scale: np.abs(LOGITS)}
    bad = copy.deepcopy(good)
    bad[scale][1, 2] = value
    message, ours = codec.encode(good, None)
    _, theirs = codec.decode(message, None)
    message, after = codec.encode(bad, ours)
    if is_exact(codec):
        if not isinstance(codec, Cached):
            assert_same(codec.decode(message, theirs)[0], bad)
        return
    with pytest.raises(UploadRejected, match=f"{scale} contain NaN or infinity"):
        codec.decode(travelled(message), theirs)
    assert_same(after, ours)
    message, ours = codec.encode(good, after)
    assert_same(codec.decode(message, theirs)[1], ours)


def test_a_double_beyond_float32_is_not_finite():
    message, _ = Quantized().encode({"features": np.array([1e300])}, None)
    with pytest.raises(UploadRejected, match="features contain NaN or infinity"):
        Quantized().decode(message, None)


# Messages that are none.


def broken(message: dict[str, np.ndarray], stream: np.random.Generator) -> dict[str, np.ndarray]:
    """A message after one or two accidents."""
    arrays = dict(message)
    for _ in range(stream.integers(1, 3)):
        if not arrays:
            return arrays
        name = str(stream.choice(list(arrays)))
        array = arrays[name]
        match stream.integers(0, 9):
            case 0:
                del arrays[name]
            case 1:
                arrays[
                    name + str(stream.choice(["x", ":x", ":", ":codes", ":labels", ":shape"]))
                ] = arrays.pop(name)
            case 2:
                arrays[name] = array.reshape(-1)[: max(array.size - 1, 0)]
            case 3:
                arrays[name] = np.append(array.reshape(-1), array.reshape(-1)[:1])
            case 4:
                dtype = str(
                    stream.choice(
                        ["f2", "f4", "f8", "u1", "u4", "i8", "?", "c8", "U3", "M8[s]", "V4"]
                    )
                )
                arrays[name] = (
                    np.zeros(array.shape, dtype)
                    if {dtype[0], array.dtype.kind} & set("UMV")
                    else array.astype(dtype)
                )
            case 5:
                arrays[name] = np.frombuffer(stream.bytes(array.nbytes), array.dtype).reshape(
                    array.shape
                )
            case 6:
                arrays[name] = array[None] if stream.random() < 0.5 else array.reshape(-1)
            case 7:
                arrays[name] = np.zeros((), array.dtype)
            case 8:
                arrays[
                    str(
                        stream.choice(
                            ["ids", "probs", "probs:codes", "a:not_finite", "codec:message"]
                        )
                    )
                ] = array
    return arrays


@pytest.mark.fast(8)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@every_codec
@settings(max_examples=2 * settings.default.max_examples)
@given(
    seed=st.integers(0, 2**24), kind=st.sampled_from(KINDS), begun=st.booleans(), ours=st.booleans()
)
def test_a_broken_message_is_read_or_rejected(
    codec: Any, seed: int, kind: str, begun: bool, ours: bool
):
    """Whatever the receiver remembers, of the same arrays or of others."""
    stream = np.random.default_rng(seed)
    first, second = some_arrays(kind, stream, 4, 5), some_arrays(kind, stream, 4, 5)
    others = some_arrays(kind, stream, int(stream.integers(3, 6)), int(stream.integers(3, 7)))
    if codec.objection(first) or codec.objection(others):
        return
    memory = codec.encode(first, None)[1] if begun else None
    message, _ = codec.encode(second, memory)
    theirs = memory if ours else codec.encode(others, None)[1]
    kept = copy.deepcopy(theirs)
    try:
        found, _ = codec.decode(broken(message, stream), theirs)
    except UploadRejected:
        pass
    else:
        assert all(isinstance(array, np.ndarray) for array in found.values())
    assert_same(theirs, kept)


def swap(message: dict[str, np.ndarray], **parts: Any) -> dict[str, np.ndarray]:
    """The message with some arrays replaced; a part's name has an underscore for the colon, None
    leaves it out."""
    changed = {**message, **{name.replace("_", ":"): value for name, value in parts.items()}}
    return {name: array for name, array in changed.items() if array is not None}


LABELS, LEVELS = Quantized(bits=1), Quantized(bits=3)
HUGE = np.array([3, 2**27], np.uint32)


@pytest.mark.parametrize(
    ("codec", "scale", "parts", "reason"),
    [
        (
            LABELS,
            "probs",
            {"probs_labels": np.array([0, 4, 1], np.uint8)},
            "probs have the label 4, of 4 classes",
        ),
        (
            LABELS,
            "probs",
            {"probs_labels": np.zeros(2, np.uint8)},
            "expected 3 numbers in the labels of probs, got 2",
        ),
        (
            LABELS,
            "probs",
            {"probs_labels": np.zeros(3, np.int8)},
            "must be uint8 of one dimension, got int8 of 1",
        ),
        (
            LABELS,
            "probs",
            {"probs_labels": None},
            "probs came in the parts shape; expected labels, shape",
        ),
        (LABELS, "probs", {"probs_shape": None}, "probs came without its shape"),
        (LABELS, "probs", {"probs_shape": HUGE}, "at most 268435456 values are accepted"),
        (LABELS, "probs", {"probs": LOGITS}, "probs came in the parts , labels, shape"),
        (
            LABELS,
            "logits",
            {"logits_means": np.array([1, np.nan], np.float32)},
            "the means of logits contain NaN",
        ),
        (
            LEVELS,
            "probs",
            {"probs_codes": np.zeros(4, np.uint8)},
            "expected 5 numbers in the codes of probs, got 4",
        ),
        (
            LEVELS,
            "probs",
            {"probs_codes": np.full(5, 255, np.uint8)},
            "a row of probs does not sum to 1",
        ),
        (
            LEVELS,
            "logits",
            {"logits_range": np.array([np.inf, 0], np.float32)},
            "the range of logits contain NaN",
        ),
        (LEVELS, "logits", {"more": LOGITS}, "more came as it is, of float32; expected it coded"),
        (
            Float16(),
            "logits",
            {"logits_float16": LOGITS},
            "logits came as float32, expected float16",
        ),
        (
            Float16(),
            "logits",
            {"logits_float16": np.float16([[np.nan]])},
            "logits contain NaN or infinity",
        ),
        (
            TopK(k=1),
            "logits",
            {"logits_classes": np.array([0, 4, 1], np.uint8)},
            "must be below 4 and ascend",
        ),
        (
            TopK(k=2),
            "logits",
            {"logits_classes": np.array([0, 1, 2, 2, 0, 1], np.uint8)},
            "must be below 4 and ascend",
        ),
        (TopK(k=1), "probs", {"probs_kept": np.full(3, -1, np.float32)}, "probs must be >= 0"),
        (
            TopK(k=1),
            "probs",
            {"probs_shape": np.array([3, 1], np.uint32)},
            "came as the 1 largest of each row",
        ),
        (
            TopK(k=1),
            "logits",
            {"logits_shape": np.array([12], np.uint32)},
            "came as the 1 largest of each row",
        ),
        (Delta(bits=1), "probs", {"codec_message": None}, "the message has no number"),
        (
            Delta(bits=1),
            "probs",
            {"probs_changed": np.zeros(1, np.uint8)},
            "expected 0 numbers in the changed of probs",
        ),
        (Delta(bits=1), "probs", {"ids": IDS[:2]}, "have not one row for each of the 2 ids"),
        (
            Delta(),
            "probs",
            {"probs_plane3": None},
            "probs came as floats of 3 bytes; expected 2, 4 or 8",
        ),
        (Cached(), "probs", {"ids": None}, "rows came without ids"),
        (
            Cached(),
            "probs",
            {"probs_rows": LOGITS[:2]},
            "expected 3 rows of floating point probs, got float32 of shape",
        ),
    ],
)
def test_why_a_message_is_rejected(codec: Any, scale: str, parts: dict[str, Any], reason: str):
    message, _ = codec.encode({"ids": IDS, scale: np.abs(LOGITS)}, None)
    with pytest.raises(UploadRejected) as rejected:
        codec.decode(swap(message, **parts), None)
    assert reason in str(rejected.value)
