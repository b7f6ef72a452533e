"""Splits of data sets in the layout of the Hugging Face hub, read by ``datasets``.

From the hub, or from a local folder. Not for: what is made of their columns
(``fedkd.data.sources``, ``fedkd.tasks.text.text_sources``).
"""

import contextlib
import hashlib
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fedkd.data.cache import cached
from fedkd.errors import SettingError, one_line
from fedkd.settings.validators import user_path


def content_key(source: object, path: str, content_hash: Callable[[], str]) -> str:
    """Return the key of the content of a data set of the hub, or of a folder in its layout.

    A local folder's key is cached as long as no file in it changes, so that a run on prepared data
    need not import ``datasets``.
    """
    folder = user_path(path, "data.path")
    if not folder.is_dir():
        return content_hash()
    try:
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        stats = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    except OSError as error:
        raise SettingError(
            f"data.path={path}: {error.filename} cannot be read: {error.strerror}"
        ) from error
    stats_hash = hashlib.sha256(repr((source, stats)).encode()).hexdigest()[:32]
    entry = cached(
        "sources", stats_hash, lambda staging: (staging / "key").write_text(content_hash())
    )
    return (entry / "key").read_text(encoding="utf-8")


def splits_hash(columns: object, splits: Mapping[str, Any]) -> str:
    """Return a hash of the rows in the files of ``splits``, and of the chosen columns.

    A folder of pictures has their names in its rows: the files that they are in are hashed too.
    """
    digest = hashlib.sha256(repr(columns).encode())
    for split, dataset in splits.items():
        digest.update(split.encode())
        for file in dataset.cache_files:
            with Path(file["filename"]).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        for picture in _picture_files(dataset):
            digest.update(picture.read_bytes())
    return digest.hexdigest()[:32]


def _picture_files(dataset: Any) -> Iterator[Path]:
    """Yield the files of the pictures that a split does not hold itself."""
    from datasets import Image

    for name, feature in dataset.features.items():
        if isinstance(feature, Image):
            for stored in dataset.cast_column(name, Image(decode=False))[name]:
                if stored is not None and stored["bytes"] is None:
                    yield Path(stored["path"])


def open_splits(
    path: str, train_split: str, test_split: str | None, example: str, layout: str
) -> dict[str, Any]:
    """Return splits as ``datasets`` reads them, training first.

    Raises SettingError if they cannot be read.

    Args:
        path: A hub id or a local folder.
        train_split: The name of the training split.
        test_split: The name of the test split, or None.
        example: A hub id, for messages.
        layout: The files that a local folder may hold instead of parquet, for messages.
    """
    folder = user_path(path, "data.path")
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1 or folder.exists()
    if looks_local and not folder.is_dir():
        raise SettingError(
            f"data.path={path}: no such folder; give a folder that holds the data set as on the hub"
            f" ({{train,test}}.parquet, or {layout}), or a hub id such as {example}"
        )
    dataset = _loaded(path, str(folder) if looks_local else "", layout)
    wanted = {"train": train_split, **({"test": test_split} if test_split else {})}
    for role, split in wanted.items():
        if split not in dataset:
            others = [name for name in dataset if name != train_split]
            cures = [
                f"data.{role}_split={name}" for name in (others if role == "test" else dataset)
            ]
            if role == "test":
                cures.append("data.test_split=null, which takes it from the training split")
            raise SettingError(
                f"data.{role}_split={split}: the splits of {path} are {', '.join(dataset)}; say"
                f" {' or '.join(cures)}"
            )
    return {role: dataset[split] for role, split in wanted.items()}


def _loaded(path: str, folder: str, layout: str) -> Mapping[str, Any]:
    """Return all splits by name.

    Args:
        path: What the user named, for messages.
        folder: The local folder; empty for a data set of the hub.
        layout: The files that a local folder may hold instead of parquet, for messages.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    is_reached = bool(folder) or hub_has_address()
    with _quiet(), contextlib.nullcontext() if is_reached else _offline():
        try:
            found: Mapping[str, Any] = load_dataset(folder or path)
        except DatasetNotFoundError as error:
            raise SettingError(f"data.path={path}: the hub has no such data set") from error
        except (OSError, ValueError, DatasetsError) as error:
            reason = _reason(error)
            if not is_reached:
                reason = "this machine cannot reach the hub, and has no copy of it"
            raise SettingError(
                f"data.path={path} could not be read: {reason.rstrip('.')}. Give a hub id that this"
                f" machine can reach, or a local folder with {{train,test}}.parquet or {layout};"
                " for other forms, such as NumPy's, write a data set of your own"
                " (docs/extending.md)"
            ) from error
    return found


def _reason(error: Exception) -> str:
    """Return in a line why ``datasets`` cannot read files: mostly what its own error is from."""
    from datasets.exceptions import DatasetGenerationError
    from datasets.table import CastError

    cause = error.__cause__ if isinstance(error, DatasetGenerationError) else None
    if isinstance(cause, CastError):
        return f"all files must have the same columns, but {cause.details()}"
    if cause is not None:
        return one_line(cause, ())
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def hub_has_address() -> bool:
    """Return whether the hub's name is known here: the library would ask for it half a minute."""
    from huggingface_hub.constants import ENDPOINT

    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True
    try:
        socket.getaddrinfo(urlsplit(ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def only_reached() -> Iterator[None]:
    """Let the hub's client look into its cache alone, within the context, where there is no hub."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not hub_has_address()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Let ``datasets`` look into its cache alone within the context."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        with only_reached():
            yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bars and log lines of ``datasets`` within the context."""
    import datasets

    bars, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    hub = logging.getLogger("huggingface_hub")
    hub_level = hub.level
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        hub.setLevel(hub_level)
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
