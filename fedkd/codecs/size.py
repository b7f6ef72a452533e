"""The size of a message: its bytes, and the bytes that an ideal entropy coder would leave."""

import math

import numpy as np
from jaxtyping import UInt8

from fedkd.codecs.codec import Arrays

PAIRS = 1 << 16
"""From this many bytes on, counting them in pairs is faster."""


def raw_bytes(arrays: Arrays) -> int:
    """Return the number of bytes of the values of all arrays.

    >>> raw_bytes({"ids": np.zeros(3, np.int32), "labels": np.zeros(3, np.uint8)})
    15
    """
    return sum(array.nbytes for array in arrays.values())


def coded_bytes(arrays: Arrays) -> float:
    """Return the number of bytes after an ideal order-0 entropy coder over each array's bytes.

    For each array of n bytes, of which n_v have the value v: ``sum_v n_v log2(n / n_v) / 8``
    (Shannon 1948). No coder that codes each byte by how often it occurs does better, and an
    arithmetic coder comes close. Its table of frequencies is not counted, so that arrays of a few
    hundred bytes seem smaller than any coder makes them. One that also looks at a byte's neighbors
    may do better.

    Between 0 (one value only) and ``raw_bytes`` (all 256 values equally often).

    >>> coded_bytes({"labels": np.array([3, 3, 7, 7], np.uint8)})  # one bit each
    0.5
    """
    return sum(_coded_bytes(array) for array in arrays.values())


def _coded_bytes(array: np.ndarray) -> float:
    if array.nbytes == 0:
        return 0.0
    counts = byte_counts(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    counts = counts[counts > 0].astype(np.float64)
    return max(
        0.0, float(array.nbytes * math.log2(array.nbytes) - (counts * np.log2(counts)).sum()) / 8
    )


def byte_counts(content: UInt8[np.ndarray, "n"]) -> np.ndarray:
    """Return the number of times that each of the 256 byte values occurs."""
    if len(content) < PAIRS:
        return np.bincount(content, minlength=256)
    even = len(content) // 2 * 2
    # Two bytes at once are counted in half the time.
    pairs = np.bincount(content[:even].view(np.uint16), minlength=1 << 16).reshape(256, 256)
    counts: np.ndarray = (
        pairs.sum(axis=0) + pairs.sum(axis=1) + np.bincount(content[even:], minlength=256)
    )
    return counts
