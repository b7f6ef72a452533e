"""What the server does in a round: who is asked for what, what is accepted, who learns from what.

Knows nothing of Flower: downloads go out and replies come in as plain values. The randomness of a round (who takes
part, which public samples) comes from named streams, so that a round repeats whatever came before it.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fedkd.checks import at_least, share
from fedkd.errors import RunError, SettingError, UploadRejected
from fedkd.fusion import effective_neighbors
from fedkd.knowledge import Kind, Request
from fedkd.messages import (
    ClientCard,
    ClientRecord,
    Cohort,
    Download,
    Fusion,
    Predictions,
    RoundRecord,
    Status,
    Step,
    Upload,
)
from fedkd.seeding import numpy_stream
from fedkd.strategy import Declaration, Strategy

WEIGHTS_LIMIT = 2000
"""Most clients for which the record carries all K x K weights (16 MB a round at the limit)."""

Order = Literal["distill_first", "train_first"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The round protocol."""

    rounds: int = 10
    """Rounds, >= 1."""
    participation: float = 1.0
    """Share of the clients that take part in a round, above 0 and at most 1."""
    order: Order = "train_first"
    """What comes last in a round: training on private data (distill_first: FedMD's digest and revisit, with the
    teacher of the round before) or distilling this round's teacher (train_first: KnFu's fine-tuning)."""

    def __post_init__(self) -> None:
        at_least(1, rounds=self.rounds)
        share(participation=self.participation)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back for one download: an upload, or the reason why there is none; ``bytes`` as they travelled.

    ``rejected`` says that something came, but could not be read as an upload.
    """

    client_id: int
    upload: Upload | None
    bytes: int = 0
    error: str = ""
    rejected: bool = False


class Server:
    """The server of one run. It owns the last fusion, the strategy's state, and what is known of each client."""

    def __init__(
        self,
        *,
        strategy: Strategy,
        declared: Declaration,
        kind: Kind | None,
        protocol: Protocol,
        clients: int,
        classes: int,
        public_size: int,
        public_per_round: int | None,
        public_labels: Tensor | None,
        pretrains: bool,
        temperature: float,
        seed: int,
    ) -> None:
        self.strategy, self.declared, self.kind, self.protocol = strategy, declared, kind, protocol
        self.clients, self.classes, self.seed, self.temperature = clients, classes, seed, temperature
        self.public_size, self.public_per_round, self.public_labels = public_size, public_per_round, public_labels
        self.pretrains = pretrains
        self.records: dict[int, ClientRecord] = {}
        self.cards: dict[int, ClientCard] = {}
        self._seen: set[int] = set()
        self._fusion: Fusion | None = None
        self._cohort: Cohort | None = None
        self._rows: dict[int, int] = {}  # of the cohort, by client id
        self._common: Predictions | None = None
        self._participants: list[int] = []
        self._public_ids = torch.arange(0)
        self._started = 0.0
        self._weights: Tensor | None = None
        self._sha256: str | None = None

    def register(self, cards: Sequence[ClientCard]) -> None:
        """Take note of the clients before the first round."""
        ids = sorted(card.client_id for card in cards)
        if ids != list(range(self.clients)):
            raise RunError(f"expected one client for each id from 0 to {self.clients - 1}, got {ids[:20]}")
        self.cards = {card.client_id: card for card in sorted(cards, key=lambda card: card.client_id)}
        self.records = {
            i: ClientRecord(client_id=i, architecture=c.architecture, status="absent", train_size=c.train_size)
            for i, c in self.cards.items()
        }

    def open_round(self, number: int) -> dict[int, Download]:
        """Return the round's first downloads, by client id in ascending order."""
        self._started = time.perf_counter()
        self._weights, self._sha256 = None, None
        alone = 1.0 if self.kind is None else None  # without exchange every client is its own and only teacher
        if self.kind is None and self.clients <= WEIGHTS_LIMIT:
            self._weights = torch.eye(self.clients)
        self.records = {
            i: replace(record, status="absent", reason="", bytes_up=0, bytes_down=0, seconds=0.0, train_loss=None,
                       distill_loss=None, effective_neighbors=alone, self_weight=alone, label_leakage=None)
            for i, record in self.records.items()
        }  # fmt: skip
        self._participants = self._draw_participants(number)
        self._public_ids = self._draw_public_ids(number)
        exchanges = self.kind is not None
        distills_first = self.protocol.order == "distill_first"
        downloads = {}
        for client_id in self._participants:
            teacher = self._teacher(client_id) if distills_first else None
            steps: list[Step] = ["pretrain"] if self.pretrains and client_id not in self._seen else []
            steps += ["distill"] if teacher is not None else []
            steps += ["train"]
            steps += ["evaluate"] if distills_first or not exchanges else []
            steps += ["predict"] if exchanges else []
            downloads[client_id] = Download(
                round=number,
                steps=tuple(steps),
                public_ids=self._public_ids if exchanges else None,
                teacher=teacher,
            )
        return downloads

    def fuse(self, number: int, replies: Sequence[Reply]) -> None:
        """Check the round's replies, fuse what was accepted, and keep the teachers."""
        uploads, request = self._received(number, replies), self._request(number)
        self._seen |= {upload.client_id for upload in uploads}
        accepted = [upload for upload in uploads if self._accepts(upload, request)]
        if self.kind is None or not accepted:
            return
        cohort = self.kind.stack(accepted, request)
        fusion = self.strategy.fuse(cohort, self._fusion.state if self._fusion else None)
        self.kind.check_fusion(fusion, cohort, self.declared.teaches)
        self._keep(fusion, cohort)

    def close_round(self, number: int) -> dict[int, Download]:
        """Return the round's last downloads: distill this round's teacher, then evaluate. Empty if there are none."""
        if self.kind is None or self.protocol.order == "distill_first":
            return {}
        downloads = {}
        for client_id in self._participants:
            if self.records[client_id].status == "failed":
                continue
            teacher = self._teacher(client_id) if self.records[client_id].status == "ok" else None
            steps: tuple[Step, ...] = ("distill", "evaluate") if teacher is not None else ("evaluate",)
            downloads[client_id] = Download(round=number, steps=steps, teacher=teacher)
        return downloads

    def settle(self, number: int, replies: Sequence[Reply]) -> None:
        """Take note of the replies to the last downloads."""
        self._received(number, replies)

    def sent(self, client_id: int, size: int) -> None:
        """Count bytes sent to a client this round."""
        record = self.records[client_id]
        self.records[client_id] = replace(record, bytes_down=record.bytes_down + size)

    def record(self, number: int) -> RoundRecord:
        """Return the record of a finished round."""
        return RoundRecord(
            round=number,
            clients=tuple(self.records[i] for i in sorted(self.records)),
            seconds=time.perf_counter() - self._started,
            weights=self._weights,
            knowledge_sha256=self._sha256,
        )

    def _draw_participants(self, number: int) -> list[int]:
        count = max(1, round(self.protocol.participation * self.clients))
        if count == self.clients:
            return list(range(self.clients))
        stream = numpy_stream(self.seed, "round", number, "participants")
        return sorted(stream.choice(self.clients, count, replace=False).tolist())

    def _draw_public_ids(self, number: int) -> Tensor:
        if self.public_per_round is None or self.public_per_round == self.public_size:
            return torch.arange(self.public_size)
        stream = numpy_stream(self.seed, "round", number, "public")
        return torch.from_numpy(stream.choice(self.public_size, self.public_per_round, replace=False)).sort().values

    def _request(self, number: int) -> Request:
        needs = self.declared.needs
        counts = None
        if needs.label_counts:
            counts = {i: card.label_counts for i, card in self.cards.items() if card.label_counts is not None}
        return Request(
            round=number,
            classes=self.classes,
            public_ids=self._public_ids,
            temperature=self.temperature,
            train_sizes={i: card.train_size for i, card in self.cards.items()},
            label_counts=counts,
            public_labels=self.public_labels[self._public_ids]
            if needs.public_labels and self.public_labels is not None
            else None,
        )

    def _received(self, number: int, replies: Sequence[Reply]) -> list[Upload]:
        """Record every reply; return the uploads of this round, one a client."""
        uploads: dict[int, Upload] = {}
        for reply in sorted(replies, key=lambda reply: reply.client_id):
            record = self.records[reply.client_id]
            upload = reply.upload
            if upload is None:
                status: Status = "rejected" if reply.rejected else "failed"
                self.records[reply.client_id] = replace(
                    record, status=status, reason=reply.error, bytes_up=record.bytes_up + reply.bytes
                )
                continue
            uploads[upload.client_id] = upload
            metrics: Mapping[str, Any] = upload.metrics
            self.records[upload.client_id] = replace(
                record,
                status=record.status if record.status == "rejected" else "ok",
                bytes_up=record.bytes_up + reply.bytes,
                seconds=record.seconds + metrics.get("seconds", 0.0),
                **{name: metrics[name] for name in _RECORDED if name in metrics},
            )
        if replies and not uploads and not any(reply.rejected for reply in replies):
            first = min(replies, key=lambda reply: reply.client_id)
            raise RunError(
                f"round {number}: all {len(replies)} clients failed; client {first.client_id}: {first.error}"
            )
        return list(uploads.values())

    def _accepts(self, upload: Upload, request: Request) -> bool:
        if self.kind is None:
            return True
        try:
            if upload.knowledge is None or upload.privacy is None:
                raise UploadRejected("an upload needs knowledge and a privacy event")
            if upload.round != request.round:
                raise UploadRejected(f"this is round {request.round}, the upload is of round {upload.round}")
            self.kind.check(upload.knowledge, request)
        except UploadRejected as rejected:
            record = self.records[upload.client_id]
            self.records[upload.client_id] = replace(record, status="rejected", reason=str(rejected))
            return False
        return True

    def _keep(self, fusion: Fusion, cohort: Cohort) -> None:
        self._fusion, self._cohort = fusion, cohort
        self._rows = {client_id: row for row, client_id in enumerate(cohort.client_ids)}
        personal = fusion.teachers.ndim == 3
        scale: Any = self.declared.teaches
        self._common = None if personal else Predictions(ids=cohort.public_ids, values=fusion.teachers, scale=scale)
        neighbors, own = effective_neighbors(fusion.weights), fusion.weights.diagonal()
        for client_id, row in self._rows.items():
            self.records[client_id] = replace(
                self.records[client_id],
                effective_neighbors=neighbors[row].item(),
                self_weight=own[row].item(),
            )
        if self.clients <= WEIGHTS_LIMIT:
            self._weights = spread_weights(fusion.weights, cohort.client_ids, self.clients)
        self._sha256 = knowledge_sha256(fusion.teachers)

    def _teacher(self, client_id: int) -> Predictions | None:
        """Return the client's part of the last fusion: None where it had no part and the teacher is personal."""
        if self._fusion is None or self._cohort is None:
            return None
        if self._common is not None:
            return self._common
        if client_id not in self._rows:
            return None
        scale: Any = self.declared.teaches
        values = self._fusion.teachers[self._rows[client_id]]
        return Predictions(ids=self._cohort.public_ids, values=values, scale=scale)


_RECORDED = ("local_accuracy", "global_accuracy", "train_loss", "distill_loss", "label_leakage")


def spread_weights(weights: Tensor, client_ids: Sequence[int], clients: int) -> Tensor:
    """Return a cohort's weights [k, k] as [K, K] over all clients: absent recipients NaN, absent contributors 0."""
    spread = torch.full((clients, clients), torch.nan)
    rows = torch.tensor(client_ids)
    spread[rows] = 0.0
    spread[rows[:, None], rows[None, :]] = weights.to(torch.float32)
    return spread


def knowledge_sha256(teachers: Tensor) -> str:
    """Return the SHA-256 of fused teachers: their shape and their float32 values, little endian."""
    values = teachers.to(torch.float32).contiguous().numpy().astype("<f4")
    return hashlib.sha256(f"{list(values.shape)}".encode() + values.tobytes()).hexdigest()


def one_shot_check(protocol: Protocol, declared: Declaration) -> None:
    """Raise where the protocol would compute a teacher that nobody ever learns from."""
    if protocol.rounds == 1 and protocol.order == "distill_first" and declared.knowledge != "nothing":
        raise SettingError(
            "rounds=1 with order=distill_first would distill nothing: its first teacher is for the second round;"
            " use order=train_first for one-shot distillation"
        )
