"""The most that a server reads of a client's message, and the types of arrays that it reads.

``docs/security.md`` shows them as a table. Not for: whether knowledge is what was asked for, which
its kind checks (``fedkd.knowledge``), nor how text is shortened (``fedkd.errors.printable``).
"""

from dataclasses import dataclass

import numpy as np

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(name)
    for name in (
        "bool",
        *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
        *(f"float{bits}" for bits in (16, 32, 64)),
    )
}
"""The types of arrays that are read, by the name that travels. No other name is interpreted."""


@dataclass(frozen=True, kw_only=True)
class ReplyLimits:
    """The most of everything in one reply; a reply with more is rejected."""

    arrays: int = 10_000
    """arrays in an upload"""
    array_values: int = 2**28
    """values of an array, as it came or as a codec's message describes it; predictions, tables,
    prototypes and weights may have no more than were asked for"""
    axes: int = 32
    """axes of an array"""
    name_characters: int = 200
    """characters in the name of an array or of a figure"""
    figures: int = 1_000
    """figures that a client measured"""
    figure_values: int = 1_000_000
    """values of one figure"""
    spendings: int = 100
    """spendings in a privacy event"""
    spending_characters: int = 20_000
    """characters of one spending"""
    spending_depth: int = 4
    """levels of lists and mappings in one spending"""
    run_spendings: int = 1_000
    """different spendings of one client in a whole run"""
    whole_number: int = 2**53
    """magnitude of a whole number that is no value of an array"""


LIMITS = ReplyLimits()
