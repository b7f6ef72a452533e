"""Files that only grow, and the digests of what they hold so far.

A checkpoint keeps each file's extent, its length and digest at that moment. When a run goes on, the
file is cut to it, if what it holds up to there is still what was written. Not for: files that are
replaced whole (``fedkd.storage.atomic_files``).
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from fedkd.errors import Damaged
from fedkd.storage.atomic_files import new_digest

Extent = tuple[int, str]
"""The length of a file, in bytes or in rows, and the digest of its content up to there."""
_BLOCK = 1 << 20


class GrowingFile:
    """A file of text that is appended to, without a buffer that could be written after a failure.

    What was appended after the last ``mark`` can be taken back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size, self._digest = 0, new_digest()
        self.mark()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written yet."""
        return self._size == 0

    def append(self, content: bytes) -> None:
        """Write to the end. Raises OSError."""
        rest = memoryview(content)
        with self.path.open("ab", buffering=0) as file:
            while rest:
                rest = rest[file.write(rest) :]
        self._digest.update(content)
        self._size += len(content)

    def extent(self) -> Extent:
        """Return the length and the digest of what was written."""
        return self._size, self._digest.hexdigest()

    def mark(self) -> None:
        """Remember the end."""
        self._marked = self._size, self._digest.copy()

    def take_back(self) -> None:
        """Cut what was appended after the last mark. Raises OSError."""
        self._size, self._digest = self._marked[0], self._marked[1].copy()
        if self.path.exists():
            os.truncate(self.path, self._size)

    def check(self, extent: Extent) -> None:
        """Raise Damaged unless the file begins with what its extent says."""
        self._read(extent)

    def cut(self, extent: Extent) -> None:
        """Go on at an extent; a file of which nothing is left is deleted.

        Raises Damaged as ``check`` does, and OSError.
        """
        self._digest, self._size = self._read(extent), extent[0]
        self.mark()
        if self._size:
            os.truncate(self.path, self._size)
        else:
            self.path.unlink(missing_ok=True)

    def _read(self, extent: Extent) -> Any:
        size, expected = extent
        digest = new_digest()
        if size:
            with _reading(self.path) as file:
                for block in _blocks(file, size, self.path):
                    digest.update(block)
        if digest.hexdigest() != expected:
            raise Damaged(f"{self.path} is damaged: its checksum does not match")
        return digest


class GrowingArray:
    """A file with an array of float32 that grows by rows, written in place.

    Plain writes, not a memory map: a full disk would end a process that writes to a map.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows, self._digest = 0, new_digest()

    def put(self, index: int, row: np.ndarray) -> None:
        """Write row ``index``, not before the end; rows between are NaN. Raises OSError.

        The header, which says how many rows there are, is written last.
        """
        header = _header((index + 1, *row.shape))
        with self.path.open("r+b" if self.path.exists() else "xb") as file:
            if self._rows == 0:
                file.write(_header((0, *row.shape)))
                self._digest.update(repr(row.shape).encode())
            file.seek(len(header) + self._rows * row.size * 4)
            for values in (*[np.full(row.shape, np.nan)] * (index - self._rows), row):
                content = np.ascontiguousarray(values, dtype="<f4").tobytes()
                file.write(content)
                self._digest.update(content)
            file.flush()
            file.seek(0)
            file.write(header)
        self._rows = index + 1

    def extent(self) -> Extent:
        """Return the number of rows and the digest of their shape and values."""
        return self._rows, self._digest.hexdigest()

    def check(self, extent: Extent) -> None:
        """Raise Damaged unless the file begins with what its extent says."""
        self._read(extent)

    def cut(self, extent: Extent) -> None:
        """Go on at an extent; a file of which nothing is left is deleted.

        Raises Damaged as ``check`` does, and OSError.
        """
        self._digest, shape = self._read(extent)
        self._rows = extent[0]
        if self._rows == 0:
            self.path.unlink(missing_ok=True)
            return
        header = _header((self._rows, *shape))
        with self.path.open("r+b") as file:
            file.write(header)  # first: a header never promises more than there is
            file.truncate(len(header) + _row_bytes(shape) * self._rows)

    def _read(self, extent: Extent) -> tuple[Any, tuple[int, ...]]:
        """Return the digest up to an extent, and the shape of a row."""
        rows, expected = extent
        digest, shape = new_digest(), tuple[int, ...]()
        if rows:
            with _reading(self.path) as file:
                shape = _row_shape(file, self.path)
                digest.update(repr(shape).encode())
                for block in _blocks(file, rows * _row_bytes(shape), self.path):
                    digest.update(block)
        if digest.hexdigest() != expected:
            raise Damaged(f"{self.path} is damaged: its checksum does not match")
        return digest, shape


def _reading(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error


def _blocks(file: IO[bytes], size: int, path: Path) -> Iterator[bytes]:
    """Yield the next ``size`` bytes of a file. Raises Damaged where there are fewer."""
    while size:
        block = file.read(min(size, _BLOCK))
        if not block:
            raise Damaged(f"{path} is shorter than its checkpoint says")
        size -= len(block)
        yield block


def _row_shape(file: IO[bytes], path: Path) -> tuple[int, ...]:
    """Return the shape of a row, as a header of ours says. Raises Damaged for another one."""
    start = file.read(len(_header((0,))))
    try:
        content = io.BytesIO(start)
        np.lib.format.read_magic(content)
        shape, *_ = np.lib.format.read_array_header_1_0(content)
        if _header(shape) != start:
            raise ValueError("another header")
    except Exception as error:  # NumPy's parser raises anything
        raise Damaged(f"{path} is damaged: it begins otherwise than it was written") from error
    return tuple(shape[1:])


def _row_bytes(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * 4


def _header(shape: tuple[int, ...]) -> bytes:
    """Return the header of a float32 array file; as long for any number of rows below 10^20."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return out.getvalue()
