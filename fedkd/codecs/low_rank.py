"""The codec ``low_rank``, which sends matrices by their largest singular values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

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
    shape_part,
    take_part,
    take_shape,
    to_float32,
    too_large,
    without_values,
)
from fedkd.codecs.memory import NEXT, START_OVER
from fedkd.errors import SettingError, UploadRejected
from fedkd.runtime.one_thread import one_thread
from fedkd.settings.conditions import RunConditions
from fedkd.settings.validators import at_least, share


@dataclass(frozen=True, kw_only=True)
class LowRank(Codec):
    """Send each matrix as the product of two, of the least rank that keeps a share of its energy.

    Energy is the sum of squared singular values. Of message i, from 0, the share is ``energy`` at
    first and ``last_energy`` from message ``over`` on, in equal steps between. An array of more
    axes is a matrix by its first one; arrays of fewer than two axes, ``probs``, and matrices that
    two factors would make larger, travel as they are in 32 bits. As FedKD does (Wu et al. 2022, doi
    10.1038/s41467-022-29763-x) on a round's change of each weight; its released code sends nothing
    of a matrix of which all singular values but the last are not enough.

    With ``changes`` a message says how values changed since the last one, which both sides
    remember, errors included; the first one travels as it is.
    """

    stateful: ClassVar[bool] = True

    energy: float = 0.95
    """Share of a matrix's energy that the first message keeps, above 0 and at most 1."""
    last_energy: float = 0.98
    """Share that later messages keep, above 0 and at most 1."""
    over: int = 50
    """Messages over which the share goes from the first to the last, >= 1."""
    changes: bool = False
    """Code what changed since the last message, rather than values."""

    def __post_init__(self) -> None:
        share(energy=self.energy, last_energy=self.last_energy)
        at_least(1, over=self.over)

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with strategies that exchange soft labels alone."""
        found = super().conflict(conditions)
        if found is None and conditions.scale == "probs":
            return (
                f"codec=low_rank would do nothing: clients of strategy={conditions.strategy} send"
                " soft labels, which are no matrix of low rank; use another codec"
            )
        return found

    def objection(self, arrays: Arrays) -> str | None:
        """Return an objection where there is nothing to code."""
        return nothing_coded(arrays) or too_large(arrays)

    def encode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, Coded | None]:
        """Return the number of the message with two factors of each matrix, and the new memory.

        Starts over where names or shapes changed. Raises SettingError on an objection.
        """
        why_not = self.objection(arrays)
        if why_not:
            raise SettingError(f"low_rank cannot code these arrays: {why_not}")
        message_number, known = _read(memory)
        broken = without_values(arrays)
        if broken:
            return _numbered(message_number) | broken, None if memory is None else dict(memory)
        if self.changes and message_number and not _fits(arrays, known):
            message_number, known = 0, {}

        def factors(name: str, array: np.ndarray) -> Parts:
            before = known.get(name, np.float32(0))
            change = np.asarray(to_float32(array) - before, np.float32)  # also without axes
            whole = name == "probs" or (self.changes and not message_number)
            return self._factored(change, self.share_of(message_number), whole=whole)

        with one_thread():
            sent = _numbered(message_number) | encode_each(arrays, factors)
        return sent, self.decode(sent, memory)[1]

    def decode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, Coded | None]:
        """Return the arrays, the coded ones as float32, and the new memory."""
        came = arrays.get(NEXT)
        if came is None or came.dtype.kind != "u" or came.shape != (1,):
            raise UploadRejected("the message has no number")
        message_number, known = _read(memory) if int(came[0]) else (0, {})
        if int(came[0]) != message_number:
            raise UploadRejected(f"message {came[0]} came, expected {message_number}: {START_OVER}")
        content = {name: array for name, array in arrays.items() if name != NEXT}
        coded = {key.rpartition(":")[0] for key in content if ":" in key}
        if known and coded != set(known):
            raise UploadRejected(f"other arrays came than before: {START_OVER}")

        def value(name: str, parts: Parts) -> np.ndarray:
            change = _product(name, parts)
            if name not in known:
                return change
            if known[name].shape != change.shape:
                raise UploadRejected(f"{name} are of another shape than before: {START_OVER}")
            return np.asarray(known[name] + change, np.float32)

        with one_thread():
            found = decode_each(content, value)
        after = {name: found[name].copy() for name in sorted(coded)} if self.changes else {}
        return found, _numbered(message_number + 1) | after

    def share_of(self, message: int) -> float:
        """Return the share of energy that a message keeps.

        >>> [round(LowRank(over=3).share_of(i), 3) for i in (0, 1, 3, 9)]
        [0.95, 0.96, 0.98, 0.98]
        """
        done = min(message / self.over, 1.0)
        return self.energy + done * (self.last_energy - self.energy)

    def _factored(
        self, values: Float[np.ndarray, "*shape"], least_share: float, *, whole: bool
    ) -> Parts:
        shape = {"shape": shape_part(values.shape)}
        as_it_is = {**shape, "values": values.reshape(-1).copy()}
        if whole or values.ndim < 2 or values.size == 0:
            return as_it_is
        matrix = values.reshape(len(values), -1)
        rank, left, sigma, right = decompose(matrix, least_share)
        if rank * sum(matrix.shape) >= matrix.size:
            return as_it_is
        parts = {"left": left[:, :rank] * sigma[:rank], "right": right[:rank]}
        return shape | {name: part.astype(np.float32).reshape(-1) for name, part in parts.items()}


def decompose(
    matrix: Float[np.ndarray, "m n"], least_share: float
) -> tuple[int, Float[np.ndarray, "m k"], Float[np.ndarray, "k"], Float[np.ndarray, "k n"]]:
    """Return the least rank that keeps a share of a matrix's energy, and its decomposition.

    The rank is 0 for a matrix of zeros alone, and all of it where nothing less is enough.

    >>> decompose(np.diag([3.0, 1.0]), 0.9)[0], decompose(np.diag([3.0, 1.0]), 0.95)[0]
    (1, 2)
    """
    left, sigma, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    energy = np.cumsum(sigma**2)
    rank = 0 if energy[-1] == 0 else int(np.searchsorted(energy, least_share * energy[-1])) + 1
    return min(rank, len(sigma)), left, sigma, right


def _product(name: str, parts: Parts) -> np.ndarray:
    """Return the array that came whole or in two factors."""
    shape = take_shape(name, parts)
    size = int(np.prod(shape, dtype=np.int64))
    if "values" in parts:
        check_parts(name, parts, {"shape", "values"})
        return take_part(name, parts, "values", np.float32, size).reshape(shape).copy()
    check_parts(name, parts, {"shape", "left", "right"})
    if len(shape) < 2 or size == 0:
        raise UploadRejected(f"{name} of shape {list(shape)} came in two factors")
    rows, columns = shape[0], size // shape[0]
    left = take_part(name, parts, "left", np.float32)
    rank, rest = divmod(left.size, rows)
    right = take_part(name, parts, "right", np.float32, rank * columns)
    if rest or rank > min(rows, columns):
        raise UploadRejected(f"the left factor of {name} has {left.size} numbers for {rows} rows")
    with np.errstate(over="ignore", invalid="ignore"):
        product: np.ndarray = left.reshape(rows, rank) @ right.reshape(rank, columns)
    if not np.isfinite(product).all():
        raise UploadRejected(f"the factors of {name} are too large")
    return product.reshape(shape)


def _read(memory: Arrays | None) -> tuple[int, Mapping[str, np.ndarray]]:
    """Return the number of the next message, and the values that both sides have."""
    if memory is None:
        return 0, {}
    return int(memory[NEXT][0]), {name: a for name, a in memory.items() if name != NEXT}


def _numbered(message_number: int) -> Coded:
    return {NEXT: np.array([message_number], np.uint32)}


def _fits(arrays: Arrays, known: Mapping[str, np.ndarray]) -> bool:
    shapes = {name: array.shape for name, array in arrays.items() if is_coded(array)}
    return shapes == {name: array.shape for name, array in known.items()}
