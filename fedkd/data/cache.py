"""Where fedkd keeps what it can make again: prepared data sets, divisions, local-only baselines.

``FEDKD_CACHE`` names the folder; otherwise ``fedkd`` in the user's cache folder. Deleting it costs
only time.
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
    """Return the folder ``kind/key`` of the cache, filled by ``make`` if it was not there.

    ``make`` writes into a temporary folder that is renamed when it is complete: a reader never sees
    half of it, and two processes that make the same thing at once both end with it.
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
            " FEDKD_CACHE to one that can"
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
