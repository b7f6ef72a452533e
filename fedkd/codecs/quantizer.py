"""The protocol of a quantizer, which codes an array as rows of whole numbers."""

import math
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt

from fedkd.codecs.codec import Parts

Rows = UInt[np.ndarray, "R W"]
Header = Float32[np.ndarray, "H"]
NO_HEADER = np.zeros(0, np.float32)

Layout = tuple[int, int]
"""R and W: the number of rows of an array, and of codes in a row."""


@runtime_checkable
class Quantizer(Protocol):
    """One code of an array as rows [R, W] of whole numbers with a header [H].

    A header belongs to the whole array, whichever of its rows are sent.
    """

    one_code_per_row: ClassVar[bool]
    """Whether a row is a single code, however wide the array is."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts that travel, apart from the shape."""

    def code(
        self, values: np.ndarray, layout: Layout, previous: Header | None
    ) -> tuple[Rows, Header]:
        """Return the rows and the header of finite values.

        ``previous`` is the header of the last message, if any.
        """

    def value(self, rows: Rows, header: Header, shape: tuple[int, ...]) -> np.ndarray:
        """Return the values of rows and header; UploadRejected where rows have no value."""

    def send(self, rows: Rows, header: Header) -> Parts:
        """Return the parts that travel for some of the rows and the header."""

    def receive(self, parts: Parts, layout: Layout, shape: tuple[int, ...]) -> tuple[Rows, Header]:
        """Return the rows and the header that came; UploadRejected unless rows are [R, W]."""


def layout_of(quantizer: Quantizer, shape: tuple[int, ...], by_id: bool) -> Layout:
    """Return R and W of an array, with a row for each entry of the first axis.

    A vector whose entries have no ids is one row.
    """
    if len(shape) < 2 and not (by_id and shape):
        return 1, math.prod(shape)
    return shape[0], 1 if quantizer.one_code_per_row else math.prod(shape[1:])
