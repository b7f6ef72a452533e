"""The lossless quantizer: the bits of floats as whole numbers, sent as byte planes."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkd.codecs.codec import Parts, take_part
from fedkd.codecs.quantizer import NO_HEADER, Header, Layout, Rows


@dataclass(frozen=True)
class FloatPlanes:
    """Code floats of 2, 4 or 8 bytes as whole numbers, which travel by byte planes.

    The first plane has all lowest bytes, the next one all next bytes, and so on. A change of a row
    often has high bytes of 0; with a plane for each byte an entropy coder can use that.
    """

    one_code_per_row: ClassVar[bool] = False
    name: str
    size: int

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the planes, the lowest bytes first."""
        return tuple(f"plane{i}" for i in range(self.size))

    def code(
        self, values: np.ndarray, layout: Layout, previous: Header | None
    ) -> tuple[Rows, Header]:
        """Return the bits of the floats as whole numbers [R, W]."""
        native = np.ascontiguousarray(values, np.dtype(f"f{self.size}"))
        return native.view(f"u{self.size}").reshape(layout), NO_HEADER

    def value(self, rows: Rows, header: Header, shape: tuple[int, ...]) -> np.ndarray:
        """Return the floats of these bits."""
        return np.ascontiguousarray(rows).view(f"f{self.size}").reshape(shape)

    def send(self, rows: Rows, header: Header) -> Parts:
        """Return the byte planes of the rows."""
        octets = rows.astype(f"<u{self.size}").view(np.uint8).reshape(-1, self.size)
        return {part: np.ascontiguousarray(octets[:, i]) for i, part in enumerate(self.parts)}

    def receive(self, parts: Parts, layout: Layout, shape: tuple[int, ...]) -> tuple[Rows, Header]:
        """Return the bits of the floats from their planes."""
        count = layout[0] * layout[1]
        planes = [take_part(self.name, parts, part, np.uint8, count) for part in self.parts]
        octets = np.stack(planes, axis=1)
        return octets.view(f"<u{self.size}").astype(f"u{self.size}").reshape(layout), NO_HEADER
