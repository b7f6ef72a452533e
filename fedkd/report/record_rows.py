"""From records to the rows of a run's tables: one a round, one a client.

Which columns there are follows from the figures that ``fedkd.federation.round_records`` declares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedkd.federation.round_records import (
    MEASURES,
    ClientRecord,
    Measure,
    OverClients,
    RoundRecord,
)

VALIDATION = "validation_accuracy"
GAINS = {f"{where}_accuracy": f"{where}_gain" for where in ("personal", "global", "validation")}
"""The accuracies that a run compares with its local-only baseline, and the gains over it."""
ACCURACIES = ("personal_accuracy", "global_accuracy")
_SHOWN = {
    column: how for m in MEASURES if m.in_summary for column, how in m.round_columns().items()
}
FINAL = tuple(_SHOWN)
"""The columns of a round that the summary shows."""
FINAL_MEANS = tuple(column for column, how in _SHOWN.items() if how == "mean")
"""Those that a comparison takes over seeds."""
CLIENT_COLUMNS = ("round", "client", *(m.name for m in MEASURES if m.is_column))
"""The columns of ``clients.csv``."""
OF_THE_ROUND = {
    "round": "number of the round from 1",
    "seconds": "seconds of the round",
    "participants": "how many clients took part",
    "accepted": "how many uploads were accepted",
    "rejected": "clients whose uploads were rejected, and why",
    "failed": "clients that failed, and why",
    "knowledge_sha256": "hash of the fused teachers",
    "exposure": "how far secrets in texts came out, in the last round of a run that has some",
}
"""The columns of ``rounds.jsonl`` that are of the round as a whole."""
ROUND_COLUMNS = frozenset((*OF_THE_ROUND, *(c for m in MEASURES for c in m.round_columns())))


@dataclass(frozen=True)
class Baseline:
    """Accuracies of the local-only baseline [rounds, K], on each client's own data and balanced.

    ``validation_accuracy`` is None where no client has a validation split.
    """

    personal_accuracy: np.ndarray
    global_accuracy: np.ndarray
    validation_accuracy: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What will run, for those who report it."""

    name: str
    scenario: Mapping[str, Any]
    strategy: str
    rounds: int
    architectures: tuple[str, ...]
    parameters: Mapping[str, int]
    train_sizes: tuple[int, ...]
    """By client, in ``examples``."""
    label_counts: np.ndarray
    """[K, C], in ``dealt``."""
    class_names: tuple[str, ...]
    public_set: str
    """The public set in words."""
    examples: str
    """What clients train on: samples, or windows of text with the canaries among it."""
    dealt: str
    """What the partition deals: samples, or texts."""
    device: str
    engine: str
    loss: str
    exchanges: bool
    privacy: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    attackers: tuple[int, ...] = ()

    @property
    def clients(self) -> int:
        """K."""
        return len(self.architectures)


def round_row(record: RoundRecord, baseline: Baseline | None) -> dict[str, Any]:
    """Return a round's row of ``rounds.jsonl``: its figures over clients, and who took part.

    A client that is absent counts with its latest accuracies, since its model has not changed.
    """
    clients = with_gains(record, baseline)
    row: dict[str, Any] = {"round": record.round}
    for measure in MEASURES:
        for column, how in measure.round_columns().items():
            row[column] = _over_clients(clients, measure, how)
    row["seconds"] = record.seconds
    row["participants"] = sum(c.status != "absent" for c in clients)
    row["accepted"] = sum(c.status == "ok" for c in clients)
    for status in ("rejected", "failed"):
        row[status] = [
            {"client": c.client_id, "reason": c.reason} for c in clients if c.status == status
        ]
    row["knowledge_sha256"] = record.knowledge_sha256
    if record.exposure is not None:
        row["exposure"] = record.exposure
    row.update(record.metrics)
    return row


def strategy_figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a row of ``rounds.jsonl`` that the strategy reported."""
    return {name: value for name, value in row.items() if name not in ROUND_COLUMNS}


def _over_clients(
    clients: Sequence[ClientRecord], measure: Measure, how: OverClients
) -> float | int | None:
    """Return a figure of a round; None where no client has one."""
    everybody = how in ("total", "largest")
    found = (getattr(c, measure.name) for c in clients if everybody or not c.attacker)
    values: list[float] = [value for value in found if value is not None]
    if not values:
        return 0 if how == "total" else None
    if how == "total":
        return sum(values)
    if how == "largest":  # of epsilon: clients' data is disjoint, so that it is the system's
        return max(values)
    if how == "std":
        return float(np.std(values))
    return float(np.mean([value < 0 for value in values] if how == "share_negative" else values))


def with_gains(record: RoundRecord, baseline: Baseline | None) -> tuple[ClientRecord, ...]:
    """Return the clients' records with their gains over local-only training in the same round."""
    if baseline is None:
        return record.clients
    gains = [client_gains(record, baseline, name) for name in GAINS]
    return tuple(
        replace(client, **dict(zip(GAINS.values(), of_client, strict=True)))
        for client, *of_client in zip(record.clients, *gains, strict=True)
    )


def client_gains(record: RoundRecord, baseline: Baseline | None, name: str) -> list[float | None]:
    """Return each client's accuracy less that of the local-only baseline in the same round.

    None for attackers, and where either is unknown.
    """
    known = None if baseline is None else getattr(baseline, name)
    if known is None:
        return [None] * len(record.clients)
    values = (None if c.attacker else getattr(c, name) for c in record.clients)
    pairs = zip(values, known[record.round - 1].tolist(), strict=True)
    return [None if value is None or np.isnan(alone) else value - alone for value, alone in pairs]


def client_row(client: ClientRecord, round_number: int) -> dict[str, Any]:
    """Return a client's row of ``clients.csv`` in a round."""
    figures = {m.name: getattr(client, m.name) for m in MEASURES if m.is_column}
    return {"round": round_number, "client": client.client_id, **figures}


def client_rows(record: RoundRecord, baseline: Baseline | None) -> list[dict[str, Any]]:
    """Return all clients' rows of a round."""
    return [client_row(client, record.round) for client in with_gains(record, baseline)]


def client_record(cells: Mapping[str, str], by_class: tuple[float, ...] | None) -> ClientRecord:
    """Return the record that a row of ``clients.csv`` was written of, and its teacher by class."""
    figures = {m.name: m.parse(cells[m.name]) for m in MEASURES if m.is_column}
    return ClientRecord(client_id=int(cells["client"]), teacher_by_class=by_class, **figures)


def epsilon_rows(records: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    """Return what was spent on each client up to each round; nothing of clients without a claim."""
    return [
        {"round": record.round, "client": client.client_id, "epsilon": client.epsilon}
        for record in records
        for client in record.clients
        if client.epsilon is not None
    ]


def teacher_rows(record: RoundRecord, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of ``teacher_by_class.csv``: one a client that distilled a teacher.

    None where the public set has no sample of a class.
    """
    columns = [f"class {name}" for name in class_names]
    return [
        {
            "round": record.round,
            "client": client.client_id,
            **dict(zip(columns, map(_known, by_class), strict=True)),
        }
        for client in record.clients
        if (by_class := client.teacher_by_class) is not None
    ]


def verdict(last: Mapping[str, Any], strategy: str) -> str:
    """Return a sentence on whether fusion beat local training, and for how many clients."""
    if last.get("personal_gain") is None or last.get("global_gain") is None:
        return ""
    parts = []
    for name, where in (
        ("personal", "on the clients' own distributions"),
        ("global", "on the balanced test set"),
    ):
        points, harmed = 100 * last[f"{name}_gain"], 100 * last[f"{name}_negative_transfer"]
        word = "equals" if abs(points) < 0.05 else "beats" if points > 0 else "LOSES to"
        size = "" if word == "equals" else f" by {abs(points):.1f} points"
        parts.append(
            f"{word} local training{size} {where} ({harmed:.0f} % of the clients are worse off)"
        )
    return (
        f"{strategy} {parts[0]}, and {parts[1]}. One seed is no test; scripts/compare.py makes one"
        " over several."
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
