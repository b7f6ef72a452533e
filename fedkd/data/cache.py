"""A cache on disk for results that can be recomputed.

It holds prepared data sets, divisions and local-only baselines. ``FEDKD_CACHE`` names the folder;
by default it is ``fedkd`` in the user's cache folder. Deleting it costs only time. Every entry has
the checksums of its files, which are compared whenever it is used: one that is damaged is computed
again.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from fedkd.errors import Damaged, SettingError, StorageError
from fedkd.runtime.standard_streams import notice
from fedkd.storage.checked_json import MANIFEST, check_file, read_manifest, write_manifest
from fedkd.storage.leftovers import Staging, locked


def cache_folder() -> Path:
    """Return the cache folder, which may not exist yet. Raises SettingError where nobody has one.

    That is where it is below a home that nobody knows.
    """
    named = os.environ.get("FEDKD_CACHE")
    try:
        if named:
            return Path(named).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "fedkd"
    except RuntimeError as error:
        raise SettingError(
            "this user has no home folder for the cache; set FEDKD_CACHE to a folder"
        ) from error


def is_cached(kind: str, key: str) -> bool:
    """Return whether the cache has an undamaged entry ``kind/key``."""
    return complaint_about(cache_folder() / kind / key, f"{kind}/{key}") == ""


def cached(kind: str, key: str, make: Callable[[Path], object]) -> Path:
    """Return the folder ``kind/key`` of the cache, filled by ``make`` if it did not exist.

    ``make`` writes into a temporary folder, which is then renamed: a reader never sees half of a
    result, and several processes may compute the same one at once. An entry that is damaged is
    named on the standard error and made again. Raises SettingError if the cache folder cannot be
    written, StorageError if it can no longer.
    """
    folder, of = cache_folder() / kind / key, f"{kind}/{key}"
    complaint = complaint_about(folder, of)
    if complaint == "":
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Staging(folder.parent, key[:16])
    except OSError as error:
        raise SettingError(
            f"the cache folder {cache_folder()} cannot be written ({error.strerror}); set"
            " FEDKD_CACHE to a folder that can"
        ) from error
    if complaint is not None:
        notice(f"{complaint}; it is made again")
    with staging:
        try:
            make(staging.path)
            names = sorted(path.name for path in staging.path.iterdir())
            write_manifest(staging.path, names, of)
            _put(staging.path, folder, of)
        except OSError as error:
            raise StorageError(
                f"the cache's entry {folder} cannot be made: {error}; is the disk full? FEDKD_CACHE"
                " names another folder"
            ) from error
    return folder


def _put(staging: Path, folder: Path, of: str) -> None:
    """Rename a finished entry to its place, unless another process has put a good one there."""
    with locked(folder.parent):  # so that nobody takes away what another has just put there
        if complaint_about(folder, of) == "":
            return
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
        else:
            folder.unlink(missing_ok=True)
        staging.rename(folder)


def complaint_about(folder: Path, of: str) -> str | None:
    """Return what is wrong with an entry: nothing if it is good, None where there is none."""
    if not os.path.lexists(folder):
        return None
    try:
        _check(folder, of)
    except Damaged as damage:
        return str(damage)
    except OSError as error:
        return f"{folder} cannot be read: {error.strerror}"
    return ""


def _check(folder: Path, of: str) -> None:
    """Raise Damaged unless an entry has the files that were put there, and no others."""
    if folder.is_dir() and not (folder / MANIFEST).exists():
        raise Damaged(f"{folder} is damaged, or of an earlier fedkd: it has no {MANIFEST}")
    expected = read_manifest(folder, of)
    for name, stored in expected.items():
        check_file(folder / name, stored)
    for path in folder.iterdir():
        if path.name not in (*expected, MANIFEST) and not path.name.startswith("."):
            raise Damaged(f"{path} is none of the files of its folder")
