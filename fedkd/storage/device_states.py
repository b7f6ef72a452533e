"""Client states on the device that trains them, between rounds: no copy to the host and back.

A matrix of bytes for each architecture, a row for each client, of which a state's tensors are
views. Files are written once a checkpoint, from one copy of all rows that changed. Not for: states
in the host's memory or in files (``fedkd.storage.client_states``).
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fedkd.runtime.devices import copy_into, free_memory, sent, wait_for
from fedkd.storage.client_states import ClientState, DiskStore, Layout

LARGEST_SHARE = 0.25
"""The most of a GPU's free memory that states take; where they are larger, they are on the host."""
COPIED_BYTES = 2**28
"""The most that is copied to the host at a time."""


class DeviceStore:
    """Client states on a device, backed by files.

    A state's tensors outside of its architecture's layout, such as codecs' memories, are stored
    separately, as they are.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        architectures: Sequence[str],
        owned: Iterable[int],
        device: torch.device,
        disk: DiskStore | None,
        *,
        at_once: bool = False,
    ) -> None:
        """Reserve a row on the device for each client in ``owned``.

        Args:
            layouts: By architecture.
            architectures: By client id.
            owned: The clients.
            device: Where they are.
            disk: Files, for checkpoints and for states of before; None where there are none.
            at_once: Whether a state is written as soon as it is put, for another process to read.
        """
        self._layouts, self._device, self._disk, self._at_once = layouts, device, disk, at_once
        self._slots = slots(architectures, owned)
        rows = dict.fromkeys(layouts, 0)
        for name, row in self._slots.values():
            rows[name] = max(rows[name], row + 1)
        self._matrices = {
            name: torch.zeros(rows[name], layout.size, dtype=torch.uint8, device=device)
            for name, layout in layouts.items()
        }
        self._extra: dict[int, ClientState] = {}
        self._present: set[int] = set()
        self._unwritten: dict[int, int] = {}
        """By client id: the round of a state that is in no file yet."""
        self._lock = threading.Lock()

    def get(self, client_id: int) -> ClientState | None:
        """Return the state last put for a client, as views on the device, or None."""
        if client_id not in self._present:
            stored = None if self._disk is None else self._disk.get(client_id)
            if stored is None:
                return None
            self._copy(client_id, stored)
        name, row = self._slots[client_id]
        layout = self._layouts[name]
        return {**layout.views(self._matrices[name][row]), **self._extra.get(client_id, {})}

    def put(self, client_id: int, round_number: int, state: ClientState) -> None:
        """Copy a client's state into its row on the device."""
        self._copy(client_id, state)
        if self._disk is not None:
            with self._lock:
                self._unwritten[client_id] = round_number
            if self._at_once:
                self.write_down()

    def write_down(self) -> None:
        """Write to files what has changed since the last time. Raises StorageError."""
        assert self._disk is not None, "asked where there are files"
        with self._lock:
            changed, self._unwritten = self._unwritten, {}
        for name, layout in self._layouts.items():
            clients = sorted(i for i in changed if self._slots[i][0] == name)
            for part, rows in self._copied(name, clients):
                for client_id, row in zip(part, rows, strict=True):
                    state = {**layout.unpack(row.numpy()), **self._extra.get(client_id, {})}
                    self._disk.put(client_id, changed[client_id], state)

    def _copied(self, name: str, clients: Sequence[int]) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Yield clients of an architecture with their rows on the host, many in each copy."""
        matrix = self._matrices[name]
        at_once = max(1, COPIED_BYTES // max(1, self._layouts[name].size))
        for start in range(0, len(clients), at_once):
            part = clients[start : start + at_once]
            index = sent(torch.tensor([self._slots[i][1] for i in part]), self._device)
            rows = matrix.index_select(0, index)
            if self._device.type == "cuda":
                host = torch.empty(rows.shape, dtype=torch.uint8, pin_memory=True)
                host.copy_(rows, non_blocking=True)
                wait_for(self._device)
            else:
                host = rows.cpu()
            yield part, host

    def _copy(self, client_id: int, state: ClientState) -> None:
        name, row = self._slots[client_id]
        layout = self._layouts[name]
        views = layout.views(self._matrices[name][row])
        copy_into(views, state)
        extra = {n: tensor.clone() for n, tensor in state.items() if n not in views}
        if extra:
            self._extra[client_id] = extra
        else:
            self._extra.pop(client_id, None)
        self._present.add(client_id)


def slots(architectures: Sequence[str], owned: Iterable[int]) -> dict[int, tuple[str, int]]:
    """Return each client's architecture and its row among those of its kind.

    >>> slots(["mlp", "cnn", "mlp"], [0, 1, 2])
    {0: ('mlp', 0), 1: ('cnn', 0), 2: ('mlp', 1)}
    """
    rows: dict[str, int] = {}
    found = {}
    for client_id in owned:
        name = architectures[client_id]
        found[client_id] = (name, rows.get(name, 0))
        rows[name] = rows.get(name, 0) + 1
    return found


def fits(
    layouts: Mapping[str, Layout],
    architectures: Sequence[str],
    owned: Sequence[int],
    device: torch.device,
) -> bool:
    """Return whether the states of some clients take a small share of a device's free memory.

    Args:
        layouts: By architecture.
        architectures: By client id.
        owned: The clients.
        device: The device; on a CPU nothing is gained.
    """
    if device.type == "cpu":
        return False
    free = free_memory(device)
    size = sum(layouts[architectures[i]].size for i in owned)
    return free is None or size <= LARGEST_SHARE * free
