"""The models that a run begins with: client states that another run has left in its folder."""

import hashlib
from functools import cached_property
from pathlib import Path

from fedkd.errors import SettingError
from fedkd.storage.client_states import ClientState, DiskStore


class StartStates:
    """The last state of each client of a finished run, read when it is asked for."""

    def __init__(self, run_dir: Path, clients: int) -> None:
        """Find the states of so many clients. Raises SettingError where one has none."""
        if not (run_dir / "config.yaml").is_file():
            raise SettingError(f"start_from={run_dir}: no run's folder (it has no config.yaml)")
        self.run_dir, self._store = run_dir, DiskStore(run_dir / "states")
        self._rounds: dict[int, int] = {}
        for client_id in range(clients):
            newest = self._store.newest(client_id)
            if newest is None:
                raise SettingError(
                    f"start_from={run_dir}: client {client_id} has no model there: the run kept"
                    " none (checkpoint.every=0), or it never took part"
                )
            self._rounds[client_id] = newest

    def of(self, client_id: int) -> ClientState:
        """Return a client's state. Raises Damaged where it is not what was written."""
        return self._store.read(client_id, self._rounds[client_id])

    @cached_property
    def sha256(self) -> str:
        """The hash of all states, by which a run that goes on knows that they are the same."""
        digests = [self._store.digest(client, at) for client, at in self._rounds.items()]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()
