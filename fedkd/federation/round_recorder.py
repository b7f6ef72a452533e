"""The record of the open round, client by client, as its replies come in."""

import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedkd.errors import printable
from fedkd.federation.participation import Selection
from fedkd.federation.replies import Reply
from fedkd.federation.round_records import MEASURES, ClientRecord, RoundRecord, client_figures
from fedkd.fusion import effective_neighbors
from fedkd.messages import (
    ClientCard,
    Download,
    Fusion,
    MessageSize,
    Packed,
    Status,
)
from fedkd.settings.metric_names import MetricName

WEIGHTS_LIMIT = 2000
"""Most clients for which the record carries all K x K weights (16 MB a round at the limit)."""


class RoundRecorder:
    """The records of a run's clients in the open round.

    ``exchanges`` is False where clients are their own and only teachers; ``asked`` are the metrics
    that clients measure.
    """

    def __init__(self, *, exchanges: bool, asked: tuple[MetricName, ...] = ()) -> None:
        self.records: dict[int, ClientRecord] = {}
        self.participants: tuple[int, ...] = ()
        self._exchanges, self._asked = exchanges, asked
        self._started, self._is_measured = 0.0, True
        self._weights: Tensor | None = None
        self._sha256: str | None = None
        self._metrics: dict[str, float] = {}

    def introduce(self, cards: Sequence[ClientCard], attackers: Collection[int]) -> None:
        """Begin the records of clients that have none yet; ``attackers`` are ids of clients."""
        for card in sorted(cards, key=lambda card: card.client_id):
            record = ClientRecord(
                client_id=card.client_id,
                architecture=card.architecture,
                status="absent",
                train_size=card.train_size,
                attacker=card.client_id in attackers,
            )
            self.records.setdefault(card.client_id, record)

    def open(self, selection: Selection, downloads: Mapping[int, Download]) -> None:
        """Begin a round's records, with the sizes of its first downloads."""
        self._started, self._is_measured = time.perf_counter(), selection.is_measured
        self._weights, self._sha256, self._metrics = None, None, {}
        self.participants = selection.participants
        own = None if self._exchanges else 1.0
        if not self._exchanges and len(self.records) <= WEIGHTS_LIMIT:
            self._weights = torch.eye(len(self.records))
        for client_id, record in self.records.items():
            begun = record.at_round_start(effective_neighbors=own, self_weight=own)
            if client_id in selection.unmeasured:  # its model becomes another
                begun = begun.without_points()
            if begun != record:  # who stays away has one record for all of those rounds
                self.records[client_id] = begun
        for client_id in selection.dropped_out:
            self.set_status(client_id, "absent", "dropped out")
        for client_id, reason in selection.left_out.items():
            self.set_status(client_id, "rejected", reason)
        self.note_sent(downloads)

    def note_sent(self, downloads: Mapping[int, Download]) -> None:
        """Add the sizes of downloads to their clients' records."""
        for client_id, size in download_sizes(downloads).items():
            record = self.records[client_id]
            self.records[client_id] = replace(
                record,
                bytes_down=record.bytes_down + size.bytes,
                entropy_bytes_down=record.entropy_bytes_down + size.entropy_bytes,
            )

    def note_reply(self, reply: Reply) -> None:
        """Add a reply's size, and what its client measured; note a failure."""
        record, upload = self.records[reply.client_id], reply.upload
        known: dict[str, Any]
        if upload is None:
            known = {
                "status": "rejected" if reply.rejected else "failed",
                "reason": printable(reply.error),
            }
        else:
            metrics: Mapping[str, Any] = upload.metrics
            known = {
                # Who was rejected or declined before stays so: a reason was given.
                "status": record.status if record.reason else "ok",
                "seconds": record.seconds + metrics.get("seconds", 0.0),
                **client_figures(metrics),
            }
        known["bytes_up"] = record.bytes_up + reply.size.bytes
        known["entropy_bytes_up"] = record.entropy_bytes_up + reply.size.entropy_bytes
        self.records[reply.client_id] = record.with_figures(known)

    def set_status(self, client_id: int, status: Status, reason: str) -> None:
        """Set what became of a client in the round, and why, perhaps in the client's own words."""
        self.records[client_id] = replace(
            self.records[client_id], status=status, reason=printable(reason)
        )

    def failures(self) -> dict[int, str]:
        """Return the reasons of the clients that failed in the round, by client id."""
        return {i: r.reason for i, r in self.records.items() if r.status == "failed"}

    def note_fusion(self, fusion: Fusion, client_ids: Sequence[int]) -> None:
        """Record a fusion's weights, hash and metrics; ``client_ids`` are those of its rows."""
        neighbors, own = effective_neighbors(fusion.weights), fusion.weights.diagonal()
        for row, client_id in enumerate(client_ids):
            self.records[client_id] = replace(
                self.records[client_id],
                effective_neighbors=neighbors[row].item(),
                self_weight=own[row].item(),
            )
        if len(self.records) <= WEIGHTS_LIMIT:
            self._weights = spread_weights(fusion.weights, client_ids, len(self.records))
        self._sha256, self._metrics = knowledge_sha256(fusion.teachers), dict(fusion.metrics)

    def close(self, round_number: int, epsilons: Mapping[int, float | None]) -> RoundRecord:
        """Enter each client's epsilon, and return the record of the round."""
        for client_id, epsilon in epsilons.items():
            self.records[client_id] = replace(self.records[client_id], epsilon=epsilon)
        clients = tuple(self.records[i] for i in sorted(self.records))
        if not self._is_measured:  # some have figures already, for the next round that has all
            clients = tuple(client.without_points() for client in clients)
        return RoundRecord(
            round=round_number,
            clients=clients,
            is_measured=self._is_measured,
            seconds=time.perf_counter() - self._started,
            weights=self._weights,
            knowledge_sha256=self._sha256,
            metrics=self._metrics,
            asked=self._asked,
        )

    def state(self) -> dict[str, list[Any]]:
        """Return the clients' records as columns."""
        ordered = [self.records[i] for i in sorted(self.records)]
        return {m.name: [m.of(record) for record in ordered] for m in MEASURES}

    def restore(self, state: Mapping[str, Sequence[Any]]) -> None:
        """Go back to the records that ``state`` has the columns of."""
        rows = (dict(zip(state, row, strict=True)) for row in zip(*state.values(), strict=True))
        self.records = {row["client_id"]: ClientRecord.of_figures(row) for row in rows}


def download_sizes(downloads: Mapping[int, Download]) -> dict[int, MessageSize]:
    """Return the sizes of the arrays of downloads, by client id."""
    sizes: dict[int, MessageSize] = {}
    ids, of_ids = None, MessageSize()
    for client_id, download in downloads.items():
        teacher = download.teacher
        size = teacher.size if isinstance(teacher, Packed) else MessageSize()
        if download.public_ids is not None:
            if download.public_ids is not ids:  # the clients of a phase are asked about the same
                ids, of_ids = download.public_ids, MessageSize.of(download.request_arrays())
            size = size + of_ids
        sizes[client_id] = size
    return sizes


def spread_weights(weights: Tensor, client_ids: Sequence[int], clients: int) -> Tensor:
    """Return a cohort's weights [k, k] as [K, K] over all clients.

    Rows of absent clients are NaN, columns of absent clients 0.
    """
    spread = torch.full((clients, clients), torch.nan)
    rows = torch.tensor(client_ids, dtype=torch.int64)
    spread[rows] = 0.0
    spread[rows[:, None], rows[None, :]] = weights.to(torch.float32)
    return spread


def knowledge_sha256(teachers: object) -> str:
    """Return the SHA-256 of fused teachers: their shape and their float32 values, little endian.

    Of mappings and sequences of tensors it is that of their members' hashes, with their names, in
    the order in which they stand.
    """
    if isinstance(teachers, Tensor):
        values = teachers.to(torch.float32).contiguous().numpy().astype("<f4")
        return hashlib.sha256(f"{list(values.shape)}".encode() + values.tobytes()).hexdigest()
    if isinstance(teachers, Mapping):
        named = list(teachers.items())
    else:
        assert isinstance(teachers, Sequence), "kinds check what a strategy returns"
        named = list(enumerate(teachers))
    members = "".join(f"{name}={knowledge_sha256(part)};" for name, part in named)
    return hashlib.sha256(members.encode()).hexdigest()
