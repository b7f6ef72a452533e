"""A cache on disk for results that can be recomputed.

It holds prepared data sets, divisions and local-only baselines. ``FEDKD_CACHE`` names the folder;
by default it is ``fedkd`` in the user's cache folder. Deleting it costs only time.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from fedkd.errors import SettingError


def cache_folder() -> Path:
    """Return the cache folder, which may not exist yet."""
    named = os.environ.get("FEDKD_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "fedkd"


def cached(kind: str, key: str, make: Callable[[Path], object]) -> Path:
    """Return the folder ``kind/key`` of the cache, filled by ``make`` if it did not exist.

    ``make`` writes into a temporary folder, which is then renamed: a reader never sees half of a
    result, and several processes may compute the same one at once. Raises SettingError if the cache
    folder cannot be written.
    """
    folder = cache_folder() / kind / key
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{key[:16]}-", dir=folder.parent))
    except OSError as error:
        raise SettingError(
            f"the cache folder {cache_folder()} cannot be written ({error.strerror}); set"
            " FEDKD_CACHE to a folder that can"
        ) from error
    try:
        make(staging)
        staging.rename(folder)
    except OSError:
        if not folder.exists():  # otherwise another process was first, and its result is the same
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder
