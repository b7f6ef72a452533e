"""``cached``: a row that was sent lately is not sent again."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool

from fedkd.codecs.codec import (
    Arrays,
    Codec,
    Coded,
    Parts,
    decode_each,
    encode_each,
    is_coded,
    nothing_coded,
    only,
)
from fedkd.codecs.delta import rows_without_ids
from fedkd.codecs.memory import Memory, message_number, read_memory, row_ids, take_number
from fedkd.errors import SettingError, UploadRejected

SENT = "codec:sent"
"""In a memory: the number of the message in which a row was sent last."""


@dataclass(frozen=True, kw_only=True)
class Cached(Codec):
    """A row sent fewer than ``duration`` messages ago is not sent again: the receiver uses its
    copy.

    The soft-label cache of SCARLET (arXiv 2504.19602), by public sample, as a codec. Both sides
    find out for themselves which rows those are, so that only rows travel, and those that do arrive
    exactly as they are.

    Departures: the paper counts rounds, this counts messages between two sides. A row that expired
    is remembered again as soon as it is sent again. On the way up the server uses what a client
    said before, though it predicted anew.
    """

    stateful: ClassVar[bool] = True

    duration: int = 50
    """Messages for which a row serves, the one that brought it included, >= 2."""

    def __post_init__(self) -> None:
        if self.duration < 2:
            raise SettingError(
                f"duration must be >= 2, got {self.duration}: at 1 every row is sent with every"
                " message"
            )

    def objection(self, arrays: Arrays) -> str | None:
        """Return why not: rows have no ids, or there are none."""
        if row_ids(arrays) is None:
            return "it caches rows by their ids, and there are none"
        return nothing_coded(arrays) or rows_without_ids(arrays)

    def encode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, Coded | None]:
        """Return the message's number and the rows that the receiver lacks; raises SettingError on
        an objection.

        Starts over where names or shapes changed.
        """
        why_not = self.objection(arrays)
        if why_not:
            raise SettingError(f"cached cannot code these arrays: {why_not}")
        try:
            return self._encode(arrays, read_memory(memory))
        except UploadRejected:
            return self._encode(arrays, Memory())

    def decode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, Coded | None]:
        """Return the arrays, those rows that did not come as they came before."""
        content, known = take_number(arrays, memory)
        ids = row_ids(content)
        if ids is None:
            raise UploadRejected("rows came without ids")
        places, serves = self._serving(known, ids)
        found: Coded = {}

        def rebuild(name: str, parts: Parts) -> np.ndarray:
            only(name, parts, {"rows"})
            came = parts["rows"]
            if came.dtype.kind != "f" or came.ndim == 0 or len(came) != (~serves).sum():
                what = f"{came.dtype} of shape {list(came.shape)}"
                raise UploadRejected(
                    f"expected {(~serves).sum()} rows of floating point {name}, got {what}"
                )
            rows = known.last(
                name,
                places,
                serves,
                np.zeros((len(ids), *came.shape[1:]), came.dtype.newbyteorder("=")),
            )
            rows[~serves] = came
            found[name] = rows
            return rows

        return decode_each(content, rebuild), self._after(known, ids, found, serves)

    def _encode(self, arrays: Arrays, known: Memory) -> tuple[Coded, Coded]:
        ids = row_ids(arrays)
        assert ids is not None, "there was no objection"
        places, serves = self._serving(known, ids)
        rows = {name: array for name, array in arrays.items() if is_coded(array)}
        held = {name: known.last(name, places, serves, array) for name, array in rows.items()}
        for name, array in rows.items():
            held[name][~serves] = array[~serves]
        sent = message_number(known) | encode_each(
            arrays, lambda name, array: {"rows": array[~serves]}
        )
        return sent, self._after(known, ids, held, serves)

    def _serving(self, known: Memory, ids: np.ndarray) -> tuple[np.ndarray, Bool[np.ndarray, "N"]]:
        """Return where rows stand in the tables, and which of them the receiver's copy serves."""
        places, was_sent = known.find(SENT, ids, len(ids))
        sent = known.last(SENT, places, was_sent, np.zeros(len(ids), np.int64))
        return places, was_sent & (known.message - sent < self.duration)

    def _after(
        self, known: Memory, ids: np.ndarray, rows: Coded, serves: Bool[np.ndarray, "N"]
    ) -> Coded:
        places, was_sent = known.find(SENT, ids, len(ids))
        sent = known.last(SENT, places, was_sent, np.zeros(len(ids), np.int64))
        return known.after(
            ids, {**rows, SENT: np.where(serves, sent, known.message)}, {}
        ).to_arrays()
