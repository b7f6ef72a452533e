"""Who takes part in a round: drawn from named streams, so that a round repeats by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import Int
from torch import Tensor

from fedkd.errors import RunError
from fedkd.federation.protocol import Protocol
from fedkd.runtime.seeding import numpy_stream


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The clients and public samples of one round. Client ids are in ascending order."""

    round_number: int
    invited: tuple[int, ...]
    """The clients that were drawn for the round, with those that then dropped out."""
    participants: tuple[int, ...]
    """The invited clients that are present and take part."""
    trainers: tuple[int, ...]
    """The participants that train and upload: one of each architecture where data is pooled."""
    round_ids: Int[Tensor, "M"]
    """The round's public samples."""
    query_ids: Int[Tensor, "N"]
    """Those of them that clients predict on."""
    left_out: Mapping[int, str] = field(default_factory=dict)
    """The invited clients that the run goes on without, and why."""
    unmeasured: frozenset[int] = frozenset()
    """The participants that do not measure their models: they come again before figures are
    recorded."""
    is_measured: bool = True
    """Whether the round's figures on test sets are recorded."""

    @property
    def dropped_out(self) -> tuple[int, ...]:
        """The invited clients that are not present."""
        return tuple(sorted(set(self.invited) - {*self.participants, *self.left_out}))


@dataclass(frozen=True)
class Participation:
    """Draws the clients of each round of a run."""

    protocol: Protocol
    clients: int
    seed: int
    left_out: Mapping[int, str] = field(default_factory=dict)
    """The clients whose cards could not be believed, and why, by client id."""

    def invited(self, round_number: int) -> tuple[int, ...]:
        """Return the clients that are asked to take part in a round."""
        count = max(1, round(self.protocol.participation * self.clients))
        if count == self.clients:
            return tuple(range(self.clients))
        stream = numpy_stream(self.seed, "round", round_number, "participants")
        return tuple(sorted(stream.choice(self.clients, count, replace=False).tolist()))

    def present(self, round_number: int, invited: Sequence[int]) -> tuple[int, ...]:
        """Return the invited clients that do not drop out; each has a stream of its own for it."""
        if self.protocol.dropout == 0:
            return tuple(invited)
        draws = {
            i: numpy_stream(self.seed, "client", i, "round", round_number, "dropout").random()
            for i in invited
        }
        return tuple(i for i in invited if draws[i] >= self.protocol.dropout)

    def coming(self, first: int, last: int) -> frozenset[int]:
        """Return the clients that are present in some round from ``first`` to ``last``."""
        rounds = range(first, last + 1)
        return frozenset(i for r in rounds for i in self.present(r, self.invited(r)))

    def require_present(self, selection: Selection) -> None:
        """Raise RunError where fewer clients than ``min_clients`` are present in a round."""
        gone = len(selection.dropped_out)
        reasons = [f"{gone} dropped out"] if gone else []
        reasons += [f"client {i} is {why}" for i, why in sorted(selection.left_out.items())[:1]]
        self._require(selection.round_number, len(selection.participants), reasons)

    def require_answers(self, selection: Selection, failures: Mapping[int, str]) -> None:
        """Raise RunError where fewer participants than ``min_clients`` are left in a round.

        ``failures`` are the reasons of those that failed, by client id.
        """
        answered = len(selection.participants) - len(failures)
        reasons = [f"client {i} failed: {failures[i]}" for i in sorted(failures)[:1]]
        self._require(selection.round_number, answered, reasons)

    def _require(self, round_number: int, answered: int, reasons: Sequence[str]) -> None:
        if answered < self.protocol.min_clients:
            raise RunError(
                "; ".join(
                    [
                        f"round {round_number}: {answered} of {self.clients} clients answered,"
                        f" min_clients={self.protocol.min_clients}",
                        *reasons,
                    ]
                )
            )


def first_of_each(architectures: Sequence[str], participants: Sequence[int]) -> tuple[int, ...]:
    """Return the first participant of each architecture; ``architectures`` are by client id.

    >>> first_of_each(["mlp", "cnn", "mlp", "cnn"], [1, 2, 3])
    (1, 2)
    """
    first: dict[str, int] = {}
    for client_id in participants:
        first.setdefault(architectures[client_id], client_id)
    return tuple(sorted(first.values()))
