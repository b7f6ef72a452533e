"""From records to the numbers that are reported: a row a round, a row a client, the final
figures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedkd.messages import ClientRecord, RoundRecord

ACCURACIES = ("personal_accuracy", "global_accuracy")
VALIDATION = "validation_accuracy"
CALIBRATION = (
    "personal_nll",
    "global_nll",
    "global_ece",
    "teacher_accuracy",
    "teacher_nll",
    "teacher_ece",
)


@dataclass(frozen=True)
class Baseline:
    """The local-only twin of a run: accuracies [rounds, K] on the clients' own distributions and
    balanced.

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
    """Return a round's figures: means over clients, their spread, and gains over local-only
    training.

    Accuracies are means over all clients of their latest known figure, so that an absent client,
    whose model has not changed, counts with the one it has; spreads are standard deviations over
    clients. Attackers do not count. Bytes are totals.
    """
    row: dict[str, Any] = {"round": record.round}
    honest = [c for c in record.clients if not c.attacker]
    for name in ACCURACIES:
        values = _values(honest, name)
        row[name] = _mean(values)
        row[f"{name}_std"] = float(np.std(values)) if values else None
    for name in ACCURACIES:
        gains = client_gains(record, baseline, name)
        short = name.removesuffix("_accuracy")
        row[f"{short}_gain"] = _mean([g for g in gains if g is not None])
        row[f"{short}_negative_transfer"] = _mean([float(g < 0) for g in gains if g is not None])
    row[VALIDATION] = _mean(_values(honest, VALIDATION))
    row["bytes_up"] = sum(c.bytes_up for c in record.clients)
    row["bytes_down"] = sum(c.bytes_down for c in record.clients)
    row["entropy_bytes_up"] = sum(c.entropy_bytes_up for c in record.clients)
    row["entropy_bytes_down"] = sum(c.entropy_bytes_down for c in record.clients)
    row["seconds"] = record.seconds
    for name in (
        *CALIBRATION,
        "effective_neighbors",
        "self_weight",
        "label_leakage",
        "train_loss",
        "distill_loss",
    ):
        row[name] = _mean(_values(honest, name))
    epsilons = _values(record.clients, "epsilon")
    row["epsilon"] = (
        max(epsilons) if epsilons else None
    )  # clients' data is disjoint: the largest is the system's
    row["participants"] = sum(c.status != "absent" for c in record.clients)
    row["accepted"] = sum(c.status == "ok" for c in record.clients)
    for status in ("rejected", "failed"):
        row[status] = [
            {"client": c.client_id, "reason": c.reason}
            for c in record.clients
            if c.status == status
        ]
    row["knowledge_sha256"] = record.knowledge_sha256
    if record.exposure is not None:
        row["exposure"] = record.exposure
    row.update(record.metrics)
    return row


def client_gains(record: RoundRecord, baseline: Baseline | None, name: str) -> list[float | None]:
    """Return each client's accuracy less its accuracy in the local-only twin at the same round;
    None for attackers.
    """
    known = None if baseline is None else getattr(baseline, name)
    if known is None:
        return [None] * len(record.clients)
    twin = known[record.round - 1]
    pairs = zip(
        (None if c.attacker else getattr(c, name) for c in record.clients),
        twin.tolist(),
        strict=True,
    )
    return [None if value is None or np.isnan(alone) else value - alone for value, alone in pairs]


def client_row(
    client: ClientRecord,
    number: int,
    personal_gain: float | None,
    global_gain: float | None,
    validation_gain: float | None = None,
) -> dict[str, Any]:
    """Return a client's figures in a round."""
    return {
        "round": number,
        "client": client.client_id,
        "architecture": client.architecture,
        "train_size": client.train_size,
        "status": client.status,
        "attacker": client.attacker,
        "personal_accuracy": client.personal_accuracy,
        "global_accuracy": client.global_accuracy,
        "personal_gain": personal_gain,
        "global_gain": global_gain,
        VALIDATION: client.validation_accuracy,
        "validation_gain": validation_gain,
        **{name: getattr(client, name) for name in CALIBRATION},
        "train_loss": client.train_loss,
        "distill_loss": client.distill_loss,
        "effective_neighbors": client.effective_neighbors,
        "self_weight": client.self_weight,
        "label_leakage": client.label_leakage,
        "epsilon": client.epsilon,
        "bytes_up": client.bytes_up,
        "bytes_down": client.bytes_down,
        "entropy_bytes_up": client.entropy_bytes_up,
        "entropy_bytes_down": client.entropy_bytes_down,
        "seconds": client.seconds,
        "reason": client.reason,
    }


def client_rows(record: RoundRecord, baseline: Baseline | None) -> list[dict[str, Any]]:
    """Return all clients' rows of a round."""
    gains = [client_gains(record, baseline, name) for name in (*ACCURACIES, VALIDATION)]
    return [client_row(c, record.round, *g) for c, *g in zip(record.clients, *gains, strict=True)]


def epsilon_rows(records: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    """Return what was spent on each client up to each round; nothing of clients without a claim."""
    return [
        {"round": record.round, "client": client.client_id, "epsilon": client.epsilon}
        for record in records
        for client in record.clients
        if client.epsilon is not None
    ]


def teacher_rows(record: RoundRecord, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return, for each client that distilled a teacher, its accuracy on the public samples of each
    class.

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
    """Return one plain sentence on whether fusion beat local training, and for how many clients it
    did not.
    """
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
    return f"{strategy} {parts[0]}, and {parts[1]}. One seed is no test; scripts/compare.py makes one over several."


def _values(clients: Sequence[ClientRecord], name: str) -> list[float]:
    return [value for client in clients if (value := getattr(client, name)) is not None]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
