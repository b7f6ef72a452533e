"""Files that are written atomically and read back only if their checksum matches.

A checksummed file starts with a line that names its format and the BLAKE2b digest of what follows.
It is written under a temporary name in the same folder and then renamed, so that a reader never
sees half of one, whenever the writer was killed. Every checksum of what fedkd stores is made here.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

from fedkd.errors import Damaged, StorageError

MAGIC = b"fedkd sealed 1 "
DIGEST_SIZE = 16
_HEADER_SIZE = len(MAGIC) + 2 * DIGEST_SIZE + 1

Part = bytes | bytearray | memoryview


def new_digest() -> hashlib.blake2b:
    """Return a digest that bytes are added to as they are written."""
    return hashlib.blake2b(digest_size=DIGEST_SIZE)


def digest_of(content: Part) -> str:
    """Return the digest of some bytes."""
    return hashlib.blake2b(content, digest_size=DIGEST_SIZE).hexdigest()


def file_digest(path: Path) -> tuple[int, str]:
    """Return the size and the digest of a file. Raises Damaged where it cannot be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, new_digest).hexdigest()
            return file.tell(), digest
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error


def write_whole(path: Path, parts: Sequence[Part], *, sync: bool = False) -> None:
    """Write ``parts``, one after the other, as one file that is there whole or not at all.

    ``sync`` waits until the file is on the disk. Without it a file survives the end of the process
    that wrote it, but a power cut may truncate it. Raises StorageError if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        with partial.open("wb") as file:
            file.writelines(parts)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
        if sync:
            _sync_folder(path.parent)
    except OSError as error:
        _discard(partial)
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error


def write_checksummed(path: Path, parts: Sequence[Part], *, sync: bool = False) -> None:
    """Write ``parts``, one after the other, as one checksummed file.

    ``sync`` is as in ``write_whole``. Raises StorageError if the file cannot be written.
    """
    digest = new_digest()
    for part in parts:
        digest.update(part)
    write_whole(path, [MAGIC + digest.hexdigest().encode() + b"\n", *parts], sync=sync)


def discard_partial(folder: Path) -> None:
    """Delete the temporary files that interrupted writers left in a folder. Raises StorageError."""
    try:
        for path in folder.glob(".*.partial"):
            path.unlink()
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error


def stored_digest(path: Path) -> str:
    """Return the digest in the first line of a checksummed file, not compared with the rest.

    Raises Damaged where there is none.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_SIZE)
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error
    return _digest_in(header, path)


def read_checksummed(path: Path, digest: str | None = None) -> bytearray:
    """Return the content of a checksummed file.

    Raises Damaged, which names the file, unless the content is exactly what was written: where
    ``digest`` is given, what was written with that digest.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise Damaged(f"{path} is damaged: it is no file")
        with path.open("rb") as file:
            written = _digest_in(file.read(_HEADER_SIZE), path)
            content = bytearray(found.st_size - _HEADER_SIZE)
            read = file.readinto(content)
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise Damaged(f"{path} is damaged: no memory holds its {found.st_size} bytes") from error
    if read != len(content):
        raise Damaged(f"{path} is damaged: it is truncated")
    if digest_of(content) != written:
        raise Damaged(f"{path} is damaged: its checksum does not match")
    if digest not in (None, written):
        raise Damaged(f"{path} is damaged: it is not the one that this run wrote")
    return content


def _digest_in(header: bytes, path: Path) -> str:
    """Return the digest in a header. Raises Damaged for bytes that are none."""
    whole = len(header) == _HEADER_SIZE
    if not (whole and header.startswith(MAGIC) and header.endswith(b"\n") and header.isascii()):
        raise Damaged(f"{path} is damaged: it is truncated, or not one of fedkd's files")
    return header[len(MAGIC) : -1].decode()


def _sync_folder(folder: Path) -> None:
    """Wait until a folder's new names are on the disk, where a folder can be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens none
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the caller reports the error that made it discard the file
