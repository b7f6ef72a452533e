"""The memory of a stateful codec, equal on both sides: the rows sent last, and the message number.

Each array has one table, with a row for each id seen so far, so that each round may ask for other
ids. Where a message has no ``ids``, a row's index in its array is its id, and the array's shape
must not change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int

from fedkd.codecs.codec import Arrays, Coded
from fedkd.errors import UploadRejected

NEXT = "codec:message"
"""The number of a message, from 0, as it travels (4 bytes); in a memory, the number of the next."""
START_OVER = "the sender must start over"


def row_ids(arrays: Arrays) -> Int[np.ndarray, "N"] | None:
    """Return the ids of a message's rows, or None if it has none."""
    ids = arrays.get("ids")
    return (
        ids.astype(np.int64)
        if ids is not None and ids.ndim == 1 and ids.dtype.kind in "iu"
        else None
    )


@dataclass(frozen=True)
class Memory:
    """The rows and headers of earlier messages; empty before the first.

    ``message`` is the number of the next message. ``tables`` have a row for each of the ascending
    ``ids`` [M], or for each row of the array where ids is None. ``headers`` are those of the last
    message.
    """

    message: int = 0
    ids: np.ndarray | None = None
    tables: Mapping[str, np.ndarray] = field(default_factory=dict)
    headers: Mapping[str, np.ndarray] = field(default_factory=dict)

    def find(
        self, name: str, ids: np.ndarray | None, count: int
    ) -> tuple[Int[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
        """Return the table row of each of an array's ``count`` rows, and flags of rows sent before.

        Raises UploadRejected where rows without ids are not as many as before, or where rows have
        ids now and had none before, or the other way round.
        """
        if self.message == 0:
            return np.zeros(count, np.int64), np.zeros(count, bool)
        if (ids is None) != (self.ids is None):
            raise UploadRejected(
                f"rows came {'without' if ids is None else 'with'} ids, unlike before: {START_OVER}"
            )
        if ids is None or self.ids is None:
            if name in self.tables and len(self.tables[name]) != count:
                raise UploadRejected(
                    f"{name} have {count} rows, before {len(self.tables[name])}: {START_OVER}"
                )
            return np.arange(count), np.ones(count, bool)
        if len(self.ids) == 0:
            return np.zeros(count, np.int64), np.zeros(count, bool)
        table_rows = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        return table_rows, self.ids[table_rows] == ids

    def last(
        self, name: str, table_rows: np.ndarray, was_sent: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Return the rows that were sent last, 0 where none was.

        Raises UploadRejected where they are of another type or width than ``rows``.

        Args:
            name: The array's name.
            table_rows: The table row of each row, as ``find`` returns it.
            was_sent: Which rows were sent before.
            rows: An array of the type and shape to return.
        """
        found = np.zeros_like(rows)
        if self.message == 0:
            return found
        table = self.tables.get(name)
        if table is None or table.dtype != rows.dtype or table.shape[1:] != rows.shape[1:]:
            raise UploadRejected(f"{name} are of another form than before: {START_OVER}")
        found[was_sent] = table[table_rows[was_sent]]
        return found

    def after(self, ids: np.ndarray | None, rows: Arrays, headers: Arrays) -> "Memory":
        """Return the memory after a message with these rows and headers, by array name.

        Of rows with the same id the last is remembered.
        """
        if self.message > 0 and set(rows) != set(self.tables):
            raise UploadRejected(
                f"{', '.join(rows)} came after {', '.join(self.tables)}: {START_OVER}"
            )
        headers = {name: header.copy() for name, header in headers.items() if header.size}
        if ids is None:
            # Copies: the rows may be the caller's own array in another guise.
            return Memory(
                self.message + 1,
                None,
                {name: value.copy() for name, value in rows.items()},
                headers,
            )
        known = np.zeros(0, np.int64) if self.ids is None else self.ids
        all_ids = np.union1d(known, ids)
        old, new = np.searchsorted(all_ids, known), np.searchsorted(all_ids, ids)
        tables = {}
        for name, value in rows.items():
            tables[name] = np.zeros((len(all_ids), *value.shape[1:]), value.dtype)
            if self.message > 0:
                tables[name][old] = self.tables[name]
            tables[name][new] = value
        return Memory(self.message + 1, all_ids, tables, headers)

    def to_arrays(self) -> Coded:
        """Return the memory as named arrays, for a checkpoint."""
        found = {NEXT: np.array([self.message], np.uint32), **self.tables}
        if self.ids is not None:
            found["ids"] = self.ids
        return found | {f"{name}:header": header for name, header in self.headers.items()}


def read_memory(arrays: Arrays | None) -> Memory:
    """Return the memory from the arrays of ``Memory.to_arrays``; an empty one for None."""
    if arrays is None:
        return Memory()
    named = {name: array for name, array in arrays.items() if name not in (NEXT, "ids")}
    return Memory(
        message=int(arrays[NEXT][0]),
        ids=arrays.get("ids"),
        tables={name: array for name, array in named.items() if not name.endswith(":header")},
        headers={
            name.removesuffix(":header"): a for name, a in named.items() if name.endswith(":header")
        },
    )


def message_number(memory: Memory) -> Coded:
    """Return the number of the next message as a named array, as it travels."""
    return {NEXT: np.array([memory.message], np.uint32)}


def take_message_number(arrays: Arrays, memory: Arrays | None) -> tuple[Coded, Memory]:
    """Return a message without its number, and the memory with which it was coded.

    Message 0 was coded with an empty memory, whatever the receiver remembers. Raises UploadRejected
    where the number is missing or not the one that the receiver's memory expects.
    """
    came = arrays.get(NEXT)
    if came is None or came.dtype.kind != "u" or came.shape != (1,):
        raise UploadRejected("the message has no number")
    known = Memory() if int(came[0]) == 0 else read_memory(memory)
    if int(came[0]) != known.message:
        raise UploadRejected(f"message {came[0]} came, expected {known.message}: {START_OVER}")
    return {name: array for name, array in arrays.items() if name != NEXT}, known
