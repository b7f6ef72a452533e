"""Temporary folders whose owner is known to live, so that what killed runs left is deleted.

A folder is held by a lock for as long as its process works in it, which ends with the process
however that ends. Whoever makes the next folder of the same kind deletes those that nobody holds.
Not for: temporary files of single writers (``atomic_files.discard_partial``).
"""

import contextlib
import os
import shutil
import stat
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

MARK = ".held"
"""The file in a folder that has been held."""
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


class HeldFolder:
    """A folder in the system's temporary folder, deleted with this object or by a later one."""

    def __init__(self, prefix: str) -> None:
        """Make the folder, and delete those of the same prefix whose process was killed.

        Raises OSError.
        """
        parent = Path(tempfile.gettempdir())
        for path in parent.glob(f"{prefix}*"):
            with contextlib.suppress(OSError):  # another process was faster
                was_held = (path / MARK).is_file() or _age(path) > OLD
                if was_held and _is_abandoned(path):
                    shutil.rmtree(path, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = _lock(folder)
        (folder / MARK).touch()  # now it is held: who finds no mark finds a folder in the making
        self.path = folder / "held"
        self.path.mkdir()
        self._end = weakref.finalize(self, _end, folder, lock)


def _end(folder: Path, lock: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        os.close(lock)


def _age(path: Path) -> float:
    """Return the seconds since something was made in a folder."""
    return time.time() - max(p.lstat().st_mtime for p in (path, *path.glob("*")))


def delete_abandoned(parent: Path) -> None:
    """Delete the temporary folders in ``parent`` whose process has ended."""
    for path in abandoned(parent):
        shutil.rmtree(path, ignore_errors=True)


def abandoned(parent: Path) -> Iterator[Path]:
    """Yield the temporary folders in ``parent`` whose process has ended."""
    for path in sorted(parent.glob(".*-*")):
        if _is_abandoned(path):
            yield path


def _is_abandoned(path: Path) -> bool:
    """Return whether a path is a folder of this user's that no process holds."""
    try:
        about = path.lstat()
        is_own = stat.S_ISDIR(about.st_mode) and about.st_uid == _user(path)
        return is_own and _is_free(path, time.time() - about.st_mtime)
    except OSError:  # another process was faster
        return False


def _user(path: Path) -> int:
    """Return the id of this process's user, which is 0 for everybody on Windows."""
    return os.getuid() if hasattr(os, "getuid") else path.lstat().st_uid


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
