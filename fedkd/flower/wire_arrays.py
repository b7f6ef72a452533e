"""Arrays in Flower's records and back: bytes where a message leaves the process, and not before.

An array comes from a client, so that nothing in it is believed before it is checked against
``fedkd.settings.reply_limits``. No function writes into a record or its arrays: in process, one
record may be in many messages.
"""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord

from fedkd.errors import UploadRejected, printable
from fedkd.messages import MessageSize
from fedkd.settings.reply_limits import DTYPES, LIMITS

RAW = "fedkd.raw"
"""How arrays are encoded: their values alone, little endian, rows first; Flower's record holds
dtype and shape."""
SHOWN = 60
"""Most characters of a name that an error shows."""


class UnencodedArray(Array):
    """A NumPy array in a record, encoded only once its bytes are asked for.

    That is where a message leaves the process; elsewhere it arrives as Flower's own ``Array``.
    """

    def __init__(self, values: np.ndarray) -> None:
        """Take an array that nobody writes into from now on; TypeError for a type of no numbers."""
        if values.dtype.name not in DTYPES:
            raise TypeError(f"an array of {values.dtype} cannot be sent; use {', '.join(DTYPES)}")
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        self.values = np.ascontiguousarray(little).reshape(values.shape)
        self.values.flags.writeable = False
        self.dtype, self.shape, self.stype = values.dtype.name, values.shape, RAW

    @cached_property
    def data(self) -> bytes:  # type: ignore[override]
        """The values' bytes."""
        return self.values.tobytes()

    def encoded(self) -> Array:
        """Return it as Flower's array."""
        return Array(dtype=self.dtype, shape=self.shape, stype=self.stype, data=self.data)

    def deflate(self) -> bytes:
        """Return the bytes that Flower sends for it."""
        return self.encoded().deflate()

    def __reduce__(self) -> tuple[Any, ...]:
        return Array, (self.dtype, self.shape, self.stype, self.data)


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Return named arrays as one record."""
    record = ArrayRecord()
    for name, value in arrays.items():  # its constructor would encode them
        record[name] = UnencodedArray(value)
    return record


def unpack_arrays(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Return the named arrays of a record, read-only; UploadRejected where one cannot be read."""
    if len(record) > LIMITS.arrays:
        raise UploadRejected(f"{len(record)} arrays came, at most {LIMITS.arrays} are read")
    return {name: _unpack(name, array) for name, array in record.items()}


def shown(text: str) -> str:
    """Return a name that came from elsewhere as an error shows it."""
    return repr(printable(text, SHOWN))


def check_name(name: str) -> None:
    """Raise UploadRejected unless a name is printable and not too long."""
    if len(name) > LIMITS.name_characters or not name.isprintable():
        raise UploadRejected(
            f"the name {shown(name)} is no printable text of at most {LIMITS.name_characters}"
            " characters"
        )


def _unpack(name: str, array: Array) -> np.ndarray:
    if isinstance(array, UnencodedArray):  # checked when it was made
        return array.values
    check_name(name)
    if array.stype != RAW:
        raise UploadRejected(f"array {name} is encoded as {shown(array.stype)}, expected {RAW}")
    dtype, shape = DTYPES.get(array.dtype), array.shape
    if dtype is None:
        raise UploadRejected(
            f"array {name} is of type {shown(array.dtype)}, expected one of {', '.join(DTYPES)}"
        )
    widest = math.prod(max(n, 1) for n in shape[: LIMITS.axes])
    if len(shape) > LIMITS.axes or min(shape, default=0) < 0 or widest > LIMITS.array_values:
        raise UploadRejected(
            f"array {name} is of {len(shape)} axes and some {widest:.1e} values; at most"
            f" {LIMITS.axes} and {LIMITS.array_values:.1e} are read"
        )
    size = math.prod(shape)
    if size * dtype.itemsize != len(array.data):
        raise UploadRejected(
            f"array {name} has {len(array.data)} bytes, expected {dtype.itemsize} each for the"
            f" {size} values of shape {list(shape)}"
        )
    values = np.frombuffer(array.data, dtype.newbyteorder("<")).reshape(shape)
    if dtype.kind == "b" and values.view(np.uint8).max(initial=0) > 1:
        raise UploadRejected(f"array {name} has values other than 0 and 1, expected flags")
    return values


def record_size(record: ArrayRecord) -> MessageSize:
    """Return the size of the values of a record's arrays."""
    return MessageSize.of(
        {
            name: array.values
            if isinstance(array, UnencodedArray)
            else np.frombuffer(array.data, np.uint8)
            for name, array in record.items()
        }
    )
