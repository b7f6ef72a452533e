"""What all sinks of a run share: what they are told, and under which names."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

SECTIONS = {
    "accuracy": ("accuracy", "macro_f1", "auroc"),
    "gain": ("gain", "negative_transfer"),
    "loss": ("loss", "nll", "ece"),
    "traffic": ("bytes",),
    "privacy": ("epsilon", "leakage"),
    "time": ("seconds",),
}
"""Sections of a sink's figures by words in the names of their columns."""
OTHERS = "round"
"""The section of all other figures of fedkd."""
LOCAL_ONLY = "_local_only"
"""How the names of the local-only baseline's figures end."""


@dataclass(frozen=True, kw_only=True)
class SinkRun:
    """A run that begins, or goes on."""

    name: str
    """What distinguishes it from its scenario, as ``knfu beta=3 seed=1``."""
    scenario: str
    strategy: str
    description: str
    settings: Mapping[str, Any]
    folder: Path
    rounds_before: int
    """How many rounds a run that goes on has finished."""


@dataclass(frozen=True, kw_only=True)
class SinkRound:
    """The figures of a round."""

    row: Mapping[str, Any]
    """As in ``rounds.jsonl``."""
    alone: Mapping[str, float]
    """Those of the local-only baseline, by the name of a column that they are compared with."""

    @property
    def round_number(self) -> int:
        """The round, from 1."""
        return int(self.row["round"])

    def figures(self) -> dict[str, float]:
        """Return the finite numbers of the row by section and column.

        >>> row = {"round": 2, "bytes_up": 3, "strategy/asked": 1.0, "rejected": []}
        >>> SinkRound(row=row, alone={}).figures()
        {'traffic/bytes_up': 3, 'strategy/asked': 1.0}
        """
        return {
            sectioned(name): value
            for name, value in self.row.items()
            if name != "round" and _is_number(value)
        }

    def figures_alone(self) -> dict[str, float]:
        """Return the baseline's figures by section and column."""
        return {sectioned(name): value for name, value in self.alone.items() if _is_number(value)}


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The end of a run."""

    summary: Mapping[str, Any]
    """As in ``summary.json``."""
    rounds: Sequence[SinkRound]
    """All finished rounds."""
    clients: Sequence[Mapping[str, Any]]
    """Rows of all clients in all rounds, as in ``clients.csv``."""
    spent: Sequence[Mapping[str, Any]]
    """Rows of each client's epsilon by round."""
    pictures: Sequence[Path]
    """PNG files."""

    @property
    def status(self) -> int:
        """The exit status; 0 for success."""
        return int(self.summary["status"] != "completed")


class Sink(Protocol):
    """Somebody who is told of a run while it goes on. Any method may raise anything."""

    title: str
    """For messages."""

    def round(self, row: SinkRound) -> None:
        """Take the figures of a round."""

    def tell(self, ending: Ending) -> None:
        """Take what the run came to."""

    def close(self, status: int) -> None:
        """End, whether the rest was taken or not."""

    def lines(self) -> list[str]:
        """Return where the figures are, and how they are looked at, a line each."""


def sectioned(column: str) -> str:
    """Return the name of a column's figure: a section, a slash, the column.

    >>> sectioned("global_gain_after_training"), sectioned("own/f1")
    ('gain/global_gain_after_training', 'own/f1')
    """
    if "/" in column:
        return column
    found = (name for name, words in SECTIONS.items() if any(word in column for word in words))
    return f"{next(found, OTHERS)}/{column}"


def reason(error: Exception) -> str:
    """Return what an error says, in a line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return " ".join(str(error).split()) or type(error).__name__


def infinity_as_text(value: Any) -> Any:
    """Return settings with infinity as text.

    JSON has no infinity, and ``epsilon=inf`` must not become ``epsilon=null``.
    """
    if isinstance(value, Mapping):
        return {key: infinity_as_text(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [infinity_as_text(v) for v in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
