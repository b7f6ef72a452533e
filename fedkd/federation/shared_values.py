"""Values that several clients share, such as a common teacher: stored once, restored as shared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypedDict, TypeVar

from torch import Tensor

T = TypeVar("T")
Tensors = Mapping[str, Tensor]


class SharedState(TypedDict):
    """Values of clients as a checkpoint has them, each distinct one once."""

    values: list[Tensors]
    clients: list[tuple[int, int]]
    """A client's id, and the place of its value."""


@dataclass(frozen=True, eq=False)
class SharedValue(Generic[T]):
    """A value of one or several clients. Two of them are equal if they are the same object."""

    value: T


def shared_state(
    by_client: Mapping[int, SharedValue[T]], to_state: Callable[[T], Tensors]
) -> SharedState:
    """Return the values of clients for a checkpoint, each distinct one once."""
    positions: dict[SharedValue[T], int] = {}
    for shared in by_client.values():
        positions.setdefault(shared, len(positions))
    return {
        "values": [to_state(shared.value) for shared in positions],
        "clients": [(client_id, positions[shared]) for client_id, shared in by_client.items()],
    }


def restored(state: SharedState, from_state: Callable[[Tensors], T]) -> dict[int, SharedValue[T]]:
    """Return the values of clients that ``shared_state`` made a state of."""
    values = [SharedValue(from_state(value)) for value in state["values"]]
    return {client_id: values[position] for client_id, position in state["clients"]}
