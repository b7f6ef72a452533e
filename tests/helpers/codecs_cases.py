"""What the tests of codecs share: each codec with each of its settings, and arrays as kinds of
knowledge make them."""

from dataclasses import fields
from typing import Any

import numpy as np

from fedkd.codecs import CODECS, Arrays, Cached, Delta, Float16, Full, LowRank, Quantized, TopK

VARIANTS: dict[str, list[Any]] = {
    "full": [Full()],
    "float16": [Float16()],
    "quantized": [Quantized(bits=bits) for bits in range(1, 9)],
    "top_k": [TopK(k=1), TopK(k=2)],
    "delta": [Delta(), Delta(bits=1), Delta(bits=3), Delta(bits=8)],
    "cached": [Cached(), Cached(duration=2), Cached(duration=3)],
    "low_rank": [LowRank(energy=0.5, last_energy=1.0, over=2, changes=True)],
}

EXACT = (Full, Cached)
"""Codecs whose rows arrive as they are, whatever their floats; ``delta`` without bits is
another."""


def is_exact(codec: Any) -> bool:
    return isinstance(codec, EXACT) or (isinstance(codec, Delta) and codec.bits is None)


def title(codec: Any) -> str:
    name = next(name for name, cls in CODECS.items() if cls is type(codec))
    return "-".join([name, *(f"{f.name}={getattr(codec, f.name)}" for f in fields(codec))])


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


def some_logits(stream: np.random.Generator, rows: int, classes: int) -> np.ndarray:
    """Logits of any size; every other problem has whole numbers and so ties."""
    logits = stream.normal(size=(rows, classes)) * 10.0 ** stream.integers(-3, 3)
    return (logits.round() if stream.random() < 0.5 else logits).astype(np.float32)


def some_arrays(
    kind: str, stream: np.random.Generator, rows: int, classes: int
) -> dict[str, np.ndarray]:
    """Arrays of one kind of knowledge."""
    logits = some_logits(stream, rows, classes)
    ids = stream.permutation(12)[:rows].astype(np.int32)
    if kind == "logits":
        return {"ids": ids, "logits": logits}
    if kind == "probs":
        return {"ids": ids, "probs": softmax(logits)}
    if kind == "table":
        present = stream.random(classes) < 0.7
        return {
            "probs": softmax(some_logits(stream, classes, classes)) * present[:, None],
            "present": present,
        }
    if kind == "features":
        return {"features": logits, "counts": stream.integers(0, 9, rows)}
    weights = {
        "layer.weight": logits,
        "layer.bias": logits[:, 0].copy(),
        "scale": np.array(logits.max()),
    }
    return {
        **weights,
        "kernel": stream.normal(size=(rows, 2, 3, 3)).astype(np.float32),
        "steps": np.array(7),
    }


KINDS = ["logits", "probs", "table", "features", "weights"]


def travelled(arrays: Arrays) -> dict[str, np.ndarray]:
    """Arrays after a trip through bytes: equal, and read-only."""
    return {
        name: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for name, a in arrays.items()
    }


def assert_same(found: Arrays | None, expected: Arrays | None) -> None:
    """Equal to the bit, in the same order, NaN included."""
    assert (found is None) == (expected is None)
    if found is None or expected is None:
        return
    assert list(found) == list(expected)
    for name, array in found.items():
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape), name
        assert array.tobytes() == expected[name].tobytes(), name
