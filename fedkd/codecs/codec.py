"""The protocol of a codec, and the helpers that all codecs share to write and read messages.

Floating point arrays are coded, all others (ids, counts, masks) travel as they are. A coded array
travels as parts named ``array:part``, so an array's own name has no colon. ``probs`` and ``logits``
of shape [N, C] are rows of classes, any other array is numbers without structure.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike

from fedkd.errors import UploadRejected
from fedkd.settings.conditions import Compatible, RunConditions
from fedkd.settings.reply_limits import LIMITS

Arrays = Mapping[str, np.ndarray]
Coded = dict[str, np.ndarray]
Parts = dict[str, np.ndarray]

ROUNDING = 0.05
"""How far rounding may have moved a row of soft labels from summing to 1; others are left for the
kind to reject."""
NOT_FINITE = "not_finite"


@runtime_checkable
class Codec(Compatible, Protocol):
    """One encoding of named arrays. Derive from it. Nothing mutates its arguments.

    ``memory`` is what both sides remember of earlier messages between them in this direction: named
    arrays, for a checkpoint to hold, or None at the start and for a codec that is not ``stateful``.
    The law: ``decode`` of what ``encode`` returned, with an equal memory, returns a memory equal to
    the bit. A sender that passes None starts over, and the receiver follows, whatever it remembers.
    A receiver that rejects keeps the memory that it had.
    """

    stateful: ClassVar[bool] = False

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with a strategy that exchanges nothing."""
        if conditions.exchanges:
            return None
        return (
            f"codec={conditions.name_of('codec')} would do nothing:"
            f" strategy={conditions.strategy} exchanges nothing"
        )

    def of_client(self, client_id: int) -> "Codec":
        """Return the codec of a client's messages, both ways; by default the same for all."""
        return self

    def objection(self, arrays: Arrays) -> str | None:
        """Return the reason why this codec cannot take arrays of such names and shapes, or None."""
        return None

    @abstractmethod
    def encode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, Coded | None]:
        """Return the message that travels, and the sender's new memory."""

    @abstractmethod
    def decode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, Coded | None]:
        """Return the arrays as the receiver has them, and the receiver's new memory.

        Raises UploadRejected for a broken message.
        """


def is_coded(array: np.ndarray) -> bool:
    """Return whether an array is coded: whether it is of floating point numbers."""
    return array.dtype.kind == "f"


def nothing_coded(arrays: Arrays) -> str | None:
    """Return an objection if no array is of floating point numbers."""
    return (
        None
        if any(map(is_coded, arrays.values()))
        else "it codes floating point arrays, and there are none"
    )


def too_large(arrays: Arrays) -> str | None:
    """Return an objection if an array has more values than a receiver accepts."""
    found = [name for name, array in arrays.items() if array.size > LIMITS.array_values]
    most = LIMITS.array_values
    return (
        f"{found[0]} have {arrays[found[0]].size} values, at most {most} are accepted"
        if found
        else None
    )


def are_rows_of_classes(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether an array is soft labels or logits [N, C] of two classes or more."""
    return name in ("probs", "logits") and len(shape) == 2 and shape[1] > 1


def to_float32(array: np.ndarray) -> np.ndarray:
    """Return an array as float32; numbers out of its range become infinite."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def renormalized(name: str, values: np.ndarray) -> np.ndarray:
    """Return soft labels whose rows sum to 1 again after rounding; other arrays as they are."""
    if name != "probs" or values.ndim == 0:
        return values
    sums = values.sum(axis=-1, dtype=np.float64, keepdims=True)
    divisors: np.ndarray = np.where(np.abs(sums - 1) <= ROUNDING, sums, 1.0)
    quotients: np.ndarray = values / divisors.astype(values.dtype)
    return quotients


def without_values(arrays: Arrays) -> Coded | None:
    """Return the message that says that values are not finite, or None if all are finite.

    Such values have no code. A client whose training diverged sends this message, and every
    receiver rejects it with the reason.
    """
    broken = [
        name for name, a in arrays.items() if is_coded(a) and not np.isfinite(to_float32(a)).all()
    ]
    return {f"{name}:{NOT_FINITE}": np.zeros(0, np.uint8) for name in broken} or None


def encode_each(arrays: Arrays, encode: Callable[[str, np.ndarray], Parts]) -> Coded:
    """Return a message of the parts of each coded array, and of all other arrays as they are."""
    sent: Coded = {}
    for name, array in arrays.items():
        parts = encode(name, array) if is_coded(array) else {"": array}
        sent |= {f"{name}:{part}" if part else name: value for part, value in parts.items()}
    return sent


def decode_each(arrays: Arrays, decode: Callable[[str, Parts], np.ndarray]) -> Coded:
    """Return the arrays of a message, in its order; ``decode`` reads the parts of each coded one.

    Raises UploadRejected for values that are not finite and for floating point arrays that came
    without a code.
    """
    groups: dict[str, Parts] = {}
    for key, array in arrays.items():
        name, _, part = key.rpartition(":") if ":" in key else (key, "", "")
        groups.setdefault(name, {})[part] = array
    found = {}
    for name, parts in groups.items():
        if NOT_FINITE in parts:
            raise UploadRejected(f"{name} contain NaN or infinity")
        if set(parts) == {""}:
            if parts[""].dtype.kind not in "biu":
                raise UploadRejected(
                    f"{name} came as it is, of {parts[''].dtype}; expected it coded"
                )
            found[name] = parts[""]
        else:
            found[name] = decode(name, parts)
    return found


def check_parts(name: str, parts: Parts, expected: set[str]) -> None:
    """Raise UploadRejected unless an array came in exactly the parts ``expected``."""
    if set(parts) != expected:
        came = ", ".join(sorted(parts))
        raise UploadRejected(
            f"{name} came in the parts {came}; expected {', '.join(sorted(expected))}"
        )


def take_part(
    name: str, parts: Parts, part: str, dtype: DTypeLike, size: int | None = None
) -> np.ndarray:
    """Return one part of an array that came; UploadRejected unless it is as described.

    Args:
        name: The array's name, for the error.
        parts: The parts that came.
        part: Name of the part to return.
        dtype: Expected type; the part has one axis.
        size: Expected length; None accepts any.
    """
    array, expected = parts.get(part), np.dtype(dtype)
    if array is None:
        raise UploadRejected(f"{name} came without its {part}")
    if (array.dtype.kind, array.dtype.itemsize, array.ndim) != (
        expected.kind,
        expected.itemsize,
        1,
    ):
        came = f"{array.dtype} of {array.ndim} dimensions"
        raise UploadRejected(
            f"the {part} of {name} must be {expected} of one dimension, got {came}"
        )
    if size is not None and array.size != size:
        raise UploadRejected(f"expected {size} numbers in the {part} of {name}, got {array.size}")
    if expected.kind == "f" and not np.isfinite(array).all():
        raise UploadRejected(f"the {part} of {name} contain NaN or infinity")
    return array.astype(expected, copy=False)


def shape_part(shape: tuple[int, ...]) -> np.ndarray:
    """Return a shape as it travels, in 4 bytes an axis."""
    return np.array(shape, np.uint32)


def check_described(arrays: Arrays, most: int) -> None:
    """Raise UploadRejected where coded arrays say that they have more values than ``most`` in all.

    A few bytes must not fill the memory.
    """
    shapes = [a for key, a in arrays.items() if key.endswith(":shape") and a.dtype.kind == "u"]
    described = sum(math.prod(max(n, 1) for n in shape.reshape(-1).tolist()) for shape in shapes)
    if described > most:
        raise UploadRejected(f"the arrays have {described:.3g} values, expected at most {most}")


def take_shape(name: str, parts: Parts) -> tuple[int, ...]:
    """Return the shape that came; UploadRejected for more axes or values than are accepted."""
    shape = tuple(int(length) for length in take_part(name, parts, "shape", np.uint32))
    axes, most = LIMITS.axes, LIMITS.array_values
    if len(shape) > axes or math.prod(max(length, 1) for length in shape) > most:
        raise UploadRejected(
            f"{name} are of shape {list(shape[:axes])}; at most {most} values are accepted"
        )
    return shape
