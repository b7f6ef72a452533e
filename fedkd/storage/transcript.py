"""What each adversary really saw of a run, stored in the run's folder, and what only the researcher
knows, apart.

``view/`` has the public rows, the uploads as they travelled, and the teachers; ``lab/`` has raw
models or their answers to candidates, which no adversary of the protocol has; ``truth/`` has the
coins and label histograms that audits are scored with. Each is sealed npz files and an index with
their checksums. An audit names its adversary and is given that one's files only. Pure input and
output: it decodes, fuses and attacks nothing.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedkd.errors import Damaged, SettingError, StorageError, unknown_name
from fedkd.storage.atomic_files import discard_partial, read_checksummed, write_checksummed

What = Literal["public", "upload", "teacher", "model", "query"]
Arrays = Mapping[str, np.ndarray]
FORMAT = 1
VIEW, LAB, TRUTH = "view", "lab", "truth"
SEEN: dict[str, tuple[str, tuple[What, ...]]] = {
    "server": (VIEW, ("public", "upload", "teacher")),
    "clients": (VIEW, ("public", "teacher")),
    "lab": (LAB, ("public", "model", "query")),
}
"""Of every adversary: the folder it may read, and what in it. ``clients`` are all but the audited
one, together."""


@dataclass(frozen=True)
class TranscriptEntry:
    """One stored message. ``client`` is its sender, or a teacher's recipient; None where it is
    everybody's.
    """

    what: What
    round: int
    client: int | None
    file: str
    digest: str


class ViewWriter:
    """Stores what was seen, in ``<run_dir>/view`` or ``<run_dir>/lab``; ``save`` after each round
    writes the index.

    ``about`` are plain facts that a reader needs and every adversary knows: the scale of the
    values, the codec and its settings. With ``resume_after`` what was stored of later rounds is
    deleted. What was added after the last ``save`` is no part of the view.
    """

    def __init__(
        self,
        run_dir: Path,
        name: Literal["view", "lab"],
        about: Mapping[str, Any],
        resume_after: int | None = None,
    ) -> None:
        self._folder, self._about = run_dir / name, dict(about)
        self._entries: list[TranscriptEntry] = []
        if resume_after is not None and (self._folder / "index.json").exists():
            self._entries = [e for e in _read_index(self._folder)[1] if e.round <= resume_after]
        elif self._folder.exists() and any(self._folder.iterdir()):
            raise SettingError(f"{self._folder} already holds a view; name another run_dir")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be made: {error.strerror}") from error
        self._counts = Counter((entry.what, entry.round, entry.client) for entry in self._entries)
        self._by_digest = {entry.digest: entry.file for entry in self._entries}
        kept = set(self._by_digest.values())
        for path in self._folder.glob("*.npz"):
            if path.name not in kept:
                path.unlink()
        discard_partial(self._folder)
        self.save()

    def add(
        self, what: What, arrays: Arrays, *, round: int, client: int | None = None, message: int = 1
    ) -> None:
        """Store one message's named arrays, as they travelled. Public rows are of round 0.

        ``message`` counts the messages of one sort to or from a client in a round. Equal contents
        share a file.

        Raises SettingError for what does not belong into this folder or was stored before,
        StorageError where the disk does not take it.
        """
        allowed = {
            kind for folder, kinds in SEEN.values() if folder == self._folder.name for kind in kinds
        }
        if what not in allowed:
            raise SettingError(
                f"{what} does not belong into {self._folder.name}, which holds {', '.join(allowed)}"
            )
        if self._counts[what, round, client] >= message:
            raise SettingError(f"{what} of client {client} in round {round} is stored already")
        content = _packed(arrays)
        digest = _digest(content)
        file = self._by_digest.get(digest)
        if file is None:
            parts = [
                f"{round:05d}",
                *([] if client is None else [f"{client:05d}"]),
                *([] if message == 1 else [message]),
            ]
            file = "_".join(map(str, (what, *parts))) + ".npz"
            write_checksummed(self._folder / file, [content])
        self._entries.append(TranscriptEntry(what, round, client, file, digest))
        self._counts[what, round, client] += 1
        self._by_digest[digest] = file

    def save(self) -> None:
        """Write the index of all that was added, whole or not at all. Raises StorageError."""
        entries = sorted(self._entries, key=_place)
        index = {
            "format": FORMAT,
            "about": self._about,
            "entries": [asdict(entry) for entry in entries],
        }
        partial = self._folder / "index.json.partial"
        try:
            partial.write_text(json.dumps(index, indent=1) + "\n")
            partial.replace(self._folder / "index.json")
        except OSError as error:
            raise StorageError(
                f"{self._folder / 'index.json'} cannot be written: {error.strerror}"
            ) from error


@dataclass(frozen=True)
class View:
    """One adversary's view: entries in the order of rounds, then clients."""

    adversary: str
    folder: Path
    about: Mapping[str, Any]
    entries: tuple[TranscriptEntry, ...]

    def of(
        self, what: What, client: int | None = None
    ) -> Iterator[tuple[TranscriptEntry, dict[str, np.ndarray]]]:
        """Yield entries with their arrays, one at a time; those of one client alone if it is named.

        Raises Damaged, which names the file, unless it is what the index says.
        """
        for entry in self.entries:
            if entry.what == what and (client is None or entry.client == client):
                content = read_checksummed(self.folder / entry.file)
                if _digest(content) != entry.digest:
                    raise Damaged(
                        f"{self.folder / entry.file} is not the file that the index names"
                    )
                yield entry, _unpacked(content)

    def clients(self, what: What) -> list[int]:
        """Return whose entries there are, sorted."""
        return sorted({e.client for e in self.entries if e.what == what and e.client is not None})


def read_view(run_dir: Path, adversary: str) -> View:
    """Return what ``adversary`` saw, and nothing that it did not see. SettingError where nothing is
    stored.
    """
    if adversary not in SEEN:
        raise unknown_name("adversary", adversary, SEEN)
    name, kinds = SEEN[adversary]
    folder = run_dir / name
    if not (folder / "index.json").is_file():
        raise SettingError(f"{run_dir} holds no {name}/ to audit; store one with the run")
    about, entries = _read_index(folder)
    seen = sorted((e for e in entries if e.what in kinds), key=_place)
    return View(adversary, folder, about, tuple(seen))


@dataclass(frozen=True)
class Truth:
    """What audits are scored with, and no attack may read.

    Candidates are of n records: ``inputs`` [n, channels, height, width] as models take them,
    ``labels`` [n] as trained on, ``client_ids`` [n] whose coin it was, ``included`` [n]; all empty
    where nothing was tossed for. ``label_counts`` [K, C] are the clients' true histograms.
    """

    inputs: np.ndarray
    labels: np.ndarray
    client_ids: np.ndarray
    included: np.ndarray
    label_counts: np.ndarray


def write_truth(run_dir: Path, truth: Truth) -> None:
    """Store the truth apart from every view. Raises StorageError where the disk does not take
    it.
    """
    try:
        (run_dir / TRUTH).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{run_dir / TRUTH} cannot be made: {error.strerror}") from error
    write_checksummed(run_dir / TRUTH / "truth.npz", [_packed(vars(truth))])


def read_truth(run_dir: Path) -> Truth:
    """Return what ``write_truth`` stored. SettingError where nothing is, Damaged where it is not
    whole.
    """
    path = run_dir / TRUTH / "truth.npz"
    if not path.is_file():
        raise SettingError(
            f"{run_dir} holds no {TRUTH}/ to score audits with; store it with the run"
        )
    return Truth(**_unpacked(read_checksummed(path)))


def _read_index(folder: Path) -> tuple[dict[str, Any], list[TranscriptEntry]]:
    try:
        index = json.loads((folder / "index.json").read_text())
        if index["format"] != FORMAT:
            raise SettingError(
                f"{folder / 'index.json'} has format {index['format']}; this version reads {FORMAT}"
            )
        entries = [TranscriptEntry(**entry) for entry in index["entries"]]
        if any(Path(entry.file).name != entry.file for entry in entries):
            raise Damaged(f"{folder / 'index.json'} names files outside its folder")
        return index["about"], entries
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise Damaged(f"{folder / 'index.json'} is damaged: {error}") from error


def _place(entry: TranscriptEntry) -> tuple[int, int]:
    return entry.round, -1 if entry.client is None else entry.client


def _packed(arrays: Arrays) -> bytes:
    content = io.BytesIO()
    np.savez(content, **{name: np.asarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    return content.getvalue()


def _unpacked(content: bytearray) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(bytes(content)), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _digest(content: bytes | bytearray) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
