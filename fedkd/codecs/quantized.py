"""The codec ``quantized``, which sends a few bits for each number."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fedkd.codecs.codec import (
    Arrays,
    Codec,
    Coded,
    Parts,
    are_rows_of_classes,
    check_parts,
    decode_each,
    encode_each,
    nothing_coded,
    shape_part,
    take_shape,
    too_large,
    without_values,
)
from fedkd.codecs.labels import LabelsOfLogits, LabelsOfProbs
from fedkd.codecs.levels import Counts, Levels
from fedkd.codecs.quantizer import Quantizer, layout_of
from fedkd.errors import SettingError
from fedkd.settings.conditions import RunConditions
from fedkd.settings.validators import at_least, at_most


def quantizer_of(
    name: str, shape: tuple[int, ...], bits: int, holds_range: bool = False
) -> Quantizer:
    """Return the quantizer of an array.

    Args:
        name: The array's name; ``probs`` and ``logits`` [N, C] have quantizers of their own.
        shape: The array's shape.
        bits: Bits a number, 1 to 8.
        holds_range: Whether a range stays over messages where it can.
    """
    if are_rows_of_classes(name, shape) and bits == 1:
        return LabelsOfProbs(name) if name == "probs" else LabelsOfLogits(name)
    if are_rows_of_classes(name, shape) and name == "probs":
        return Counts(name, bits)
    return Levels(name, bits, holds_range)


@dataclass(frozen=True, kw_only=True)
class Quantized(Codec):
    """Send floating point arrays at ``bits`` bits a number, rounded to the nearest level.

    Nothing is random. Arrays come back as float32.

    ``probs`` [N, C] come back as distributions of multiples of 1 / (2^bits - 1), each less than one
    step off, and at 1 bit one-hot (CFD: Sattler et al. 2020, arXiv 2012.00632). ``logits`` [N, C]
    at 1 bit keep their argmax. Any other array is uniform between its least and its largest number,
    at most half a step off.

    With a list of ``bits``, one for each client, messages of client i, up and down, have bits[i],
    as where links differ: a teacher that all share is then encoded once for each number of bits.
    """

    stateful: ClassVar[bool] = False

    bits: int | tuple[int, ...] = 8
    """Bits a number, 1 to 8, for all or a list by client. At 1, rows of soft labels or logits are
    their argmax."""

    def __post_init__(self) -> None:
        for bits in self._each:
            at_least(1, bits=bits)
            at_most(8, bits=bits)
        if len(set(self._each)) == 1 and isinstance(self.bits, tuple):
            raise SettingError(
                f"bits={list(self.bits)} are the same for all clients; say bits={self.bits[0]}"
            )
        if not self._each:
            raise SettingError("bits=[] names none; give a number, or a list by client")

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with a number of clients other than that of bits."""
        if isinstance(self.bits, tuple) and len(self.bits) != conditions.clients:
            return (
                f"codec.bits has {len(self.bits)} numbers, one for each client, and there are"
                f" clients={conditions.clients}; give as many, or one number for all"
            )
        return super().conflict(conditions)

    def of_client(self, client_id: int) -> "Quantized":
        """Return the codec with a client's bits."""
        return replace(self, bits=self.bits[client_id]) if isinstance(self.bits, tuple) else self

    @property
    def _own(self) -> int:
        """The bits of one client's codec."""
        assert isinstance(self.bits, int), "a list is asked for one client's codec"
        return self.bits

    @property
    def _each(self) -> tuple[int, ...]:
        return self.bits if isinstance(self.bits, tuple) else (self.bits,)

    def objection(self, arrays: Arrays) -> str | None:
        """Return an objection where there is nothing to quantize."""
        return nothing_coded(arrays) or too_large(arrays)

    def encode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, None]:
        """Return the shape and codes of each coded array, and its header if it has one."""
        return without_values(arrays) or encode_each(arrays, self._encode), None

    def decode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, None]:
        """Return the arrays, the coded ones as float32."""
        return decode_each(arrays, self._decode), None

    def _encode(self, name: str, array: np.ndarray) -> Parts:
        quantizer = quantizer_of(name, array.shape, self._own)
        rows, header = quantizer.code(array, layout_of(quantizer, array.shape, by_id=False), None)
        return {"shape": shape_part(array.shape), **quantizer.send(rows, header)}

    def _decode(self, name: str, parts: Parts) -> np.ndarray:
        shape = take_shape(name, parts)
        quantizer = quantizer_of(name, shape, self._own)
        check_parts(name, parts, {"shape", *quantizer.parts})
        layout = layout_of(quantizer, shape, by_id=False)
        rows, header = quantizer.receive(parts, layout, shape)
        return quantizer.value(rows, header, shape)
