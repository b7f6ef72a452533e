"""What the server does in a round: who is asked for what, what is accepted, who learns from what.

Knows nothing of Flower: downloads go out and replies come in as plain values. The randomness of a round (who takes
part, which public samples) comes from named streams, so that a round repeats whatever came before it.
"""

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from fedkd.checks import at_least, positive, share
from fedkd.errors import RunError, SettingError, UploadRejected
from fedkd.fusion import effective_neighbors
from fedkd.knowledge import Kind, Request
from fedkd.losses import Scale
from fedkd.messages import (
    ClientCard,
    ClientRecord,
    Download,
    Fusion,
    Predictions,
    RoundRecord,
    Status,
    Step,
    Upload,
)
from fedkd.seeding import numpy_stream
from fedkd.strategy import Declaration, Strategy, Stream, Streaming

WEIGHTS_LIMIT = 2000
"""Most clients for which the record carries all K x K weights (16 MB a round at the limit)."""

Order = Literal["distill_first", "train_first"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The round protocol."""

    rounds: int = 10
    """Rounds, >= 1."""
    participation: float = 1.0
    """Share of the clients that are asked to take part in a round, above 0 and at most 1."""
    dropout: float = 0.0
    """Probability that a client that was asked drops out of the round before it does anything, in [0, 1)."""
    deadline: float | None = None
    """Seconds that a client may take to answer one message; later it counts as failed. Runs with stragglers repeat
    only as far as the same clients are late."""
    min_clients: int = 1
    """Clients that must answer in a round; with fewer the run ends (it can be resumed). 0 goes on without any."""
    order: Order = "train_first"
    """What comes last in a round: training on private data (distill_first: FedMD's digest and revisit, with the
    teacher of the round before) or distilling this round's teacher (train_first: KnFu's fine-tuning)."""

    def __post_init__(self) -> None:
        at_least(1, rounds=self.rounds)
        share(participation=self.participation)
        at_least(0, dropout=self.dropout, min_clients=self.min_clients)
        if self.dropout >= 1:
            raise SettingError(f"dropout must be below 1, got {self.dropout}: nobody would ever take part")
        if self.deadline is not None:
            positive(deadline=self.deadline)


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
        self._restored: dict[int, ClientRecord] = {}
        self._seen: set[int] = set()
        self._fusion: Fusion | None = None
        self._rows: dict[int, int] = {}  # of the last fusion, by client id
        self._taught_ids = torch.arange(0)  # the public samples of the last fusion
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
        self.records = self._restored or {
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
                       distill_loss=None, effective_neighbors=alone, self_weight=alone, label_leakage=None,
                       teacher_accuracy=None, teacher_nll=None, teacher_ece=None, teacher_by_class=None)
            for i, record in self.records.items()
        }  # fmt: skip
        asked = self._draw_participants(number)
        self._participants = self._draw_present(number, asked)
        for client_id in set(asked) - set(self._participants):
            self.records[client_id] = replace(self.records[client_id], reason="dropped out")
        gone = len(asked) - len(self._participants)
        self._require(number, len(self._participants), *([f"{gone} dropped out"] if gone else []))
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

    def fuse(self, number: int, replies: Iterable[Reply]) -> None:
        """Check the round's replies as they come, fuse what was accepted, and keep the teachers.

        Where the strategy fuses a stream, an upload is dropped once those of lower client ids have been added.
        """
        request, state = self._request(number), self._fusion.state if self._fusion else None
        gathering: _Stream | _Stack = _Stack()
        if isinstance(self.strategy, Streaming):
            gathering = _Stream(self.strategy.stream(state), self._participants)
        silent, failures = set(self._participants), dict[int, str]()
        for reply in replies:
            upload = self._received(reply)
            silent.discard(reply.client_id)
            if upload is None and not reply.rejected:
                failures[reply.client_id] = reply.error
            if upload is not None:
                self._seen.add(upload.client_id)
            accepted = upload is not None and self._accepts(upload, request)
            if self.kind is not None:
                gathering.take(reply.client_id, upload if accepted else None, self.kind)
        for client_id in silent:
            failures[client_id] = "did not answer"
            self._received(Reply(client_id=client_id, upload=None, error=failures[client_id]))
        gathering.close()
        answered = len(self._participants) - len(failures)
        self._require(number, answered, *(f"client {i} failed: {failures[i]}" for i in sorted(failures)[:1]))
        if self.kind is None or not gathering.accepted:
            return
        fusion = gathering.fuse(self.strategy, state, self.kind, request)
        client_ids = tuple(sorted(gathering.accepted))
        shape = (len(client_ids), len(request.public_ids), request.classes)
        self.kind.check_fusion(fusion, shape, self.declared.teaches)
        self._keep(fusion, client_ids, request.public_ids)

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

    def settle(self, number: int, replies: Iterable[Reply]) -> None:
        """Take note of the replies to the last downloads. Teachers that nobody took are as bad as no uploads."""
        failures, answered = dict[int, str](), 0
        for reply in replies:
            self._received(reply)
            if reply.upload is None and not reply.rejected:
                failures[reply.client_id] = reply.error
            else:
                answered += 1
        if failures:
            self._require(number, answered, *(f"client {i} failed: {failures[i]}" for i in sorted(failures)[:1]))

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

    @property
    def participants(self) -> tuple[int, ...]:
        """The clients that take part in the round that was opened last."""
        return tuple(self._participants)

    def state(self) -> dict[str, Any]:
        """Return what the server must know to go on after the last recorded round: plain values and tensors.

        Teachers are part of it only where the next round still sends them.
        """
        fusion = self._fusion
        sends = fusion is not None and self.protocol.order == "distill_first"
        names = [field.name for field in fields(ClientRecord)]
        ordered = [self.records[i] for i in sorted(self.records)]
        return {
            "records": {name: [getattr(record, name) for record in ordered] for name in names},
            "seen": sorted(self._seen),
            "strategy": None if fusion is None else fusion.state,
            "weights": fusion.weights if fusion is not None and sends else None,
            "teachers": fusion.teachers if fusion is not None and sends else None,
            "taught": list(self._rows) if sends else None,
            "public_ids": self._taught_ids if sends else None,
            "fused": fusion is not None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where ``state`` was taken, in a server that was made of the same scenario."""
        columns: Mapping[str, Sequence[Any]] = state["records"]
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        self._restored = {row["client_id"]: ClientRecord(**row) for row in rows}
        self._seen = set(state["seen"])
        if state["fused"]:
            empty = torch.zeros(0)
            self._fusion = Fusion(weights=empty, teachers=empty, state=state["strategy"])
        if state["teachers"] is not None:
            self._fusion = Fusion(weights=state["weights"], teachers=state["teachers"], state=state["strategy"])
            self._address(state["taught"], state["public_ids"])

    def _draw_participants(self, number: int) -> list[int]:
        count = max(1, round(self.protocol.participation * self.clients))
        if count == self.clients:
            return list(range(self.clients))
        stream = numpy_stream(self.seed, "round", number, "participants")
        return sorted(stream.choice(self.clients, count, replace=False).tolist())

    def _draw_present(self, number: int, asked: Sequence[int]) -> list[int]:
        """Return who of those asked does not drop out: each client has a stream of its own for it."""
        if self.protocol.dropout == 0:
            return list(asked)
        draws = {i: numpy_stream(self.seed, "client", i, "round", number, "dropout").random() for i in asked}
        return [i for i in asked if draws[i] >= self.protocol.dropout]

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

    def _received(self, reply: Reply) -> Upload | None:
        """Record a reply and return its upload."""
        record, upload = self.records[reply.client_id], reply.upload
        if upload is None:
            status: Status = "rejected" if reply.rejected else "failed"
            self.records[reply.client_id] = replace(
                record, status=status, reason=reply.error, bytes_up=record.bytes_up + reply.bytes
            )
            return None
        metrics: Mapping[str, Any] = upload.metrics
        self.records[upload.client_id] = replace(
            record,
            status=record.status if record.status == "rejected" else "ok",
            bytes_up=record.bytes_up + reply.bytes,
            seconds=record.seconds + metrics.get("seconds", 0.0),
            **{name: metrics[name] for name in _RECORDED if name in metrics},
        )
        return upload

    def _require(self, number: int, present: int, *reasons: str) -> None:
        """Raise RunError where fewer clients are left in a round than ``min_clients``."""
        if present < self.protocol.min_clients:
            raise RunError(
                f"round {number}: {present} of {self.clients} clients answered, min_clients={self.protocol.min_clients}"
                f"{'; ' if reasons else ''}{'; '.join(reasons)}"
            )

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

    def _keep(self, fusion: Fusion, client_ids: Sequence[int], public_ids: Tensor) -> None:
        self._fusion = fusion
        self._address(client_ids, public_ids)
        neighbors, own = effective_neighbors(fusion.weights), fusion.weights.diagonal()
        for client_id, row in self._rows.items():
            self.records[client_id] = replace(
                self.records[client_id],
                effective_neighbors=neighbors[row].item(),
                self_weight=own[row].item(),
            )
        if self.clients <= WEIGHTS_LIMIT:
            self._weights = spread_weights(fusion.weights, client_ids, self.clients)
        self._sha256 = knowledge_sha256(fusion.teachers)

    def _address(self, client_ids: Sequence[int], public_ids: Tensor) -> None:
        """Take note of whose teachers the last fusion's rows are, and on which public samples."""
        assert self._fusion is not None
        self._rows = {client_id: row for row, client_id in enumerate(client_ids)}
        self._taught_ids = public_ids
        teachers, scale = self._fusion.teachers, cast(Scale, self.declared.teaches)
        self._common = None if teachers.ndim == 3 else Predictions(ids=public_ids, values=teachers, scale=scale)

    def _teacher(self, client_id: int) -> Predictions | None:
        """Return the client's part of the last fusion: None where it had no part and the teacher is personal."""
        if self._fusion is None:
            return None
        if self._common is not None:
            return self._common
        if client_id not in self._rows:
            return None
        values = self._fusion.teachers[self._rows[client_id]]
        return Predictions(ids=self._taught_ids, values=values, scale=cast(Scale, self.declared.teaches))


class _Stack:
    """Uploads kept until all are there."""

    def __init__(self) -> None:
        self.accepted: dict[int, Upload] = {}

    def take(self, client_id: int, upload: Upload | None, kind: Kind) -> None:
        if upload is not None:
            self.accepted[client_id] = upload

    def close(self) -> None:
        return

    def fuse(self, strategy: Strategy, state: Any, kind: Kind, request: Request) -> Fusion:
        return strategy.fuse(kind.stack(list(self.accepted.values()), request), state)


class _Stream:
    """Uploads handed on in the order of client ids: those that are early wait, the others are not kept."""

    def __init__(self, stream: Stream, expected: Sequence[int]) -> None:
        self.accepted: set[int] = set()
        self._stream, self._expected = stream, list(reversed(expected))
        self._early: dict[int, Tensor | None] = {}

    def take(self, client_id: int, upload: Upload | None, kind: Kind) -> None:
        values = None if upload is None or upload.knowledge is None else kind.values(upload.knowledge)
        self._early[client_id] = values
        while self._expected and self._expected[-1] in self._early:
            self._hand_on(self._expected.pop())

    def close(self) -> None:
        for client_id in sorted(self._early):
            self._hand_on(client_id)

    def fuse(self, strategy: Strategy, state: Any, kind: Kind, request: Request) -> Fusion:
        return self._stream.fuse()

    def _hand_on(self, client_id: int) -> None:
        values = self._early.pop(client_id)
        if values is not None:
            self._stream.add(client_id, values)
            self.accepted.add(client_id)


_RECORDED = (
    "local_accuracy", "global_accuracy", "validation_accuracy", "local_nll", "global_nll", "global_ece",
    "teacher_accuracy", "teacher_nll", "teacher_ece", "teacher_by_class",
    "train_loss", "distill_loss", "label_leakage",
)  # fmt: skip


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
