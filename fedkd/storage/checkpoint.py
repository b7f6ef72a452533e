"""Checkpoints of a run: after a round, all that is needed to go on as if nothing had happened.

A checkpoint is one checksummed file, ``checkpoints/<round>.checkpoint``: the server's state, the
extents of the run's files, and of which round each client's state is. The states themselves are
checksummed files next to it (``states/``), of the clients that took part since the one before, so
that a checkpoint costs what has changed. Random streams need none: they are derived by name. The
last two checkpoints are kept, with the states that they name.
"""

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from fedkd import __version__
from fedkd.errors import Damaged, RunError, StorageError
from fedkd.settings.validators import at_least
from fedkd.storage.atomic_files import discard_partial, read_checksummed, write_checksummed
from fedkd.storage.client_states import DiskStore, numbered
from fedkd.storage.growing_files import Extent

FORMAT = 3
RETAINED = 2
"""How many checkpoints are kept."""


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Checkpoints, from which resume=RUN_DIR goes on."""

    every: int = 1
    """Rounds from one checkpoint to the next, >= 1; 0 keeps none, and the run cannot be resumed."""

    def __post_init__(self) -> None:
        at_least(0, every=self.every)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A run after a round. All values are plain: mappings, lists, numbers, text, tensors."""

    round: int
    clients: Mapping[int, tuple[int, str]]
    """Of which round each client's state is, and its digest; clients that never took part are
    missing."""
    extents: Mapping[str, Extent]
    """Lengths and digests of the run's growing files."""
    server: Mapping[str, object]
    scenario: Mapping[str, object]
    """The settings that decide the run's figures, by dotted name."""
    versions: Mapping[str, str]
    """What the run is computed with: versions, the device, and hashes of users' own modules."""


class CheckpointFolder:
    """The checkpoints of one run and the client states that they name.

    It alone knows of which round each client's state is.
    """

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir / "checkpoints"
        self.states = DiskStore(run_dir / "states", history=True)
        self.write_states: Callable[[], None] = lambda: None
        """Writes the states of clients that are in no file yet."""
        self._clients: dict[int, tuple[int, str]] = {}
        self._before: dict[int, tuple[int, str]] = {}  # the same at the checkpoint before

    def save(
        self,
        round_number: int,
        changed: Iterable[int],
        *,
        server: Mapping[str, object],
        extents: Mapping[str, Extent],
        scenario: Mapping[str, object],
        versions: Mapping[str, str],
    ) -> None:
        """Write the checkpoint of a round.

        Args:
            round_number: The round.
            changed: The clients that took part since the checkpoint before.
            server: The server's state.
            extents: Lengths and digests of the run's growing files.
            scenario: The settings that decide the run's figures, by dotted name.
            versions: What the run is computed with.

        It is whole on the disk before what it replaces is deleted. Raises StorageError, RunError.
        """
        self.write_states()
        now = dict(self._clients)
        touched = set(changed)
        for client_id in touched:
            newest = self.states.newest(client_id)
            if newest is not None:
                now[client_id] = newest, self.states.digest(client_id, newest)
        payload = io.BytesIO()
        content = {
            "format": FORMAT,
            "round": round_number,
            "clients": now,
            "extents": dict(extents),
            "server": storable_copy(server, "server"),
            "scenario": dict(scenario),
            "versions": dict(versions),
        }
        torch.save(content, payload)
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be made: {error.strerror}") from error
        write_checksummed(self._path(round_number), [payload.getbuffer()], sync=True)
        self._clients, self._before = now, self._clients
        for old in self._numbers()[:-RETAINED]:
            self._path(old).unlink(missing_ok=True)
        for client_id in touched:
            if client_id in self._before:
                self.states.forget(client_id, before=self._before[client_id][0])

    def keep_last(self) -> None:
        """Delete all but the last checkpoint of a run that is over."""
        for old in self._numbers()[:-1]:
            self._path(old).unlink(missing_ok=True)
        for client_id, (at, _) in self._clients.items():
            self.states.forget(client_id, before=at)

    def load(
        self, check: Callable[[Checkpoint], None] = lambda _: None
    ) -> tuple[Checkpoint, list[str]]:
        """Return the last good checkpoint, and what is wrong with later ones; states go back to it.

        ``check`` raises Damaged where something else is not as it was at a checkpoint. Raises
        RunError where no checkpoint is good.
        """
        complaints = self._strays()
        strays = len(complaints)
        for round_number in reversed(self._numbers()):
            try:
                checkpoint = self._read(round_number)
                for client_id, (at, digest) in checkpoint.clients.items():
                    self.states.read(client_id, at, digest)
                check(checkpoint)
            except Damaged as damage:
                complaints.append(str(damage))
                continue
            self._go_back(checkpoint)
            return checkpoint, complaints
        why = (
            "; ".join(dict.fromkeys(complaints[strays:]))
            or "it was ended before its first checkpoint, or had checkpoint.every=0"
        )
        raise RunError(f"{self.folder.parent} has no checkpoint to go on from: {why}")

    def _go_back(self, checkpoint: Checkpoint) -> None:
        """Delete what is later than a checkpoint."""
        for round_number in self._numbers():
            if round_number > checkpoint.round:
                self._path(round_number).unlink()
        discard_partial(self.folder)
        for client_id in self.states.client_ids():
            at, _ = checkpoint.clients.get(client_id, (0, ""))
            self.states.forget(client_id, after=at)
            discard_partial(self.states.client_folder(client_id))
        self._clients = self._before = dict(checkpoint.clients)

    def _read(self, round_number: int) -> Checkpoint:
        try:
            content = torch.load(
                io.BytesIO(read_checksummed(self._path(round_number))), weights_only=True
            )
        except Damaged:
            raise
        except Exception as error:  # whatever unpickling finds
            raise Damaged(f"{self._path(round_number)} is damaged: it is no checkpoint") from error
        return _checked(content, self._path(round_number))

    def _numbers(self) -> list[int]:
        return numbered(self.folder, ".checkpoint")

    def _strays(self) -> list[str]:
        """Return what lies among checkpoints and states and is none, in words.

        Raises RunError for a folder that is in the place of a file.
        """
        for name in (*self.folder.glob("*.checkpoint"), *self.states.folder.glob("*/*.state")):
            if name.is_dir():
                raise RunError(f"{name} is a folder where a file of the run belongs; move it away")
        known = {self._path(round_number) for round_number in self._numbers()}
        known |= {self.states.client_folder(client_id) for client_id in self.states.client_ids()}
        return [
            f"{path} is none of the run's files; it is left alone"
            for folder in (self.folder, self.states.folder)
            for path in sorted(folder.glob("*"))
            if path not in known and not path.name.endswith(".partial")
        ]

    def _path(self, round_number: int) -> Path:
        return self.folder / f"{round_number:06}.checkpoint"


def _checked(content: object, path: Path) -> Checkpoint:
    """Return what a file holds as a checkpoint. Raises Damaged, with the version that wrote it."""
    values = dict(content) if isinstance(content, Mapping) else {}
    versions = values.get("versions")
    named = versions.get("fedkd") if isinstance(versions, Mapping) else None
    by = "" if named is None else f" ({named})"
    if values.pop("format", None) != FORMAT:
        raise Damaged(f"{path} is of another version of fedkd{by}; use the one that wrote it")
    names = {field.name for field in fields(Checkpoint)}
    odd = sorted(map(str, values.keys() ^ names))
    if odd:
        raise Damaged(
            f"{path} has other fields than a checkpoint of fedkd {__version__}"
            f" ({', '.join(odd)}); use the version that wrote it{by}"
        )
    return Checkpoint(**values)


def storable_copy(value: object, where: str) -> object:
    """Return a copy of plain values that shares no memory and drags no larger tensor along.

    Raises RunError, with the place, for what a checkpoint cannot hold: reading one back must not
    run code.
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu").clone(memory_format=torch.contiguous_format)
    if value is None or isinstance(value, bool):
        return value
    for kind in (
        int,
        float,
        str,
    ):  # NumPy's scalars are some of these, and would need code to be read back
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {
            storable_copy(k, where): storable_copy(v, f"{where}[{k!r}]") for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        copies = [storable_copy(v, f"{where}[{i}]") for i, v in enumerate(value)]
        return copies if isinstance(value, list) else tuple(copies)
    raise RunError(
        f"{where} holds a value of type {type(value).__name__}, which a checkpoint cannot; return"
        " state made of tensors, numbers and text in dicts, lists and tuples, or set"
        " checkpoint.every=0"
    )
