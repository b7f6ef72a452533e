"""Packing of numbers of a few bits into bytes, the first number in the highest bits."""

import numpy as np
from jaxtyping import UInt8


def packed_bytes(count: int, bits: int) -> int:
    """Return the number of bytes that ``count`` numbers of ``bits`` bits take."""
    return -(-count * bits // 8)


def pack(codes: UInt8[np.ndarray, "n"], bits: int) -> UInt8[np.ndarray, "bytes"]:
    """Return the packed bytes of numbers below 2^bits, ``bits`` from 1 to 8.

    The last byte is filled up with zeros.

    >>> [f"{byte:08b}" for byte in pack(np.array([1, 2, 7], np.uint8), 3)]
    ['00101011', '10000000']
    """
    # Eight numbers fill exactly ``bits`` bytes.
    groups = np.zeros((packed_bytes(len(codes), 1), 8), np.uint8)
    groups.reshape(-1)[: len(codes)] = codes
    words = np.zeros(len(groups), np.uint64)
    for column in range(8):
        words = words << np.uint64(bits) | groups[:, column]
    high_first = words.astype(">u8").view(np.uint8).reshape(-1, 8)
    return high_first[:, 8 - bits :].reshape(-1)[: packed_bytes(len(codes), bits)]


def unpack(packed: UInt8[np.ndarray, "bytes"], bits: int, count: int) -> UInt8[np.ndarray, "n"]:
    """Return the first ``count`` numbers of packed bytes.

    There must be ``packed_bytes(count, bits)`` bytes.

    >>> unpack(np.array([0b00101011, 0b10000000], np.uint8), 3, 3).tolist()
    [1, 2, 7]
    """
    groups = np.zeros((packed_bytes(count, 1), bits), np.uint8)
    groups.reshape(-1)[: len(packed)] = packed
    words = np.zeros(len(groups), np.uint64)
    for column in range(bits):
        words = words << np.uint64(8) | groups[:, column]
    shifts = np.arange(7, -1, -1, dtype=np.uint64) * np.uint64(bits)
    return (words[:, None] >> shifts & np.uint64(2**bits - 1)).astype(np.uint8).reshape(-1)[:count]
