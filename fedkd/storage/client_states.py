"""Storage of client states between rounds, in memory or on disk.

A state is named tensors: the model's, and the optimizer's where the settings carry it over. A store
returns the state that was put last, and None for a client that never took part, which then starts
from its own initial weights. Flower's Context does not hold states, since it travels with every
message.
"""

import json
import math
import re
import shutil
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from fedkd.errors import Damaged, StorageError
from fedkd.runtime.devices import copy_into
from fedkd.storage.atomic_files import read_checksummed, stored_digest, write_checksummed

ClientState = Mapping[str, Tensor]

ALIGNMENT = 16
"""Bytes: tensors start at multiples of it, so that each can be viewed in its own dtype."""


@runtime_checkable
class ClientStore(Protocol):
    """States by client id.

    Several threads may use a store at once, for different clients.
    """

    def get(self, client_id: int) -> ClientState | None:
        """Return the state last put for a client, or None. The caller must not change it."""

    def put(self, client_id: int, round_number: int, state: ClientState) -> None:
        """Store a copy of a client's state after round ``round_number``, on the CPU."""


@dataclass(frozen=True)
class Layout:
    """Memory layout of one architecture's named tensors in a row of bytes."""

    fields: tuple[tuple[str, str, tuple[int, ...], int], ...]
    """Name, dtype, shape and offset in bytes of each tensor."""
    size: int
    """Bytes of a row, a multiple of 16."""

    @staticmethod
    def of(state: ClientState) -> "Layout":
        """Return the layout of a state."""
        fields, offset = [], 0
        for name, tensor in state.items():
            fields.append(
                (name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), offset)
            )
            offset += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        return Layout(tuple(fields), offset)

    def pack(self, state: ClientState, row: np.ndarray) -> None:
        """Write a state into a row of bytes."""
        for name, _, _, offset in self.fields:
            flat = state[name].detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()
            row[offset : offset + len(flat)] = flat

    def unpack(self, row: np.ndarray) -> dict[str, Tensor]:
        """Return the state in a row of bytes, as views of the row."""
        return {
            name: torch.from_numpy(row[start:end]).view(dtype).reshape(shape)
            for name, dtype, shape, start, end in self._slices
        }

    def views(self, row: Tensor) -> dict[str, Tensor]:
        """Return the state in a row of bytes on any device, as views of the row."""
        return {
            name: row[start:end].view(dtype).reshape(shape)
            for name, dtype, shape, start, end in self._slices
        }

    @cached_property
    def _slices(self) -> list[tuple[str, torch.dtype, tuple[int, ...], int, int]]:
        """Return name, dtype, shape, first byte and end of each tensor."""
        slices = []
        for name, dtype_name, shape, offset in self.fields:
            dtype: torch.dtype = getattr(torch, dtype_name)
            slices.append((name, dtype, shape, offset, offset + math.prod(shape) * dtype.itemsize))
        return slices


def on_host(state: ClientState) -> ClientState:
    """Return a state in the host's memory; what was on a device comes in one copy."""
    elsewhere = {name: t for name, t in state.items() if t.device.type != "cpu"}
    if not elsewhere:
        return state
    layout, device = Layout.of(elsewhere), next(iter(elsewhere.values())).device
    row = torch.zeros(layout.size, dtype=torch.uint8, device=device)
    copy_into(layout.views(row), elsewhere)
    return {**state, **layout.unpack(row.cpu().numpy())}


def numbered(folder: Path, suffix: str) -> list[int]:
    """Return the numbers that name what lies in a folder, of six digits at least, sorted.

    Whatever else lies there is none of fedkd's.
    """
    names = (path.name for path in folder.glob(f"*{suffix}"))
    numbers = (name.removesuffix(suffix) for name in names)
    return sorted(int(n) for n in numbers if re.fullmatch("[0-9]{6,18}", n))


class MemoryStore:
    """Client states in memory: a matrix of bytes per architecture with a row per client.

    It costs the bytes of the states and nothing else; rows of clients that never took part cost
    nothing. Tensors outside an architecture's layout, such as codecs' memories, are stored
    separately, as they are.
    """

    def __init__(
        self, layouts: Mapping[str, Layout], architectures: Sequence[str], owned: Iterable[int]
    ) -> None:
        """Reserve a row for each client in ``owned``; ``architectures`` is indexed by client id."""
        rows: dict[str, int] = dict.fromkeys(layouts, 0)
        self._slots: dict[int, tuple[str, int]] = {}
        for client_id in owned:
            name = architectures[client_id]
            self._slots[client_id] = (name, rows[name])
            rows[name] += 1
        self._layouts = layouts
        self._matrices = {
            name: np.zeros((rows[name], layout.size), np.uint8) for name, layout in layouts.items()
        }
        self._extra: dict[int, ClientState] = {}
        self._present: set[int] = set()

    def get(self, client_id: int) -> ClientState | None:
        """Return the state last put for a client, or None."""
        if client_id not in self._present:
            return None
        name, row = self._slots[client_id]
        return {
            **self._layouts[name].unpack(self._matrices[name][row]),
            **self._extra.get(client_id, {}),
        }

    def put(self, client_id: int, round_number: int, state: ClientState) -> None:
        """Copy a client's state into its row."""
        state = on_host(state)
        name, row = self._slots[client_id]
        layout = self._layouts[name]
        layout.pack(state, self._matrices[name][row])
        if len(state) > len(layout.fields):
            inside = {name for name, *_ in layout.fields}
            self._extra[client_id] = {
                n: tensor.clone() for n, tensor in state.items() if n not in inside
            }
        else:
            self._extra.pop(client_id, None)
        self._present.add(client_id)


class DiskStore:
    """Client states on disk: a folder per client with a checksummed file per round.

    Other processes can read them. With ``history``, states of earlier rounds stay until ``forget``
    deletes them, for checkpoints; otherwise each client's ``newest`` stay.
    """

    def __init__(self, folder: Path, *, history: bool = False, newest: int = 1) -> None:
        self.folder = folder
        self._history, self._newest = history, newest
        self._known: set[int] = set()
        self._lock = threading.Lock()

    def get(self, client_id: int) -> ClientState | None:
        """Return the state of a client's newest round, or None. Raises Damaged."""
        newest = self.newest(client_id)
        return None if newest is None else self.read(client_id, newest)

    def put(self, client_id: int, round_number: int, state: ClientState) -> None:
        """Write a client's state after round ``round_number``. Raises StorageError."""
        state = on_host(state)
        layout = Layout.of(state)
        row = np.zeros(layout.size, np.uint8)
        layout.pack(state, row)
        about = json.dumps(layout.fields).encode()
        about += b" " * (-(len(about) + 1) % ALIGNMENT) + b"\n"
        path = self._path(client_id, round_number)
        if client_id not in self._known:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(f"{path.parent} cannot be made: {error.strerror}") from error
            self._known.add(client_id)
        write_checksummed(path, [about, row.data])
        if not self._history:
            newest = [n for n in self.rounds(client_id) if n <= round_number][-self._newest :]
            self.forget(client_id, before=newest[0])

    def read(self, client_id: int, round_number: int, digest: str | None = None) -> ClientState:
        """Return a client's state after round ``round_number``; Damaged if it has another digest.

        Raises Damaged where it is not what was written.
        """
        path = self._path(client_id, round_number)
        content = read_checksummed(path, digest)
        try:
            end = content.index(b"\n") + 1
            fields = tuple(
                (name, kind, tuple(shape), offset)
                for name, kind, shape, offset in json.loads(content[:end])
            )
            row = np.frombuffer(content, np.uint8, offset=end)
            return Layout(fields, len(row)).unpack(row)
        except (ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise Damaged(f"{path} is damaged: it holds no client's state") from error

    def digest(self, client_id: int, round_number: int) -> str:
        """Return the digest of a client's state, as its file says. Raises Damaged."""
        return stored_digest(self._path(client_id, round_number))

    def client_ids(self) -> list[int]:
        """Return the ids of the clients that have a folder here, sorted."""
        return numbered(self.folder, "")

    def client_folder(self, client_id: int) -> Path:
        """Return the folder of a client's states."""
        return self._path(client_id, 0).parent

    def rounds(self, client_id: int) -> list[int]:
        """Return the rounds of a client's stored states, sorted. Raises Damaged."""
        try:
            return numbered(self.client_folder(client_id), ".state")
        except OSError as error:
            raise Damaged(f"{self.folder} cannot be read: {error.strerror}") from error

    def newest(self, client_id: int) -> int | None:
        """Return the newest round of a client's stored states, or None. Raises Damaged."""
        return max(self.rounds(client_id), default=None)

    def forget(self, client_id: int, *, before: int = 0, after: int | None = None) -> None:
        """Delete a client's states of rounds < ``before``, and of rounds > ``after`` if given."""
        for round_number in self.rounds(client_id):
            if round_number < before or (after is not None and round_number > after):
                self._path(client_id, round_number).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete the states of all clients."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._known.clear()

    def _path(self, client_id: int, round_number: int) -> Path:
        return self.folder / f"{client_id:06}" / f"{round_number:06}.state"


class BackedStore:
    """Client states in memory, and in files once they are written down.

    A state that is not in memory is read from the files.
    """

    def __init__(self, memory: MemoryStore, disk: DiskStore, *, at_once: bool = False) -> None:
        """Begin with nothing in memory.

        Args:
            memory: The store in memory.
            disk: The store in files.
            at_once: Whether a state is written as soon as it is put, for another process to read.
        """
        self._memory, self._disk, self._at_once = memory, disk, at_once
        self._unwritten: dict[int, int] = {}
        """By client id: the round of a state that is in no file yet."""
        self._lock = threading.Lock()

    def get(self, client_id: int) -> ClientState | None:
        """Return the state last put for a client, or None."""
        state = self._memory.get(client_id)
        if state is None and (state := self._disk.get(client_id)) is not None:
            self._memory.put(client_id, 0, state)
        return state

    def put(self, client_id: int, round_number: int, state: ClientState) -> None:
        """Store a client's state in memory, and on disk where it is written at once."""
        state = on_host(state)
        if self._at_once:
            self._disk.put(client_id, round_number, state)
        else:
            with self._lock:
                self._unwritten[client_id] = round_number
        self._memory.put(client_id, round_number, state)

    def write_down(self) -> None:
        """Write to files what has changed since the last time. Raises StorageError."""
        with self._lock:
            changed, self._unwritten = self._unwritten, {}
        for client_id, round_number in sorted(changed.items()):
            state = self._memory.get(client_id)
            assert state is not None, "was put"
            self._disk.put(client_id, round_number, state)
