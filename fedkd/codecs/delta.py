"""The codec ``delta``, which sends only rows that changed since they were sent last."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkd.codecs.bits import packed_bytes
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
    too_large,
    without_values,
)
from fedkd.codecs.float_planes import FloatPlanes
from fedkd.codecs.memory import Memory, message_number, read_memory, row_ids, take_message_number
from fedkd.codecs.quantized import quantizer_of
from fedkd.codecs.quantizer import Header, Layout, Quantizer, Rows, layout_of
from fedkd.errors import SettingError, UploadRejected
from fedkd.settings.validators import at_least, at_most


@dataclass(frozen=True, kw_only=True)
class Delta(Codec):
    """Send a bit for each row whose codes are those sent last, and the codes of all other rows.

    A row is one public sample where the arrays have ids, else one entry of an array's first axis.
    At 1 bit on soft labels, behind an entropy coder, this is the uplink of CFD (Sattler et al.
    2020, arXiv 2012.00632).

    With ``bits``, codes and errors are those of ``quantized``, except that the range of an array
    other than ``probs`` is up to twice as wide as its values, so that it need not change with every
    message (``levels.stable_range``). Without, floats arrive exactly as they are; a row that was
    sent before travels as the exclusive or with its last values, by byte planes, which only an
    entropy coder makes smaller.
    """

    stateful: ClassVar[bool] = True

    bits: int | None = None
    """Bits a number, 1 to 8, as in quantized; null sends floats exactly."""

    def __post_init__(self) -> None:
        if self.bits is not None:
            at_least(1, bits=self.bits)
            at_most(8, bits=self.bits)

    def objection(self, arrays: Arrays) -> str | None:
        """Return an objection where there is nothing to code, or not one row for each id."""
        return nothing_coded(arrays) or too_large(arrays) or rows_without_ids(arrays)

    def encode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, Coded | None]:
        """Return the message number with the changed rows of each array, and the new memory.

        Starts over where names or shapes changed. Values that are not finite cannot be quantized:
        the message says so, every receiver rejects it, and the memory stays as it was. Raises
        SettingError where there is not one row for each id.
        """
        why_not = rows_without_ids(arrays)
        if why_not:
            raise SettingError(f"delta cannot code these arrays: {why_not}")
        broken = None if self.bits is None else without_values(arrays)
        if broken:
            unchanged = None if memory is None else dict(memory)
            return message_number(read_memory(memory)) | broken, unchanged
        try:
            return self._encode(arrays, read_memory(memory))
        except UploadRejected:
            return self._encode(arrays, Memory())

    def decode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, Coded | None]:
        """Return the arrays, as float32 with ``bits`` and exactly without, and the new memory."""
        content, known = take_message_number(arrays, memory)
        ids = row_ids(content)
        coded: dict[str, tuple[Rows, Header]] = {}

        def rebuild(name: str, parts: Parts) -> np.ndarray:
            shape = take_shape(name, parts)
            quantizer = self._quantizer(name, shape, len(parts) - 2)
            check_parts(name, parts, {"shape", "changed", *quantizer.parts})
            count, width = _layout(name, quantizer, shape, ids)
            table_rows, was_sent = known.find(name, ids, count)
            known_rows = int(was_sent.sum())
            bitmap = take_part(name, parts, "changed", np.uint8, packed_bytes(known_rows, 1))
            changed = ~was_sent
            changed[was_sent] = np.unpackbits(bitmap, count=known_rows).astype(bool)
            sent, header = quantizer.receive(parts, (int(changed.sum()), width), shape)
            rows = known.last(name, table_rows, was_sent, np.zeros((count, width), sent.dtype))
            rows[changed] = self._change(sent, rows[changed])
            coded[name] = rows, header
            return quantizer.value(rows, header, shape)

        found = decode_each(content, rebuild)
        return found, _after(known, ids, coded)

    def _encode(self, arrays: Arrays, known: Memory) -> tuple[Coded, Coded]:
        ids = row_ids(arrays)
        coded: dict[str, tuple[Rows, Header]] = {}

        def changes(name: str, array: np.ndarray) -> Parts:
            quantizer = self._quantizer(name, array.shape, array.dtype.itemsize)
            layout = _layout(name, quantizer, array.shape, ids)
            rows, header = coded[name] = quantizer.code(array, layout, known.headers.get(name))
            table_rows, was_sent = known.find(name, ids, len(rows))
            before = known.last(name, table_rows, was_sent, rows)
            changed = ~was_sent | (rows != before).any(axis=1)
            parts = {"shape": shape_part(array.shape), "changed": np.packbits(changed[was_sent])}
            return parts | quantizer.send(self._change(rows[changed], before[changed]), header)

        sent = message_number(known) | encode_each(arrays, changes)
        return sent, _after(known, ids, coded)

    def _quantizer(self, name: str, shape: tuple[int, ...], size: int) -> Quantizer:
        """Return the quantizer of an array of this name and shape, of floats of ``size`` bytes."""
        if self.bits is not None:
            return quantizer_of(name, shape, self.bits, holds_range=True)
        if size not in (2, 4, 8):
            raise UploadRejected(f"{name} came as floats of {size} bytes; expected 2, 4 or 8")
        return FloatPlanes(name, size)

    def _change(self, rows: Rows, before: Rows) -> Rows:
        """Return the change that travels for rows, or the rows for a change: xor undoes itself."""
        return rows ^ before if self.bits is None else rows


def rows_without_ids(arrays: Arrays) -> str | None:
    """Return an objection if an array has not one row for each of the ids."""
    ids = row_ids(arrays)
    for name, array in arrays.items():
        if ids is not None and is_coded(array) and array.shape[:1] != ids.shape:
            return _without_id(name, array.shape, len(ids))
    return None


def _without_id(name: str, shape: tuple[int, ...], ids: int) -> str:
    return f"{name} of shape {list(shape)} have not one row for each of the {ids} ids"


def _layout(
    name: str, quantizer: Quantizer, shape: tuple[int, ...], ids: np.ndarray | None
) -> Layout:
    if ids is not None and shape[:1] != ids.shape:
        raise UploadRejected(_without_id(name, shape, len(ids)))
    return layout_of(quantizer, shape, by_id=ids is not None)


def _after(known: Memory, ids: np.ndarray | None, coded: dict[str, tuple[Rows, Header]]) -> Coded:
    rows = {name: rows for name, (rows, _) in coded.items()}
    return known.after(ids, rows, {name: header for name, (_, header) in coded.items()}).to_arrays()
