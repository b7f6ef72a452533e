"""What the server does in a round: who is asked for what, what is accepted, who learns from what.

Knows nothing of Flower: downloads go out and replies come in as plain values. The randomness of a
round (who takes part, which public samples) comes from named streams, so that a round repeats
whatever came before it.
"""

import hashlib
import json
import time
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from fedkd.codecs import Codecs
from fedkd.errors import RunError, UploadRejected
from fedkd.federation.aggregation import StackedUploads, StreamedUploads
from fedkd.federation.protocol import Protocol, resolve_round_order
from fedkd.federation.public_sampling import PublicSampler
from fedkd.federation.round_records import ClientRecord, RoundRecord, client_figures
from fedkd.fusion import effective_neighbors
from fedkd.knowledge import KnowledgeType, Request, RowKnowledge, Teachers
from fedkd.messages import (
    ClientCard,
    Download,
    Fusion,
    Knowledge,
    Packed,
    ServerModels,
    Status,
    Step,
    Upload,
)
from fedkd.privacy.claims import ADVERSARIES, Claim
from fedkd.privacy.enforcement import PrivacyEnforcer
from fedkd.privacy.ledger import Layer, Ledger, Spending
from fedkd.robustness.threat_model import ThreatModel
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.import_paths import attribute_errors_to
from fedkd.strategy import Declaration, SelectsQueries, Strategy, Streaming
from fedkd.training.losses import Scale

WEIGHTS_LIMIT = 2000
"""Most clients for which the record carries all K x K weights (16 MB a round at the limit)."""

CUMULATIVE_LAYERS: tuple[Layer, ...] = ("model", "upload")
"""Layers of which a client says each time all that it ever spent there."""

_PACKED_LIMIT = 64
"""Most encoded teachers that are kept, for the next client that is sent the same."""

Memory = Mapping[str, np.ndarray] | None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back for one download: an upload, or the reason why there is none; ``bytes`` as
    they travelled.

    ``rejected`` says that something came, but could not be read as an upload.
    """

    client_id: int
    upload: Upload | None
    bytes: int = 0
    entropy_bytes: float = 0.0
    error: str = ""
    rejected: bool = False


@runtime_checkable
class Observer(typing.Protocol):
    """Somebody who looks at a run for the researcher, and changes nothing in it."""

    def received(self, round_number: int, upload: Upload) -> None:
        """See what a client answered, with what it measured."""

    def accepted(self, round_number: int, client_id: int, knowledge: Knowledge) -> None:
        """See what was accepted of a client."""

    def fused(self, round_number: int, fusion: Fusion, public_ids: Tensor) -> None:
        """See what was made of it."""


class Server:
    """The server of one run. It owns the last lessons, the strategy's state, and what is known of
    each client.
    """

    def __init__(
        self,
        *,
        strategy: Strategy,
        declared: Declaration,
        kind: KnowledgeType | None,
        protocol: Protocol,
        clients: int,
        classes: int,
        choice: PublicSampler,
        public_labels: Tensor | None,
        pretrains: bool,
        temperature: float,
        seed: int,
        models: ServerModels | None = None,
        shapes: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None,
        threat_model: ThreatModel | None = None,
        codecs: Codecs | None = None,
        enforcer: PrivacyEnforcer | None = None,
        features: Mapping[str, int] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.strategy, self.declared, self.kind, self.protocol = strategy, declared, kind, protocol
        self.clients, self.classes, self.seed, self.temperature = (
            clients,
            classes,
            seed,
            temperature,
        )
        self.choice, self.public_labels = choice, public_labels
        self.pretrains, self.models, self.shapes = pretrains, models, shapes or {}
        self.threat_model, self.codecs = threat_model, codecs
        self.enforcer = enforcer or PrivacyEnforcer(seed=seed)
        self.ledger = Ledger()
        # What codecs remember by client: of what it uploaded, and of what it was sent.
        self._up: dict[int, Memory] = {}
        self._down: dict[int, Memory] = {}
        self._packed: dict[tuple[int, int], tuple[Mapping[str, np.ndarray], Memory, Knowledge]] = {}
        self.features, self.observer = features or {}, observer
        self.round_order = resolve_round_order(protocol, kind)
        self.records: dict[int, ClientRecord] = {}
        self.cards: dict[int, ClientCard] = {}
        self._restored: dict[int, ClientRecord] = {}
        self._seen: set[int] = set()
        self._state: Any = None  # the strategy's
        self._lessons = Teachers()
        self._unlearned: set[int] = set()  # who was not sent the last lessons yet
        self._invited: list[
            int
        ] = []  # who was drawn for the round, whether it then dropped out or not
        self._participants: list[int] = []
        self._asked: list[int] = []  # those of them who train
        self._public_ids = self._asked_ids = torch.arange(0)
        self._metrics: dict[str, float] = {}
        self._started = 0.0
        self._weights: Tensor | None = None
        self._sha256: str | None = None

    def register(self, cards: Sequence[ClientCard]) -> None:
        """Take note of the clients before the first round."""
        ids = sorted(card.client_id for card in cards)
        if ids != list(range(self.clients)):
            raise RunError(
                f"expected one client for each id from 0 to {self.clients - 1}, got {ids[:20]}"
            )
        self.cards = {
            card.client_id: card for card in sorted(cards, key=lambda card: card.client_id)
        }
        self.records = self._restored or {
            i: ClientRecord(
                client_id=i,
                architecture=c.architecture,
                status="absent",
                train_size=c.train_size,
                attacker=self.threat_model is not None and bool(self.threat_model.attackers[i]),
            )
            for i, c in self.cards.items()
        }

    def open_round(self, round_number: int) -> dict[int, Download]:
        """Return the round's first downloads, by client id in ascending order."""
        downloads = self.announce(round_number)
        self.begin(round_number)
        return downloads

    def announce(self, round_number: int) -> dict[int, Download]:
        """Return the round's first downloads while the round before may still be open: its record
        can be completed.

        ``begin`` opens the round. Between the two only replies to the last downloads of the round
        before may come.
        """
        self._packed = {}
        self._invited = self._draw_participants(round_number)
        self._participants = self._draw_present(round_number, self._invited)
        self._public_ids = self._asked_ids = self.choice.ids(
            numpy_stream(self.seed, "round", round_number, "public")
        )
        if isinstance(self.strategy, SelectsQueries):
            with attribute_errors_to(self.strategy, "strategy", RunError):
                self._asked_ids = self.strategy.select_queries(
                    round_number, self._public_ids, self._state
                )
        self._asked = self._leaders() if self.declared.needs.pooled_data else self._participants
        return {
            client_id: self._first_download(round_number, client_id) for client_id in self._asked
        }

    def begin(self, round_number: int) -> None:
        """Begin the record of the round that was announced. Raises RunError where too few clients
        are present.
        """
        self._started = time.perf_counter()
        self._weights, self._sha256, self._metrics = None, None, {}
        alone = (
            1.0 if self.kind is None else None
        )  # without exchange every client is its own and only teacher
        if self.kind is None and self.clients <= WEIGHTS_LIMIT:
            self._weights = torch.eye(self.clients)
        self.records = {
            i: record.at_round_start(effective_neighbors=alone, self_weight=alone)
            for i, record in self.records.items()
        }
        gone = set(self._invited) - set(self._participants)
        for client_id in gone:
            self.records[client_id] = replace(self.records[client_id], reason="dropped out")
        self._require(
            round_number, len(self._participants), *([f"{len(gone)} dropped out"] if gone else [])
        )

    def fuse(self, round_number: int, replies: Iterable[Reply]) -> None:
        """Check the round's replies as they come, fuse what was accepted, and keep the teachers.

        Where the strategy fuses a stream, an upload is dropped once those of lower client ids have
        been added.
        """
        request, state = self._request(round_number), self._state
        gathering: StackedUploads | StreamedUploads = StackedUploads(
            self.threat_model, self.enforcer, len(self._asked)
        )
        needs_all = (
            self.threat_model is not None or self.choice.looks or self.enforcer.central is not None
        )
        if (
            not needs_all
            and isinstance(self.strategy, Streaming)
            and isinstance(self.kind, RowKnowledge)
        ):
            with attribute_errors_to(self.strategy, "strategy", RunError):
                gathering = StreamedUploads(
                    self.strategy.accumulator(state), self.kind, self._asked
                )
        silent, failures = set(self._asked), dict[int, str]()
        for reply in replies:
            upload = self._received(reply)
            silent.discard(reply.client_id)
            if upload is None and not reply.rejected:
                failures[reply.client_id] = reply.error
            if upload is not None:
                self._seen.add(upload.client_id)
            self._spend(reply.client_id, upload, request)
            if upload is not None and _declines(upload):
                record = self.records[upload.client_id]
                self.records[upload.client_id] = replace(
                    record, status="absent", reason=upload.declined
                )
                upload = None
            if self.kind is not None:
                opened = None if upload is None else self._opened(upload, request)
                with attribute_errors_to(self.strategy, "strategy", RunError):
                    gathering.take(reply.client_id, opened)
        for client_id in silent:
            failures[client_id] = "did not answer"
            self._received(Reply(client_id=client_id, upload=None, error=failures[client_id]))
            self._spend(client_id, None, request)
        with attribute_errors_to(self.strategy, "strategy", RunError):
            gathering.close()
        answered = len(self._participants) - len(failures)
        self._require(
            round_number,
            answered,
            *(f"client {i} failed: {failures[i]}" for i in sorted(failures)[:1]),
        )
        # A trusted server releases noise where nobody's upload is usable: its silence would depend
        # on private data.
        releases = gathering.accepted or (self.enforcer.central is not None and self._asked)
        if self.kind is None or not releases:
            return
        client_ids = tuple(sorted(gathering.accepted))
        with attribute_errors_to(self.strategy, "strategy", RunError):
            fusion = gathering.fuse(self.strategy, state, self.kind, request)
            _check_parts(fusion)
            self.kind.check_fusion(fusion, client_ids, request, self.declared.teaches)
        if self.choice.looks and isinstance(gathering, StackedUploads):
            fusion = self.choice.record_fusion(
                fusion, gathering.cohort, cast(Scale, self.declared.teaches)
            )
        if self.observer is not None:
            self.observer.fused(round_number, fusion, request.public_ids)
        for spending in gathering.spent:
            self.ledger.record(None, spending)
        self._keep(
            fusion,
            client_ids,
            self.kind.teachers(fusion, client_ids, request, self.declared.teaches),
        )

    def close_round(self, round_number: int) -> dict[int, Download]:
        """Return the round's last downloads: learn from this round's teacher, evaluate. Empty if
        there are none.
        """
        if self.kind is None or self.round_order == "distill_first":
            return {}
        learn: Step = "adopt" if self.kind.learned_by == "adopt" else "distill"
        downloads = {}
        for client_id in self._participants:
            status = self.records[client_id].status
            if status == "failed":
                continue
            leads_not = client_id not in self._asked
            teacher = self._lesson(client_id) if status == "ok" or leads_not else None
            steps: tuple[Step, ...] = (learn, "evaluate") if teacher is not None else ("evaluate",)
            downloads[client_id] = Download(round=round_number, steps=steps, teacher=teacher)
        return downloads

    def take_last_replies(self, round_number: int, replies: Iterable[Reply]) -> None:
        """Take note of the replies to the last downloads. Teachers that nobody took are as bad as
        no uploads.
        """
        failures, answered = dict[int, str](), 0
        for reply in replies:
            self._received(reply)
            if reply.upload is None and not reply.rejected:
                failures[reply.client_id] = reply.error
            else:
                answered += 1
        if failures:
            self._require(
                round_number,
                answered,
                *(f"client {i} failed: {failures[i]}" for i in sorted(failures)[:1]),
            )

    def pack(self, client_id: int, download: Download) -> Mapping[str, np.ndarray] | None:
        """Return the arrays that a download's teacher travels as, if it has one.

        The same object where clients are sent the same and remember the same.
        """
        teacher, kind = download.teacher, self.kind
        if teacher is None or kind is None:
            return None
        known = self._down.get(client_id)
        key = (id(teacher), id(known))
        if key not in self._packed:
            arrays, after = kind.encode(teacher), None
            if self.codecs is not None:
                arrays, after = self.codecs.down.encode(arrays, known)
            if len(self._packed) == _PACKED_LIMIT:
                self._packed.clear()
            self._packed[key] = (
                arrays,
                after,
                (teacher, known),
            )  # held, so that no other object takes their ids
        packed, memory, _ = self._packed[key]
        if memory is not None:
            self._down[client_id] = memory
        return packed

    def sent(self, client_id: int, size: int, entropy: float) -> None:
        """Count bytes sent to a client this round, and what an entropy coder would leave of
        them.
        """
        record = self.records[client_id]
        self.records[client_id] = replace(
            record,
            bytes_down=record.bytes_down + size,
            entropy_bytes_down=record.entropy_bytes_down + entropy,
        )

    def record(self, round_number: int) -> RoundRecord:
        """Return the record of a finished round."""
        for client_id, epsilon in self._epsilons().items():
            self.records[client_id] = replace(self.records[client_id], epsilon=epsilon)
        return RoundRecord(
            round=round_number,
            clients=tuple(self.records[i] for i in sorted(self.records)),
            seconds=time.perf_counter() - self._started,
            weights=self._weights,
            knowledge_sha256=self._sha256,
            metrics=self._metrics,
        )

    @property
    def participants(self) -> tuple[int, ...]:
        """The clients that take part in the round that was opened last."""
        return tuple(self._participants)

    def state(self) -> dict[str, Any]:
        """Return what the server must know to go on after the last recorded round: plain values and
        tensors.

        Lessons are part of it only where a later round may still send them.
        """
        names = [field.name for field in fields(ClientRecord)]
        ordered = [self.records[i] for i in sorted(self.records)]
        return {
            "records": {name: [getattr(record, name) for record in ordered] for name in names},
            "seen": sorted(self._seen),
            "strategy": self._state,
            "lessons": self._lessons_as_tensors() if self._sends_later else None,
            "unlearned": sorted(self._unlearned),
            "choice": self.choice.state(),
            "ledger": self.ledger.state(),
            "codecs": {"up": _memories(self._up), "down": _memories(self._down)},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where ``state`` was taken, in a server that was made of the same scenario."""
        columns: Mapping[str, Sequence[Any]] = state["records"]
        rows = [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
        self._restored = {row["client_id"]: ClientRecord(**row) for row in rows}
        self._seen, self._state = set(state["seen"]), state["strategy"]
        self._unlearned = set(state["unlearned"])
        self._up, self._down = (_restored(state["codecs"][way]) for way in ("up", "down"))
        self.choice.restore(state["choice"])
        self.ledger.restore(state["ledger"])
        if state["lessons"] is not None:
            self._lessons = self._lessons_from_tensors(state["lessons"])

    @property
    def _sends_later(self) -> bool:
        """Whether lessons are still needed after their round: sent in the next one, or to who was
        absent.
        """
        return self.kind is not None and (
            self.round_order == "distill_first" or self.kind.learned_by == "adopt"
        )

    def _lessons_as_tensors(self) -> dict[str, Any]:
        kind, lessons = self.kind, self._lessons
        assert kind is not None, "a run that exchanges nothing has no lessons"

        def tensors(knowledge: Knowledge) -> dict[str, Tensor]:
            return {name: torch.tensor(array) for name, array in kind.encode(knowledge).items()}

        # Clients may share one lesson: it is kept once.
        distinct = {id(lesson): lesson for lesson in lessons.personal.values()}
        places = {key: context for context, key in enumerate(distinct)}
        return {
            "common": None if lessons.common is None else tensors(lessons.common),
            "personal": [tensors(lesson) for lesson in distinct.values()],
            "whose": [
                (client_id, places[id(lesson)]) for client_id, lesson in lessons.personal.items()
            ],
        }

    def _lessons_from_tensors(self, state: Mapping[str, Any]) -> Teachers:
        kind = self.kind
        assert kind is not None, "a run that exchanges nothing has no lessons"

        def knowledge(tensors: Mapping[str, Tensor]) -> Knowledge:
            return kind.decode({name: tensor.numpy() for name, tensor in tensors.items()})

        personal = [knowledge(tensors) for tensors in state["personal"]]
        return Teachers(
            common=None if state["common"] is None else knowledge(state["common"]),
            personal={client_id: personal[context] for client_id, context in state["whose"]},
        )

    def _first_download(self, round_number: int, client_id: int) -> Download:
        """Return what a client is asked for at the beginning of a round."""
        kind = self.kind
        steps: list[Step] = ["pretrain"] if self.pretrains and client_id not in self._seen else []
        if kind is None:
            return Download(round=round_number, steps=(*steps, "train", "evaluate"))
        teacher = None
        if kind.learned_by == "adopt":  # nobody trains from old weights
            teacher = self._lesson(client_id) if client_id in self._unlearned else None
            steps += ["adopt"] if teacher is not None else []
        elif self.round_order == "distill_first":
            teacher = self._lesson(client_id)
            steps += ["distill"] if teacher is not None and kind.learned_by == "distill" else []
        steps += ["train"]
        steps += ["evaluate"] if self.round_order == "distill_first" else []
        steps += ["share"]
        start_over = (
            self.codecs is not None and self.codecs.up.stateful and client_id not in self._up
        )
        ids = (
            self._asked_ids if kind.learned_by == "distill" else None
        )  # other kinds are not of public samples
        return Download(
            round=round_number,
            steps=tuple(steps),
            public_ids=ids,
            teacher=teacher,
            start_over=start_over,
        )

    def _lesson(self, client_id: int) -> Knowledge | None:
        """Return the last lesson for a client, and take note that it is sent."""
        self._unlearned.discard(client_id)
        return self._lessons.of(client_id)

    def _leaders(self) -> list[int]:
        """Return the first participant of each architecture."""
        first: dict[str, int] = {}
        for client_id in self._participants:
            first.setdefault(self.cards[client_id].architecture, client_id)
        return sorted(first.values())

    def _draw_participants(self, round_number: int) -> list[int]:
        count = max(1, round(self.protocol.participation * self.clients))
        if count == self.clients:
            return list(range(self.clients))
        stream = numpy_stream(self.seed, "round", round_number, "participants")
        return sorted(stream.choice(self.clients, count, replace=False).tolist())

    def _draw_present(self, round_number: int, asked: Sequence[int]) -> list[int]:
        """Return who of those asked does not drop out: each client has a stream of its own for
        it.
        """
        if self.protocol.dropout == 0:
            return list(asked)
        draws = {
            i: numpy_stream(self.seed, "client", i, "round", round_number, "dropout").random()
            for i in asked
        }
        return [i for i in asked if draws[i] >= self.protocol.dropout]

    def _request(self, round_number: int) -> Request:
        needs, begins = self.declared.needs, self.round_order == "distill_first"
        counts = None
        if needs.label_counts:
            counts = {
                i: card.label_counts
                for i, card in self.cards.items()
                if card.label_counts is not None
            }
        return Request(
            round=round_number,
            classes=self.classes,
            public_ids=self._asked_ids,
            temperature=self.temperature,
            round_ids=self._public_ids if isinstance(self.strategy, SelectsQueries) else None,
            architectures=tuple(card.architecture for card in self.cards.values()),
            server=self.models,
            shapes=self.shapes,
            features=self.features,
            taught=frozenset(i for i in self._asked if begins and self._lessons.of(i) is not None),
            train_sizes={i: card.train_size for i, card in self.cards.items()},
            label_counts=counts,
            public_labels=self.public_labels[self._asked_ids]
            if needs.public_labels and self.public_labels is not None
            else None,
        )

    def _received(self, reply: Reply) -> Upload | None:
        """Record a reply and return its upload."""
        record, upload = self.records[reply.client_id], reply.upload
        if upload is None:
            self._unlearned.add(reply.client_id)  # whatever was sent to it may be lost
            self._up.pop(reply.client_id, None)
            self._down.pop(reply.client_id, None)
            status: Status = "rejected" if reply.rejected else "failed"
            self.records[reply.client_id] = replace(
                record,
                status=status,
                reason=reply.error,
                bytes_up=record.bytes_up + reply.bytes,
                entropy_bytes_up=record.entropy_bytes_up + reply.entropy_bytes,
            )
            return None
        if self.observer is not None:
            self.observer.received(upload.round, upload)
        metrics: Mapping[str, Any] = upload.metrics
        self.records[upload.client_id] = replace(
            record,
            status=record.status if record.status == "rejected" or record.reason else "ok",
            bytes_up=record.bytes_up + reply.bytes,
            entropy_bytes_up=record.entropy_bytes_up + reply.entropy_bytes,
            seconds=record.seconds + metrics.get("seconds", 0.0),
            **client_figures(metrics),
        )
        return upload

    def _spend(self, client_id: int, upload: Upload | None, request: Request) -> None:
        """Enter in the ledger what left a client, whether it is accepted or not.

        Where nothing came that says what left it, all that it was asked for may have: a lost reply
        may have been seen.
        """
        if upload is not None and _declines(upload):
            return
        if upload is None or upload.privacy is None:
            size = self.cards[client_id].train_size
            for spending, most in self.enforcer.worst_case_spending(len(request.public_ids), size):
                self.ledger.record(client_id, spending, most)
            return
        spendings = [Spending.from_dict(json.loads(text)) for text in upload.privacy.spent]
        for layer in CUMULATIVE_LAYERS:
            self.ledger.record_cumulative(
                client_id, layer, [s for s in spendings if s.layer == layer]
            )
        for spending in spendings:
            if spending.layer not in CUMULATIVE_LAYERS:
                self.ledger.record(client_id, spending)

    def claims(self, client_id: int | None = None) -> tuple[Claim, ...]:
        """Return what the ledger lets the run claim so far, for the system or a client: server,
        clients, outsiders.
        """
        mechanism = self.enforcer.mechanism
        return tuple(
            self.ledger.claim(
                mechanism.unit,
                who,
                mechanism.delta,
                client=client_id,
                accountant=mechanism.accountant,
            )
            for who in ADVERSARIES
        )

    def _epsilons(self) -> dict[int, float | None]:
        """Return what was spent on each client, against the first adversary that the mechanism
        protects from.
        """
        mechanism, protects_from = self.enforcer.mechanism, self.enforcer.protects_from
        if not protects_from:
            return {}
        return dict(self.ledger.epsilons(mechanism.unit, protects_from[0], mechanism.delta))

    def _require(self, round_number: int, present: int, *reasons: str) -> None:
        """Raise RunError where fewer clients are left in a round than ``min_clients``."""
        if present < self.protocol.min_clients:
            raise RunError(
                f"round {round_number}: {present} of {self.clients} clients answered,"
                f" min_clients={self.protocol.min_clients}"
                f"{'; ' if reasons else ''}{'; '.join(reasons)}"
            )

    def _opened(self, upload: Upload, request: Request) -> Upload | None:
        """Return an upload with its knowledge as its kind has it; None, and recorded, where it is
        rejected.
        """
        assert self.kind is not None, "there is knowledge to open"
        try:
            if isinstance(upload.knowledge, Packed):
                upload = self._unpacked(upload, upload.knowledge, self.kind)
            if upload.declined:
                raise UploadRejected("a client that declines must send no knowledge")
            if upload.knowledge is None or upload.privacy is None:
                raise UploadRejected("an upload needs knowledge and a privacy event")
            if upload.round != request.round:
                raise UploadRejected(
                    f"this is round {request.round}, the upload is of round {upload.round}"
                )
            self.kind.check(upload.knowledge, request, upload.client_id)
        except UploadRejected as rejected:
            record = self.records[upload.client_id]
            self.records[upload.client_id] = replace(
                record, status="rejected", reason=str(rejected)
            )
            return None
        if self.observer is not None:
            self.observer.accepted(request.round, upload.client_id, upload.knowledge)
        return upload

    def _unpacked(self, upload: Upload, packed: Packed, kind: KnowledgeType) -> Upload:
        """Return an upload decoded; where that fails, the client is asked to start over next
        time.
        """
        assert self.codecs is not None, "what is packed was packed by one"
        arrays, after = self.codecs.up.decode(packed.arrays, self._up.pop(upload.client_id, None))
        if after is not None:
            self._up[upload.client_id] = after
        return replace(upload, knowledge=kind.decode(arrays))

    def _keep(self, fusion: Fusion, client_ids: Sequence[int], lessons: Teachers) -> None:
        self._state, self._lessons, self._metrics = fusion.state, lessons, dict(fusion.metrics)
        self._unlearned = set(range(self.clients))
        neighbors, own = effective_neighbors(fusion.weights), fusion.weights.diagonal()
        for row, client_id in enumerate(client_ids):
            self.records[client_id] = replace(
                self.records[client_id],
                effective_neighbors=neighbors[row].item(),
                self_weight=own[row].item(),
            )
        if self.clients <= WEIGHTS_LIMIT:
            self._weights = spread_weights(fusion.weights, client_ids, self.clients)
        self._sha256 = knowledge_sha256(fusion.teachers)


def _declines(upload: Upload) -> bool:
    """Return whether a client declined: then it sent no knowledge, and spent nothing."""
    return bool(upload.declined) and upload.knowledge is None


def _memories(by_client: Mapping[int, Memory]) -> dict[str, Any]:
    """Return what codecs remember as tensors; what clients share is kept once."""
    distinct = {id(memory): memory for memory in by_client.values() if memory is not None}
    places = {key: context for context, key in enumerate(distinct)}
    return {
        "memories": [
            {name: torch.tensor(array) for name, array in memory.items()}
            for memory in distinct.values()
        ],
        "whose": [(client_id, places[id(memory)]) for client_id, memory in by_client.items()],
    }


def _restored(state: Mapping[str, Any]) -> dict[int, Memory]:
    """Return what ``_memories`` made tensors of."""
    memories = [
        {name: tensor.numpy() for name, tensor in memory.items()} for memory in state["memories"]
    ]
    return {client_id: memories[context] for client_id, context in state["whose"]}


def spread_weights(weights: Tensor, client_ids: Sequence[int], clients: int) -> Tensor:
    """Return a cohort's weights [k, k] as [K, K] over all clients: absent recipients NaN, absent
    contributors 0.
    """
    spread = torch.full((clients, clients), torch.nan)
    rows = torch.tensor(client_ids, dtype=torch.int64)
    spread[rows] = 0.0
    spread[rows[:, None], rows[None, :]] = weights.to(torch.float32)
    return spread


def knowledge_sha256(teachers: Any) -> str:
    """Return the SHA-256 of fused teachers: their shape and their float32 values, little endian.

    Of mappings and sequences of tensors it is that of their members' hashes, with their names, in
    order.
    """
    if not isinstance(teachers, Tensor):
        named = teachers.items() if isinstance(teachers, Mapping) else enumerate(teachers)
        return hashlib.sha256(
            "".join(f"{name}={knowledge_sha256(part)};" for name, part in named).encode()
        ).hexdigest()
    values = teachers.to(torch.float32).contiguous().numpy().astype("<f4")
    return hashlib.sha256(f"{list(values.shape)}".encode() + values.tobytes()).hexdigest()


def _check_parts(fusion: object) -> None:
    """Raise RunError where a strategy returned no Fusion, or metrics that are no numbers; kinds
    check the rest.
    """
    if not isinstance(fusion, Fusion):
        what = "None" if fusion is None else f"a {type(fusion).__name__}"
        raise RunError(
            f"fuse returned {what}, expected a fedkd.messages.Fusion(weights=..., teachers=...)"
        )
    for name, value in fusion.metrics.items():
        if not isinstance(value, int | float):
            raise RunError(f"fuse returned metrics with {name}={value!r}, expected numbers by name")
