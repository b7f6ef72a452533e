"""Quantizers to 1 to 8 bits: soft labels that stay distributions, numbers on a uniform grid."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, UInt8

from fedkd.codecs.bits import pack, packed_bytes, unpack
from fedkd.codecs.codec import Parts, take_part, to_float32
from fedkd.codecs.quantizer import NO_HEADER, Header, Layout, Rows
from fedkd.codecs.top_k_mask import top_k_mask
from fedkd.errors import UploadRejected

LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def nearest_counts(probs: Float[np.ndarray, "N C"], total: int) -> UInt8[np.ndarray, "N C"]:
    """Return the whole numbers nearest to ``total * probs`` that sum to ``total`` in each row.

    ``total`` is 1 to 255. The largest remainder method, nearest in squares and in absolute values:
    each number is rounded down, and the missing units go to those that lost most (ties: the lowest
    class). Each is less than 1 off. At ``total=1`` it is the argmax wherever that is the only
    largest. Rows are divided by their sum first; a row of zeros stays one.

    >>> nearest_counts(np.array([[0.5, 0.3, 0.2]]), 3).tolist()  # of 1.5, 0.9 and 0.6
    [[1, 1, 1]]
    """
    rows = np.maximum(to_float32(probs), 0)
    sums = rows.sum(axis=1, dtype=np.float64, keepdims=True)
    scaled = rows * (total / np.where(sums > 0, sums, 1.0)).astype(np.float32)
    whole = np.floor(scaled)
    missing = np.where(sums > 0, total - whole.sum(axis=1, dtype=np.float64, keepdims=True), 0.0)
    counts: np.ndarray = whole + top_k_mask(scaled - whole, missing[:, 0].astype(np.int64))
    return counts.astype(np.uint8)


def stable_range(low: float, high: float, previous: Header | None) -> Header:
    """Return a range for numbers from ``low`` to ``high`` that rarely changes between messages.

    Within one range, equal numbers have equal codes. The ``previous`` range stays while the numbers
    fit into it and fill at least half of it. A new range is an eighth of their extent wider on each
    side.

    >>> stable_range(0.0, 8.0, None).tolist()
    [-1.0, 9.0]
    >>> stable_range(0.5, 9.0, np.array([-1, 9], np.float32)).tolist()
    [-1.0, 9.0]
    """
    if previous is not None:
        start, end = previous.tolist()
        if start <= low and high <= end and high - low >= (end - start) / 2:
            return previous
    margin = (high - low) / 8
    ends = np.clip([low - margin, high + margin], -LARGEST_FLOAT32, LARGEST_FLOAT32)
    return ends.astype(np.float32)


@dataclass(frozen=True)
class Counts:
    """Code soft labels at 2 to 8 bits as multiples of 1 / (2^bits - 1) that sum to 1.

    The nearest ones, by ``nearest_counts``. CFD's constrained quantization as we read it (arXiv
    2012.00632): uniform levels on [0, 1], and rows remain distributions. Each probability is less
    than a step off. The levels are always the same, so there is no header.
    """

    parts: ClassVar[tuple[str, ...]] = ("codes",)
    one_code_per_row: ClassVar[bool] = False
    name: str
    bits: int

    def code(
        self, values: np.ndarray, layout: Layout, previous: Header | None
    ) -> tuple[Rows, Header]:
        """Return the counts [N, C]."""
        return nearest_counts(values, 2**self.bits - 1), NO_HEADER

    def value(self, rows: Rows, header: Header, shape: tuple[int, ...]) -> np.ndarray:
        """Return the soft labels of the counts."""
        total = 2**self.bits - 1
        sums = rows.sum(axis=1, dtype=np.int64)
        if ((sums != total) & (sums != 0)).any():  # a row of zeros is left for the kind to judge
            raise UploadRejected(f"a row of {self.name} does not sum to 1")
        return rows / np.float32(total)

    def send(self, rows: Rows, header: Header) -> Parts:
        """Return the packed counts as a part."""
        return {"codes": pack(rows.reshape(-1), self.bits)}

    def receive(self, parts: Parts, layout: Layout, shape: tuple[int, ...]) -> tuple[Rows, Header]:
        """Return the counts that came."""
        return _take_codes(self.name, parts, self.bits, layout), NO_HEADER


@dataclass(frozen=True)
class Levels:
    """Code numbers at 1 to 8 bits as the nearest of 2^bits equally spaced levels.

    The header is the range of the whole array, whose ends are levels. A number is at most half a
    step off, and float32's rounding. One number far out makes the step wide for all.
    """

    parts: ClassVar[tuple[str, ...]] = ("range", "codes")
    one_code_per_row: ClassVar[bool] = False
    name: str
    bits: int
    holds_range: bool = False
    """Whether the range stays over messages where it can (``stable_range``)."""

    def code(
        self, values: np.ndarray, layout: Layout, previous: Header | None
    ) -> tuple[Rows, Header]:
        """Return the codes [R, W] and the range."""
        numbers = to_float32(values).reshape(layout)
        if numbers.size == 0:
            return np.zeros(layout, np.uint8), np.zeros(2, np.float32)
        low, high = float(numbers.min()), float(numbers.max())
        if self.holds_range:
            ends = stable_range(low, high, previous)
        else:
            ends = np.array([low, high], np.float32)
        step = (float(ends[1]) - float(ends[0])) / (2**self.bits - 1)
        steps = (numbers.astype(np.float64) - float(ends[0])) / (step or 1.0)
        return np.rint(steps, out=steps).astype(np.uint8), ends

    def value(self, rows: Rows, header: Header, shape: tuple[int, ...]) -> np.ndarray:
        """Return the levels of the codes."""
        levels = np.linspace(float(header[0]), float(header[1]), 2**self.bits).astype(np.float32)
        values: np.ndarray = levels[rows]
        return values.reshape(shape)

    def send(self, rows: Rows, header: Header) -> Parts:
        """Return the range and the packed codes as parts."""
        return {"range": header, "codes": pack(rows.reshape(-1), self.bits)}

    def receive(self, parts: Parts, layout: Layout, shape: tuple[int, ...]) -> tuple[Rows, Header]:
        """Return the codes and the range that came."""
        ends = take_part(self.name, parts, "range", np.float32, 2)
        return _take_codes(self.name, parts, self.bits, layout), ends


def _take_codes(name: str, parts: Parts, bits: int, layout: Layout) -> Rows:
    count = layout[0] * layout[1]
    packed = take_part(name, parts, "codes", np.uint8, packed_bytes(count, bits))
    codes: np.ndarray = unpack(packed, bits, count)
    return codes.reshape(layout)
