"""Where a client's model lives between two rounds: a store of ours, keyed by client, never Flower's Context.

(Flower's Context travels with every message.) A store returns what was put, and nothing for a client that never
took part, whose model then starts from its own initial weights.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

ModelState = Mapping[str, Tensor]


@runtime_checkable
class ClientStore(Protocol):
    """Model states by client id. Two clients may be read and written at once, one client may not."""

    def get(self, client_id: int) -> ModelState | None:
        """Return the state last put for a client, or None. The caller does not write into it."""

    def put(self, client_id: int, state: ModelState) -> None:
        """Keep a copy of a client's state, on the CPU."""


class MemoryStore:
    """Client states in this process's memory."""

    def __init__(self) -> None:
        self._states: dict[int, dict[str, Tensor]] = {}

    def get(self, client_id: int) -> ModelState | None:
        """Return the state last put for a client, or None."""
        return self._states.get(client_id)

    def put(self, client_id: int, state: ModelState) -> None:
        """Keep a copy of a client's state, reusing the memory of the one before."""
        kept = self._states.setdefault(client_id, {})
        for name, tensor in state.items():
            if name in kept:
                kept[name].copy_(tensor.detach())
            else:
                kept[name] = tensor.detach().to("cpu", copy=True)
