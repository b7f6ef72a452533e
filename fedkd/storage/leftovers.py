"""Temporary folders whose owner is known to live, so that what killed runs left is deleted.

A folder is held by a lock for as long as its process works in it, which ends with the process
however that ends. Whoever makes the next folder of the same kind deletes those that nobody holds.
Not for: temporary files of single writers (``atomic_files.discard_partial``).
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

OLD = 7 * 24 * 3600.0
"""Seconds after which a folder is deleted where the file system has no locks."""


class Staging:
    """A temporary folder, held while it is written and deleted at the end if it is still there."""

    def __init__(self, parent: Path, name: str) -> None:
        """Make the folder, and delete what killed processes left beside it. Raises OSError.

        Args:
            parent: Where it is made.
            name: The beginning of its name.
        """
        with locked(parent):  # so that nobody finds the folder before it is held
            delete_abandoned(parent)
            self.path = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
            self._lock = _lock(self.path)

    def __enter__(self) -> "Staging":
        """Return the folder."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Delete the folder, unless it was renamed, and let it go."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


def delete_abandoned(parent: Path) -> None:
    """Delete the temporary folders in ``parent`` whose process has ended."""
    for path in abandoned(parent):
        shutil.rmtree(path, ignore_errors=True)


def abandoned(parent: Path) -> Iterator[Path]:
    """Yield the temporary folders in ``parent`` whose process has ended."""
    for path in sorted(parent.glob(".*-*")):
        with contextlib.suppress(OSError):  # another process was faster
            age = time.time() - path.stat().st_mtime
            if path.is_dir() and not path.is_symlink() and _is_free(path, age):
                yield path


def delete_unchanged(folders: Iterable[Path], seconds: float) -> list[Path]:
    """Delete the folders in which nothing has changed for so long, and return them.

    For folders that no process holds with a lock. Those that cannot be deleted stay.
    """
    deleted = []
    for folder in folders:
        with contextlib.suppress(OSError):  # another process was faster
            changed = max(path.stat().st_mtime for path in (folder, *folder.glob("*")))
            if time.time() - changed > seconds and folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
                deleted.append(folder)
    return deleted


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes that would; nothing where there are no locks."""
    held = None
    if fcntl is not None:
        with contextlib.suppress(OSError):
            held = os.open(folder, os.O_RDONLY)
            fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def _lock(path: Path) -> int | None:
    """Return the descriptor of a folder that is held with it; None where there are no locks."""
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _is_free(path: Path, age: float) -> bool:
    """Return whether no process holds a folder; where it cannot be known, whether it is old."""
    if fcntl is None:
        return age > OLD
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return age > OLD
    finally:
        os.close(descriptor)
    return True
