"""The codec ``cached``, which does not send a row again that it sent a few messages ago."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool

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
)
from fedkd.codecs.delta import rows_without_ids
from fedkd.codecs.memory import Memory, message_number, read_memory, row_ids, take_message_number
from fedkd.errors import SettingError, UploadRejected

SENT = "codec:sent"
"""In a memory: the number of the message in which a row was sent last."""


@dataclass(frozen=True, kw_only=True)
class Cached(Codec):
    """Send only rows that were not sent in the last ``duration - 1`` messages.

    For the others the receiver uses its copy. The soft-label cache of SCARLET (arXiv 2504.19602),
    by public sample, as a codec. Both sides compute for themselves which rows those are, so that
    only rows travel, and those that do arrive exactly as they are.

    Departures: the paper counts rounds, this counts messages between two sides. A row that expired
    is remembered again as soon as it is sent again. On the way up the server uses a client's
    earlier row, though the client predicted anew.
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
        """Return an objection where arrays have no ids, or no row for each id."""
        if row_ids(arrays) is None:
            return "it caches rows by their ids, and there are none"
        return nothing_coded(arrays) or rows_without_ids(arrays)

    def encode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, Coded | None]:
        """Return the message number with the rows that the receiver lacks, and the new memory.

        Starts over where names or shapes changed. Raises SettingError on an objection.
        """
        why_not = self.objection(arrays)
        if why_not:
            raise SettingError(f"cached cannot code these arrays: {why_not}")
        try:
            return self._encode(arrays, read_memory(memory))
        except UploadRejected:
            return self._encode(arrays, Memory())

    def decode(self, arrays: Arrays, memory: Arrays | None) -> tuple[Coded, Coded | None]:
        """Return the arrays, completed by rows of the memory, and the new memory."""
        content, known = take_message_number(arrays, memory)
        ids = row_ids(content)
        if ids is None:
            raise UploadRejected("rows came without ids")
        table_rows, serves = self._served_rows(known, ids)
        found: Coded = {}

        def rebuild(name: str, parts: Parts) -> np.ndarray:
            check_parts(name, parts, {"rows"})
            came = parts["rows"]
            if came.dtype.kind != "f" or came.ndim == 0 or len(came) != (~serves).sum():
                what = f"{came.dtype} of shape {list(came.shape)}"
                raise UploadRejected(
                    f"expected {(~serves).sum()} rows of floating point {name}, got {what}"
                )
            blank = np.zeros((len(ids), *came.shape[1:]), came.dtype.newbyteorder("="))
            rows = known.last(name, table_rows, serves, blank)
            rows[~serves] = came
            found[name] = rows
            return rows

        return decode_each(content, rebuild), self._after(known, ids, found, serves)

    def _encode(self, arrays: Arrays, known: Memory) -> tuple[Coded, Coded]:
        ids = row_ids(arrays)
        assert ids is not None, "there was no objection"
        table_rows, serves = self._served_rows(known, ids)
        rows = {name: array for name, array in arrays.items() if is_coded(array)}
        held = {name: known.last(name, table_rows, serves, array) for name, array in rows.items()}
        for name, array in rows.items():
            held[name][~serves] = array[~serves]
        sent = message_number(known) | encode_each(
            arrays, lambda name, array: {"rows": array[~serves]}
        )
        return sent, self._after(known, ids, held, serves)

    def _served_rows(
        self, known: Memory, ids: np.ndarray
    ) -> tuple[np.ndarray, Bool[np.ndarray, "N"]]:
        """Return each id's row in the tables, and flags of the ids that the copy there serves."""
        table_rows, was_sent = known.find(SENT, ids, len(ids))
        sent = known.last(SENT, table_rows, was_sent, np.zeros(len(ids), np.int64))
        return table_rows, was_sent & (known.message - sent < self.duration)

    def _after(
        self, known: Memory, ids: np.ndarray, rows: Coded, serves: Bool[np.ndarray, "N"]
    ) -> Coded:
        table_rows, was_sent = known.find(SENT, ids, len(ids))
        sent = known.last(SENT, table_rows, was_sent, np.zeros(len(ids), np.int64))
        now_sent = np.where(serves, sent, known.message)
        return known.after(ids, {**rows, SENT: now_sent}, {}).to_arrays()
