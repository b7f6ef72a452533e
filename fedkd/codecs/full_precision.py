"""The codecs ``full`` and ``float16``, which send every number, in full or in half the bytes."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from fedkd.codecs.codec import (
    Arrays,
    Codec,
    Coded,
    Parts,
    check_parts,
    decode_each,
    encode_each,
    is_coded,
    nothing_coded,
    renormalized,
    to_float32,
    without_values,
)
from fedkd.errors import UploadRejected

LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


@dataclass(frozen=True, kw_only=True)
class Full(Codec):
    """Send every array as it is."""

    def encode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, None]:
        """Return the arrays as the message."""
        return dict(arrays), None

    def decode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, None]:
        """Return the message as the arrays."""
        return dict(arrays), None


@dataclass(frozen=True, kw_only=True)
class Float16(Codec):
    """Send floating point arrays in IEEE 754 half precision, 16 bits a number.

    They come back as float32. A number from 2^-14 (6e-5) on keeps 11 significant bits: it is off by
    at most 2^-11 of itself. Smaller ones are rounded to multiples of 2^-24 (6e-8), and magnitudes
    beyond 65504 are clipped to it. Rows of ``probs`` are divided by their sum again.
    """

    stateful: ClassVar[bool] = False

    def objection(self, arrays: Arrays) -> str | None:
        """Return an objection where there is no float array of more than 16 bits."""
        if any(is_coded(array) and array.dtype.itemsize > 2 for array in arrays.values()):
            return None
        return nothing_coded(arrays) or "the arrays are float16 already"

    def encode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, None]:
        """Return the arrays, the coded ones as float16."""
        return without_values(arrays) or encode_each(arrays, _halve), None

    def decode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, None]:
        """Return the arrays, the coded ones as float32."""
        return decode_each(arrays, _widen), None


def _halve(name: str, array: np.ndarray) -> Parts:
    # NumPy clips an array without axes to a scalar, which is no array.
    clipped = np.asarray(np.clip(to_float32(array), -LARGEST_FLOAT16, LARGEST_FLOAT16))
    return {"float16": _converted(clipped, torch.float16)}


def _widen(name: str, parts: Parts) -> np.ndarray:
    check_parts(name, parts, {"float16"})
    array = parts["float16"]
    if array.dtype.kind != "f" or array.dtype.itemsize != 2:
        raise UploadRejected(f"{name} came as {array.dtype}, expected float16")
    values = _converted(array.astype(np.float16, copy=False), torch.float32)
    if not np.isfinite(values).all():
        raise UploadRejected(f"{name} contain NaN or infinity")
    return renormalized(name, values)


def _converted(array: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    # torch's conversion: NumPy's has the same bits and takes far longer for the tiny numbers of
    # soft labels.
    converted: np.ndarray = torch.tensor(array).to(dtype).numpy()
    return converted
