"""The seam between an array and the rows of whole numbers that ``quantized`` and ``delta`` send."""

import math
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt

from fedkd.codecs.codec import Parts

Rows = UInt[np.ndarray, "R W"]
Header = Float32[np.ndarray, "H"]
NO_HEADER = np.zeros(0, np.float32)

Layout = tuple[int, int]
"""R and W: how many rows an array has, and how many codes a row has."""


@runtime_checkable
class Quantizer(Protocol):
    """One way of turning an array into rows [R, W] of whole numbers with a header [H], and back.

    A header belongs to the whole array, whichever of its rows are sent.
    """

    one_a_row: ClassVar[bool]
    """A row is a single code, whatever the array's width."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of what travels, apart from the shape."""

    def code(self, values: np.ndarray, layout: Layout, kept: Header | None) -> tuple[Rows, Header]:
        """Return the rows and the header of finite values; ``kept`` is the header of the message
        before, if any.
        """

    def value(self, rows: Rows, header: Header, shape: tuple[int, ...]) -> np.ndarray:
        """Return the values of rows and header; UploadRejected where rows mean none."""

    def send(self, rows: Rows, header: Header) -> Parts:
        """Return some of the rows, with the header, as they travel."""

    def receive(self, parts: Parts, layout: Layout, shape: tuple[int, ...]) -> tuple[Rows, Header]:
        """Return the rows that came, with the header; UploadRejected where they are not ``layout``
        in size.
        """


def layout_of(form: Quantizer, shape: tuple[int, ...], by_id: bool) -> Layout:
    """Return R and W: a row for each entry of the first axis. A vector whose entries have no ids is
    one row.
    """
    if len(shape) < 2 and not (by_id and shape):
        return 1, math.prod(shape)
    return shape[0], 1 if form.one_a_row else math.prod(shape[1:])
