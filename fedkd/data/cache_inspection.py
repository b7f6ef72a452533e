"""What the cache holds, whether it is damaged, and how it is mended or emptied.

Not for: filling it (``fedkd.data.cache``), which also mends an entry when it is asked for.
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedkd.data.cache import complaint_about
from fedkd.storage.leftovers import OLD, abandoned, delete_unchanged, locked

KINDS = {
    "data": "prepared data sets",
    "sources": "keys of data sets in folders",
    "divisions": "who holds which rows",
    "baselines": "local-only baselines",
    "completion": "words that the shell completes",
}
"""Kinds of entries, each a folder of the cache."""
STATES = "flower"
"""The folder of client states on Flower's engines, which is no cache."""


@dataclass(frozen=True)
class KindOfEntry:
    """The entries of one kind."""

    name: str
    entries: int
    size: int
    """In bytes, with what killed runs left."""
    complaints: tuple[str, ...]
    """What is wrong with each damaged entry."""


def inspect_cache(folder: Path) -> list[KindOfEntry]:
    """Return what a cache holds, by kind. Every file is read and compared with its checksum."""
    found = []
    for kind in KINDS:
        entries = list(_entries(folder / kind))
        complaints = (complaint_about(path, f"{kind}/{path.name}") for path in entries)
        size = size_of(folder / kind)
        found.append(KindOfEntry(kind, len(entries), size, tuple(c for c in complaints if c)))
    return found


def mend_cache(folder: Path) -> list[str]:
    """Delete damaged entries, and what killed runs left, and return what was deleted in words.

    Raises OSError where something cannot be deleted.
    """
    done = []
    for kind in KINDS:
        parent = folder / kind
        if not parent.is_dir():
            continue
        with locked(parent):  # so that nobody takes away what another has just put there
            for path in _entries(parent):
                if complaint_about(path, f"{kind}/{path.name}"):
                    _delete(path)
                    done.append(f"damaged: {path}")
            for path in abandoned(parent):
                _delete(path)
                done.append(f"left by a killed run: {path}")
    states = [*(folder / STATES).glob("*"), *Path(tempfile.gettempdir()).glob("fedkd-states-*")]
    done += [f"left by a killed run: {path}" for path in delete_unchanged(states, OLD)]
    return done


def clear_cache(folder: Path) -> int:
    """Delete all entries of a cache, and return how many bytes they had. Raises OSError.

    Other files in the folder stay, since nobody knows whose they are. So do client states.
    """
    size = 0
    for kind in KINDS:
        if (folder / kind).is_dir():
            size += size_of(folder / kind)
            with locked(folder / kind):
                for path in (folder / kind).iterdir():
                    _delete(path)
    return size


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _entries(parent: Path) -> Iterator[Path]:
    """Yield a kind's entries; a name with a dot at its head is one in the making."""
    return (path for path in sorted(parent.glob("*")) if not path.name.startswith("."))


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
