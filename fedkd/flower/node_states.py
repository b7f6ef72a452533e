"""Client states on Flower's nodes: whose they are, and from which round a resumed run goes on.

A node keeps the states of its client on its own disk, under the name of the run that began them.
It never reads a path from a message: a name is digits. Not for: the states of clients in processes
of fedkd's own, which are in the run's folder (``fedkd.storage.checkpoint``).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict

from fedkd.errors import SettingError
from fedkd.storage.client_states import DiskStore

KEPT = 4
"""States that a node keeps of its client where there are checkpoints: those of the last two, and of
the two rounds that one message joins after them."""


@dataclass(frozen=True, kw_only=True)
class NodeStates:
    """The client states that a run's messages are about."""

    name: str
    """Flower's id of the run that began them."""
    after: int = 0
    """The round after which a resumed run goes on."""
    clients: tuple[int, ...] = ()
    """The clients that took part before, and so have states."""

    def named(self, scenario_text: str) -> ConfigRecord:
        """Return the record of the scenario that every message carries."""
        return ConfigRecord({"text": scenario_text, "states": self.name})

    def question(self, scenario: ConfigRecord) -> RecordDict:
        """Return what nodes are asked at the start: who they are, and to go back to a round."""
        content = RecordDict({"scenario": scenario})
        if self.after:
            content["resumed"] = ConfigRecord({"after": self.after, "clients": [*self.clients]})
        return content


def states_name(message: Message) -> str:
    """Return the name of the states that a message is about. Raises SettingError."""
    name = message.content["scenario"].get("states", str(message.metadata.run_id))
    if not isinstance(name, str) or not re.fullmatch("[0-9]{1,20}", name):
        raise SettingError(f"the name of client states must be a run's number, got {name!r:.60}")
    return name


def go_back(message: Message, client_id: int, store: DiskStore) -> None:
    """Delete what a client learned after the round that a resumed run goes on from.

    Raises SettingError where a client that took part has no state here, Damaged where it is not
    what was written.

    Args:
        message: The question that a run begins with.
        client_id: The node's client.
        store: Where its states are.
    """
    resumed = message.content.get("resumed")
    if not isinstance(resumed, ConfigRecord):
        return
    after, clients = resumed["after"], resumed["clients"]
    if not isinstance(after, int) or not isinstance(clients, Sequence):
        raise SettingError("a resumed run must say after which round it goes on, and whose")
    store.forget(client_id, after=after)
    if store.get(client_id) is None and client_id in clients:
        raise SettingError(
            f"this node has no state of client {client_id} of round {after} or before in"
            f" {store.folder}; give it the cache folder (FEDKD_CACHE) that the run began with"
        )
