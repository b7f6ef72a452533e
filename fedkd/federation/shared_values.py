"""Values that several clients share, such as a common teacher: stored once, restored as shared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class SharedValue(Generic[T]):
    """A value of one or several clients. Two of them are equal if they are the same object."""

    value: T


def shared_state(
    by_client: Mapping[int, SharedValue[T]], to_state: Callable[[T], dict[str, Any]]
) -> dict[str, Any]:
    """Return the values of clients for a checkpoint, each distinct one once."""
    positions: dict[SharedValue[T], int] = {}
    for shared in by_client.values():
        positions.setdefault(shared, len(positions))
    return {
        "values": [to_state(shared.value) for shared in positions],
        "clients": [(client_id, positions[shared]) for client_id, shared in by_client.items()],
    }


def restored(
    state: Mapping[str, Any], from_state: Callable[[Mapping[str, Any]], T]
) -> dict[int, SharedValue[T]]:
    """Return the values of clients that ``shared_state`` made a state of."""
    values = [SharedValue(from_state(value)) for value in state["values"]]
    return {client_id: values[position] for client_id, position in state["clients"]}
