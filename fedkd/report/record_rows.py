"""From records to the rows of a run's tables: one a round, one a client.

Which columns there are follows from the figures that ``fedkd.federation.round_records`` declares.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedkd.federation.round_records import (
    MEASURES,
    ClientRecord,
    Measure,
    OverClients,
    RoundRecord,
)
from fedkd.settings.measuring_points import MEASURING_POINTS, MeasuringPoint, column
from fedkd.settings.metric_names import MetricName

VALIDATION = "validation_accuracy"
GAINS = {f"{where}_accuracy": f"{where}_gain" for where in ("personal", "global", "validation")}
"""The accuracies that a run compares with its local-only baseline, and the gains over it."""
ACCURACIES = ("personal_accuracy", "global_accuracy")
FINAL = tuple(name for m in MEASURES if m.in_summary for name in m.round_columns())
"""The columns of a round that the summary shows."""
FINAL_MEANS = tuple(
    dict.fromkeys(m.figure for m in MEASURES if m.in_summary and "mean" in m.over_clients)
)
"""Those that a comparison takes over seeds, each at the point that it compares."""
CLIENT_COLUMNS = (
    *("round", "client"),
    *(m.name for m in MEASURES if m.is_column and m.metric is None),
)
"""The columns of ``clients.csv`` in a run that asks for no metrics."""
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
PREFIXES = {"metrics": "strategy/", "own": "own/"}
"""Fields of ``RoundRecord`` whose figures others name, and how their columns begin.

No figure of fedkd has a slash in its name, so that theirs overwrite none.
"""
METRIC_FIGURES = tuple(dict.fromkeys(m.figure for m in MEASURES if m.metric))
"""The figures of metrics, without their points."""
OF_METRICS = frozenset(c for m in MEASURES if m.metric for c in m.round_columns())
"""The columns of metrics, which only runs have that ask for them."""
ROUND_COLUMNS = frozenset((*OF_THE_ROUND, *(c for m in MEASURES for c in m.round_columns())))


@dataclass(frozen=True)
class Baseline:
    """Accuracies of the local-only baseline [rounds, K], on each client's own data and balanced.

    It has one model a round, the one after its training: gains at both points are over it.
    ``validation_accuracy`` is None where no client has a validation split.
    """

    personal_accuracy: np.ndarray
    global_accuracy: np.ndarray
    validation_accuracy: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What will run, for those who report it."""

    name: str
    """The scenario's."""
    title: str
    """The run's: what distinguishes it from its scenario."""
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
    is_reference: bool = False
    """Whether it is no federation but what one is compared with: training alone, or on all data."""
    measured: tuple[MeasuringPoint, ...] = ("training",)
    """The points of a round at which clients' models are measured, in the sequence of time."""
    after: MeasuringPoint = "training"
    """The one that is reported first."""
    shift: str = ""
    """How clients' inputs and labels differ by settings, in words."""
    measurement: str = ""
    """In which rounds and on which test sets, in words, where it is not all of them."""
    sends_metrics: bool = True
    """Whether clients send what they measure."""
    method: str = ""
    """What the strategy does, in its own words."""
    exchanged: str = ""
    """What clients send and how they learn from what comes back, in words."""

    @property
    def reported(self) -> tuple[MeasuringPoint, ...]:
        """The points that are measured, the one that is reported first before the other."""
        return (self.after, *(point for point in self.measured if point != self.after))

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
    for measure in _of_run(record.asked):
        for name, how in measure.round_columns().items():
            row[name] = _over_clients(clients, measure, how)
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
    return {**row, **named_by_others(record)}


def _of_run(asked: Sequence[MetricName]) -> list[Measure]:
    """Return the figures of a run that asks for some metrics."""
    return [m for m in MEASURES if m.metric is None or m.metric in asked]


def named_by_others(record: RoundRecord) -> dict[str, float]:
    """Return the figures of a round whose names are not fedkd's, as columns with their prefix."""
    return {
        f"{prefix}{name}": value
        for part, prefix in PREFIXES.items()
        for name, value in getattr(record, part).items()
    }


def figures_by_others(row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return those figures of a row of ``rounds.jsonl``, by the field of a record they belong to.

    >>> figures_by_others({"round": 1, "strategy/round": 5, "own/f1": 0.5})
    {'metrics': {'round': 5}, 'own': {'f1': 0.5}}
    """
    return {
        part: {
            name.removeprefix(prefix): value
            for name, value in row.items()
            if name.startswith(prefix)
        }
        for part, prefix in PREFIXES.items()
    }


def _over_clients(
    clients: Sequence[ClientRecord], measure: Measure, how: OverClients
) -> float | int | None:
    """Return a figure of a round; None where no client has one."""
    everybody = how in ("total", "largest")
    found = (measure.of(c) for c in clients if everybody or not c.attacker)
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


def last_measured(records: Sequence[RoundRecord], name: str, point: MeasuringPoint) -> RoundRecord:
    """Return the last record that has a figure at a point, or the last of all."""
    known = (
        record
        for record in reversed(records)
        if any(getattr(client.after(point), name) is not None for client in record.clients)
    )
    return next(known, records[-1])


def with_gains(record: RoundRecord, baseline: Baseline | None) -> tuple[ClientRecord, ...]:
    """Return the clients' records with their gains over local-only training in the same round."""
    if baseline is None:
        return record.clients
    gains = {
        column(gain, point): client_gains(record, baseline, name, point)
        for name, gain in GAINS.items()
        for point in MEASURING_POINTS
    }
    return tuple(
        client.with_figures(dict(zip(gains, of_client, strict=True)))
        for client, *of_client in zip(record.clients, *gains.values(), strict=True)
    )


def client_gains(
    record: RoundRecord, baseline: Baseline | None, name: str, point: MeasuringPoint
) -> list[float | None]:
    """Return each client's accuracy at a point less that of the local-only baseline.

    The baseline's is that after its training in the same round. None for attackers, and where
    either is unknown.

    Args:
        record: The round.
        baseline: Local-only training, or None.
        name: The accuracy, without the point.
        point: At which of the round's points.
    """
    known = None if baseline is None else getattr(baseline, name)
    if known is None:
        return [None] * len(record.clients)
    values = (None if c.attacker else getattr(c.after(point), name) for c in record.clients)
    pairs = zip(values, known[record.round - 1].tolist(), strict=True)
    return [None if value is None or np.isnan(alone) else value - alone for value, alone in pairs]


def local_only_figures(record: RoundRecord, baseline: Baseline | None) -> dict[str, float]:
    """Return the accuracies of the local-only baseline in a round, over clients, by column.

    Attackers are left out, as they are of the round's own. Empty without a baseline.
    """
    if baseline is None:
        return {}
    found, honest = {}, [not client.attacker for client in record.clients]
    for name in ACCURACIES:
        values = getattr(baseline, name)[record.round - 1][honest]
        known = values[~np.isnan(values)]  # a client that has not taken part yet has no figure
        if not len(known):
            continue
        found[column(name, "training")] = float(known.mean())
        found[column(f"{name}_std", "training")] = float(known.std())
    return found


def client_row(
    client: ClientRecord, round_number: int, asked: Sequence[MetricName] = ()
) -> dict[str, Any]:
    """Return a client's row of ``clients.csv`` in a round of a run that asks for some metrics."""
    figures = {m.name: m.of(client) for m in _of_run(asked) if m.is_column}
    return {"round": round_number, "client": client.client_id, **figures}


def client_rows(record: RoundRecord, baseline: Baseline | None) -> list[dict[str, Any]]:
    """Return all clients' rows of a round."""
    return [
        client_row(client, record.round, record.asked) for client in with_gains(record, baseline)
    ]


def client_record(cells: Mapping[str, str], by_class: tuple[float, ...] | None) -> ClientRecord:
    """Return the record that a row of ``clients.csv`` was written of, and its teacher by class."""
    found = _of_run(metrics_in(cells))
    figures = {m.name: m.parse(cells[m.name]) for m in found if m.is_column}
    return ClientRecord.of_figures(
        {"client_id": int(cells["client"]), "teacher_by_class": by_class, **figures}
    )


def metrics_in(columns: Collection[str]) -> tuple[MetricName, ...]:
    """Return the metrics that columns of ``clients.csv`` are of, in the order of declaration."""
    return tuple(dict.fromkeys(m.metric for m in MEASURES if m.metric and m.name in columns))


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


def verdict(last: Mapping[str, Any], strategy: str, points: Sequence[MeasuringPoint]) -> str:
    """Return in words how far fusion is ahead of local training, at each point of a round."""
    found = [text for point in points if (text := _verdict_at(last, strategy, point))]
    if found:
        found.append("One seed is no test; fedkd compare makes one over several.")
    return " ".join(found)


def _verdict_at(last: Mapping[str, Any], strategy: str, point: MeasuringPoint) -> str:
    gains = {name: last.get(column(f"{name}_gain", point)) for name in ("personal", "global")}
    private = last.get("baseline") == "local_only_private"
    alone = "private local training" if private else "local training"
    parts = []
    for name, where in (
        ("personal", "on the clients' own distributions"),
        ("global", "on the balanced test set"),
    ):
        if gains[name] is None:
            continue
        points = 100 * last[column(f"{name}_gain", point)]
        harmed = 100 * last[column(f"{name}_negative_transfer", point)]
        size, side = f"{abs(points):.1f} points ", "ahead of" if points > 0 else "BEHIND"
        word = "as good as" if abs(points) < 0.05 else f"{size}{side}"
        parts.append(f"is {word} {alone} {where} ({harmed:.0f} % of the clients are worse off)")
    return f"After {point}, {strategy} {', and '.join(parts)}." if parts else ""


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
