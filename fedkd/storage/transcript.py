"""Transcripts of a run, one for each adversary of an audit, and the ground truth to score it with.

Three folders of a run: ``view/`` holds the public samples, the uploads as sent, and the teachers;
``lab/`` holds raw models or their logits of the candidates, which no adversary of the protocol has;
``truth/`` holds the inclusion bits and label histograms. Each is checksummed npz files, and the
first two have an index. An audit names its adversary and reads that adversary's files only.
Not for: decoding or attacking, which the audit does.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np

from fedkd.errors import Damaged, SettingError, StorageError, unknown_name
from fedkd.storage.atomic_files import (
    digest_of,
    discard_partial,
    read_checksummed,
    write_checksummed,
)
from fedkd.storage.checked_json import read_json, write_json
from fedkd.storage.packed_arrays import pack_arrays, unpack_arrays

Content = Literal["public", "upload", "teacher", "model", "query"]
Arrays = Mapping[str, np.ndarray]
FORMAT = 2
VIEW, LAB, TRUTH = "view", "lab", "truth"
ADVERSARIES: dict[str, tuple[str, tuple[Content, ...]]] = {
    "server": (VIEW, ("public", "upload", "teacher")),
    "clients": (VIEW, ("public", "teacher")),
    "lab": (LAB, ("public", "model", "query")),
}
"""The folder that each adversary may read, and the contents of it. ``clients`` are all clients but
the audited one, together; ``lab`` has white-box or query access to models."""


class AboutAudit(TypedDict, total=False):
    """The settings of an audit, as a transcript has them."""

    adversaries: list[str]
    confidence: float
    seed: int
    shadows: int


class About(TypedDict, total=False):
    """Facts that a reader of a transcript needs and every adversary knows."""

    kind: str
    scale: str | None
    temperature: float
    codecs: Mapping[str, Mapping[str, object]]
    """By direction: a codec's name and its settings."""
    audit: AboutAudit


@dataclass(frozen=True)
class TranscriptEntry:
    """One stored message."""

    what: Content
    round: int
    client: int | None
    """Its sender, or a teacher's recipient; None for public samples and teachers sent to all."""
    file: str
    digest: str


class TranscriptWriter:
    """Writes messages to ``<run_dir>/view`` or ``<run_dir>/lab``; call ``save`` after each round.

    Messages that were added after the last ``save`` are no part of the transcript.
    """

    def __init__(
        self,
        run_dir: Path,
        name: Literal["view", "lab"],
        about: About,
        resume_after: int | None = None,
    ) -> None:
        """Create the folder, or open it to continue after a checkpoint.

        Args:
            run_dir: The run's folder.
            name: The folder in it.
            about: Facts as JSON values that a reader needs and every adversary knows: the scale of
                the values, the codec and its settings.
            resume_after: The round of the checkpoint to resume from; entries of later rounds are
                deleted. None starts an empty transcript.
        """
        self._folder, self._about = run_dir / name, about
        self._entries: list[TranscriptEntry] = []
        try:
            if resume_after is not None and any(self._folder.glob("*.*")):
                self._entries = [e for e in _read_index(self._folder)[1] if e.round <= resume_after]
            elif self._folder.exists() and any(self._folder.iterdir()):
                raise SettingError(
                    f"{self._folder} already holds a transcript; name another run_dir"
                )
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be made: {error.strerror}") from error
        self._counts = Counter((entry.what, entry.round, entry.client) for entry in self._entries)
        self._by_digest = {entry.digest: entry.file for entry in self._entries}
        indexed = set(self._by_digest.values())
        for path in self._folder.glob("*.npz"):
            if path.name not in indexed and path.is_file():
                path.unlink()
        discard_partial(self._folder)
        self.save()

    def add(
        self,
        what: Content,
        arrays: Arrays,
        *,
        round: int,
        client: int | None = None,
        message: int = 1,
    ) -> None:
        """Store one message's named arrays. Equal contents share a file.

        Args:
            what: The content of the message.
            arrays: Its arrays, as sent.
            round: Its round; 0 for public samples.
            client: Its sender or recipient, None for everybody.
            message: Its number among the messages of the same content, client and round, from 1.

        Raises:
            SettingError: The content does not belong into this folder, or was stored before.
            StorageError: The file cannot be written.
        """
        allowed = {
            content
            for folder, contents in ADVERSARIES.values()
            if folder == self._folder.name
            for content in contents
        }
        if what not in allowed:
            raise SettingError(
                f"{what} does not belong into {self._folder.name}, which holds {', '.join(allowed)}"
            )
        if self._counts[what, round, client] >= message:
            raise SettingError(f"{what} of client {client} in round {round} is stored already")
        content = pack_arrays(arrays)
        digest = digest_of(content)
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
        """Write the index of all added messages, atomically. Raises StorageError."""
        entries = sorted(self._entries, key=_sort_key)
        index = {
            "format": FORMAT,
            "about": self._about,
            "entries": [asdict(entry) for entry in entries],
        }
        write_json(self._folder / "index.json", index)


@dataclass(frozen=True)
class Transcript:
    """The messages that one adversary sees, sorted by round, then client."""

    adversary: str
    folder: Path
    about: About
    entries: tuple[TranscriptEntry, ...]

    def of(
        self, what: Content, client: int | None = None
    ) -> Iterator[tuple[TranscriptEntry, dict[str, np.ndarray]]]:
        """Yield the entries of one content with their arrays, of one ``client`` if it is given.

        Raises Damaged, which names the file, if a file is not the one that the index describes.
        """
        for entry in self.entries:
            if entry.what == what and (client is None or entry.client == client):
                content = read_checksummed(self.folder / entry.file, entry.digest)
                yield entry, unpack_arrays(content, self.folder / entry.file)

    def clients(self, what: Content) -> list[int]:
        """Return the ids of the clients with entries of one content, sorted."""
        return sorted({e.client for e in self.entries if e.what == what and e.client is not None})


def read_transcript(run_dir: Path, adversary: str) -> Transcript:
    """Return the transcript of one adversary: its own entries and no others.

    Raises SettingError for an unknown adversary, or if the run stored no transcript.
    """
    if adversary not in ADVERSARIES:
        raise unknown_name("adversary", adversary, ADVERSARIES)
    name, contents = ADVERSARIES[adversary]
    folder = run_dir / name
    if not (folder / "index.json").is_file():
        whose = "" if name == VIEW else f" audit.adversaries=[{adversary}]"
        choice = f"audit={'store|' if name == VIEW else ''}canaries|members{whose}"
        raise SettingError(f"{run_dir} holds no {name}/ to audit; a run with {choice} stores one")
    about, entries = _read_index(folder)
    seen = sorted((e for e in entries if e.what in contents), key=_sort_key)
    return Transcript(adversary, folder, about, tuple(seen))


@dataclass(frozen=True)
class GroundTruth:
    """The ground truth that audits are scored with, and that no attack may read.

    It describes n candidate records; n is 0 in an audit that includes no records at random.
    """

    inputs: np.ndarray
    """[n, channels, height, width], as models take them."""
    labels: np.ndarray
    """[n], as trained on."""
    client_ids: np.ndarray
    """[n], the client that owns each candidate."""
    included: np.ndarray
    """[n] booleans, the inclusion bits: whether the owner trained on the candidate."""
    label_counts: np.ndarray
    """[K, C], the clients' true label histograms."""


def write_ground_truth(run_dir: Path, truth: GroundTruth) -> None:
    """Write the ground truth to a folder that no transcript reads. Raises StorageError."""
    try:
        (run_dir / TRUTH).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{run_dir / TRUTH} cannot be made: {error.strerror}") from error
    write_checksummed(run_dir / TRUTH / "truth.npz", [pack_arrays(vars(truth))])


def read_ground_truth(run_dir: Path) -> GroundTruth:
    """Return the ground truth of a run. Raises SettingError if none is stored, or Damaged."""
    path = run_dir / TRUTH / "truth.npz"
    if not path.is_file():
        raise SettingError(
            f"{run_dir} holds no {TRUTH}/ to score audits with; store it with the run"
        )
    try:
        return GroundTruth(**unpack_arrays(read_checksummed(path), path))
    except TypeError as error:
        raise Damaged(f"{path} is damaged: {error}") from error


def _read_index(folder: Path) -> tuple[About, list[TranscriptEntry]]:
    index = read_json(folder / "index.json")
    try:
        if index["format"] != FORMAT:
            raise SettingError(
                f"{folder / 'index.json'} has format {index['format']}; this version reads {FORMAT}"
            )
        entries = [TranscriptEntry(**entry) for entry in index["entries"]]
        if any(Path(entry.file).name != entry.file for entry in entries):
            raise Damaged(f"{folder / 'index.json'} names files outside its folder")
        return index["about"], entries
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{folder / 'index.json'} is damaged: {error}") from error


def _sort_key(entry: TranscriptEntry) -> tuple[int, int]:
    return entry.round, -1 if entry.client is None else entry.client
