"""Floats as they are in memory, bit for bit, and the planes in which they travel."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkd.codecs.codec import Parts, take
from fedkd.codecs.quantizer import NO_HEADER, Header, Layout, Rows


@dataclass(frozen=True)
class FloatPlanes:
    """Floats of 2, 4 or 8 bytes as whole numbers. They travel by planes: all lowest bytes, then all
    next ones, ...

    What is sent is a difference, whose high bytes are often 0; with a plane each an entropy coder
    can use that.
    """

    one_a_row: ClassVar[bool] = False
    name: str
    size: int

    @property
    def parts(self) -> tuple[str, ...]:
        """The planes, the lowest bytes first."""
        return tuple(f"plane{place}" for place in range(self.size))

    def code(self, values: np.ndarray, layout: Layout, kept: Header | None) -> tuple[Rows, Header]:
        """Return the floats' bits as whole numbers [R, W]."""
        native = np.ascontiguousarray(values, np.dtype(f"f{self.size}"))
        return native.view(f"u{self.size}").reshape(layout), NO_HEADER

    def value(self, rows: Rows, header: Header, shape: tuple[int, ...]) -> np.ndarray:
        """Return the floats."""
        return np.ascontiguousarray(rows).view(f"f{self.size}").reshape(shape)

    def send(self, rows: Rows, header: Header) -> Parts:
        """Return the planes."""
        octets = rows.astype(f"<u{self.size}").view(np.uint8).reshape(-1, self.size)
        return {
            part: np.ascontiguousarray(octets[:, place]) for place, part in enumerate(self.parts)
        }

    def receive(self, parts: Parts, layout: Layout, shape: tuple[int, ...]) -> tuple[Rows, Header]:
        """Return the floats' bits from the planes."""
        count = layout[0] * layout[1]
        planes = [take(self.name, parts, part, np.uint8, count) for part in self.parts]
        octets = np.stack(planes, axis=1)
        return octets.view(f"<u{self.size}").astype(f"u{self.size}").reshape(layout), NO_HEADER
