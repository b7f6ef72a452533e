"""JSON files that carry their own checksum, and manifests: the checksums of a folder's files.

A JSON file's ``checksum`` is the digest of everything else in it. A manifest, ``checksums.json``,
has size and digest of every file of a folder, and what the folder is: a file of another folder does
not pass for one of this. Not for: files that nothing but fedkd reads, which are checksummed as they
are (``fedkd.storage.atomic_files``).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedkd.errors import Damaged
from fedkd.storage.atomic_files import digest_of, file_digest, write_whole

MANIFEST = "checksums.json"
MOST_BYTES = 1 << 30
"""More than any file of JSON has; more is not read."""


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as JSON with their checksum, whole or not at all. Raises StorageError."""
    stored = json.loads(json.dumps(values))  # as a reader finds them
    content = json.dumps({**stored, "checksum": _checksum(stored)}, indent=1) + "\n"
    write_whole(path, [content.encode()])


def read_json(path: Path) -> dict[str, Any]:
    """Return the values that ``write_json`` wrote.

    Raises Damaged, which names the file, for anything else.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise Damaged(f"{path} is damaged: it has {path.stat().st_size} bytes")
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: it is no JSON") from error
    if not isinstance(values, dict) or "checksum" not in values:
        raise Damaged(f"{path} is damaged, or of an earlier fedkd: it has no checksum")
    if values.pop("checksum") != _checksum(values):
        raise Damaged(f"{path} is damaged: its checksum does not match")
    return values


def write_manifest(folder: Path, names: Iterable[str], of: str) -> None:
    """Write the checksums of some files of a folder.

    ``of`` says what the folder holds. Raises StorageError, and Damaged for a file that is missing.
    """
    files = {name: list(file_digest(folder / name)) for name in names}
    write_json(folder / MANIFEST, {"of": of, "files": files})


def read_manifest(folder: Path, of: str) -> dict[str, tuple[int, str]]:
    """Return size and digest of each file in a folder's manifest, by name.

    Raises Damaged where there is no manifest, or that of another folder.
    """
    path = folder / MANIFEST
    values = read_json(path)
    if values.get("of") != of:
        raise Damaged(f"{path} is damaged: it belongs to another folder")
    try:
        return {str(name): (size, digest) for name, (size, digest) in values["files"].items()}
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise Damaged(f"{path} is damaged: it lists no files") from error


def check_file(path: Path, expected: tuple[int, str]) -> None:
    """Raise Damaged, which names the file, unless a file is of the expected size and digest."""
    size, digest = expected
    try:
        found = path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error
    if found is None:
        raise Damaged(f"{path} is missing")
    if found != size:
        raise Damaged(f"{path} is damaged: it has {found} bytes where {size} were written")
    if file_digest(path)[1] != digest:
        raise Damaged(f"{path} is damaged: its checksum does not match")


def _checksum(values: Any) -> str:
    return digest_of(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())
