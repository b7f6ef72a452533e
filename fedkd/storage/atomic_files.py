"""Files that are written atomically and read back only if their checksum matches.

A checksummed file starts with a line that names its format and the BLAKE2b digest of what follows.
It is written under a temporary name in the same folder and then renamed, so that a reader never
sees half of one, whenever the writer was killed.
"""

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from fedkd.errors import Damaged, StorageError

MAGIC = b"fedkd sealed 1 "
DIGEST_SIZE = 16
_HEADER_SIZE = len(MAGIC) + 2 * DIGEST_SIZE + 1

Part = bytes | bytearray | memoryview


def write_checksummed(path: Path, parts: Sequence[Part], *, sync: bool = False) -> None:
    """Write ``parts``, one after the other, as one checksummed file.

    ``sync`` waits until the file is on the disk. Without it a file survives the end of the process
    that wrote it, but a power cut may truncate it, which its digest shows. Raises StorageError if
    the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    for part in parts:
        digest.update(part)
    try:
        with partial.open("wb") as file:
            file.write(MAGIC + digest.hexdigest().encode() + b"\n")
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


def discard_partial(folder: Path) -> None:
    """Delete the temporary files that interrupted writers left in a folder. Raises StorageError."""
    try:
        for path in folder.glob(".*.partial"):
            path.unlink()
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error


def read_checksummed(path: Path) -> bytearray:
    """Return the content of a checksummed file.

    Raises Damaged, which names the file, unless the content is exactly what was written.
    """
    try:
        content = bytearray(path.stat().st_size)
        with path.open("rb") as file:
            read = file.readinto(content)
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error
    header = bytes(content[:_HEADER_SIZE])
    if read != len(content) or not header.startswith(MAGIC) or header[-1:] != b"\n":
        raise Damaged(f"{path} is damaged: it is truncated, or not one of fedkd's files")
    del content[:_HEADER_SIZE]
    digest = hashlib.blake2b(content, digest_size=DIGEST_SIZE).hexdigest()
    if digest.encode() != header[len(MAGIC) : -1]:
        raise Damaged(f"{path} is damaged: its checksum does not match")
    return content


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the caller reports the error that made it discard the file
