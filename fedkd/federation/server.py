"""The server of a run: its state between rounds, and the steps that a round is made of.

Knows nothing of Flower: downloads go out and replies come in as values. The randomness of a round
comes from named streams, so that a round repeats by itself. ``fedkd.federation.round`` takes the
steps one after the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol, TypedDict, runtime_checkable

from torch import Tensor

from fedkd.codecs import Codecs
from fedkd.errors import UploadRejected
from fedkd.federation.acceptance import UploadReader
from fedkd.federation.accounting import Accounting
from fedkd.federation.aggregation import Aggregate, Aggregator
from fedkd.federation.measured_points import measured_points, points_of_round
from fedkd.federation.measurement import Measurement
from fedkd.federation.participation import Participation, Selection, first_of_each
from fedkd.federation.protocol import RoundOrder, resolve_round_order
from fedkd.federation.registration import register
from fedkd.federation.replies import Reply
from fedkd.federation.round_recorder import RoundRecorder
from fedkd.federation.shared_values import SharedState
from fedkd.federation.teacher_store import TeacherState, TeacherStore
from fedkd.knowledge import KnowledgeType, Request
from fedkd.messages import (
    EVALUATES,
    ClientCard,
    Download,
    Fusion,
    Knowledge,
    Packed,
    Step,
    StrategyState,
    Upload,
)
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.measuring_points import MeasuringPoint


@runtime_checkable
class Observer(Protocol):
    """Looks at a run for the researcher, and changes nothing in it."""

    def check(self, upload: Upload) -> None:
        """Raise UploadRejected where what a client measured is nothing that was asked for."""

    def received(self, round_number: int, upload: Upload) -> None:
        """See a client's reply, with what it measured."""

    def accepted(self, round_number: int, client_id: int, knowledge: Knowledge) -> None:
        """See the accepted knowledge of a client."""

    def fused(self, round_number: int, fusion: Fusion, public_ids: Tensor) -> None:
        """See a round's fusion."""


class NoObserver:
    """Sees nothing."""

    def check(self, upload: Upload) -> None:
        """Raise UploadRejected where a client looked for secrets: there are none."""
        if upload.exposures:
            raise UploadRejected("exposures of secrets came in a run without any")

    def received(self, round_number: int, upload: Upload) -> None:
        """Look away."""

    def accepted(self, round_number: int, client_id: int, knowledge: Knowledge) -> None:
        """Look away."""

    def fused(self, round_number: int, fusion: Fusion, public_ids: Tensor) -> None:
        """Look away."""


class ServerState(TypedDict):
    """A server as a checkpoint has it."""

    records: Mapping[str, Sequence[object]]
    trained: list[int]
    strategy: StrategyState
    sampler: Mapping[str, Tensor]
    ledger: Mapping[str, object]
    uploads: SharedState | None
    teachers: TeacherState | None


class Server:
    """The server of one run."""

    def __init__(
        self,
        aggregator: Aggregator,
        participation: Participation,
        template: Request,
        *,
        codecs: Codecs | None = None,
        preparation: tuple[Step, ...] = (),
        measure_after: Literal["both", "distillation", "training"] = "both",
        measurement: Measurement | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Begin before the first round.

        Args:
            aggregator: The strategy, with what acts on it.
            participation: Draws the clients of each round.
            template: What every round's request has in common; clients' cards complete it.
            codecs: How knowledge is coded each way; None is in full precision.
            preparation: What clients do before their first round.
            measure_after: At which of a round's points clients measure their models.
            measurement: What they measure; None is the default.
            observer: Looks at the run; None is nobody.
        """
        self.aggregator, self.participation, self.template = aggregator, participation, template
        self.preparation, self.observer = preparation, observer or NoObserver()
        self.measurement = measurement or Measurement()
        self.accounting = Accounting(aggregator.enforcer)
        asked = self.measurement.metrics
        self.recorder = RoundRecorder(exchanges=self.kind is not None, asked=asked)
        points = points_of_round(self.kind, self.round_order, pooled=self.pools)
        self.measured = measured_points(points, measure_after)
        self.trained: set[int] = set()  # the clients that have uploaded before
        self.reader: UploadReader | None = None
        self.teachers: TeacherStore | None = None
        if self.kind is not None:
            up, down = (None, None) if codecs is None else (codecs.up, codecs.down)
            self.reader = UploadReader(self.kind, up)
            self.teachers = TeacherStore(self.kind, down, participation.clients)

    @property
    def kind(self) -> KnowledgeType | None:
        """The kind of knowledge; None where nothing is exchanged."""
        return self.aggregator.kind

    @property
    def pools(self) -> bool:
        """Whether one client of an architecture trains on the data of all."""
        return self.aggregator.declared.needs.pooled_data

    @property
    def round_order(self) -> RoundOrder:
        """Whether a round begins or ends with learning from teachers."""
        return resolve_round_order(self.participation.protocol, self.kind)

    def register(self, cards: Sequence[ClientCard], unusable: Sequence[str] = ()) -> None:
        """Take in the clients' cards before the first round; ``unusable`` says what others sent.

        Who cannot take part is left out. Raises RunError where nobody is left.
        """
        found = register(
            cards,
            self.template,
            self.participation.clients,
            counts_labels=self.aggregator.declared.needs.label_counts,
            unusable=unusable,
        )
        counts = {c.client_id: c.label_counts for c in found.cards if c.label_counts is not None}
        self.template = replace(
            self.template,
            architectures=tuple(card.architecture for card in found.cards),
            train_sizes={card.client_id: card.train_size for card in found.cards},
            label_counts=counts if self.aggregator.declared.needs.label_counts else None,
        )
        self.participation = replace(self.participation, left_out=found.left_out)
        self.recorder.introduce(found.cards, self.aggregator.threat_model.attacker_ids)

    def select(self, round_number: int) -> Selection:
        """Draw a round's clients and public samples. Raises RunError where too few are present."""
        invited = self.participation.invited(round_number)
        present = self.participation.present(round_number, invited)
        left_out = self.participation.left_out
        participants = tuple(i for i in present if i not in left_out)
        stream = numpy_stream(self.participation.seed, "round", round_number, "public")
        round_ids = self.aggregator.sampler.ids(stream)
        due = self.measurement.next_measured(round_number, self.participation.protocol.rounds)
        later = self.participation.coming(round_number + 1, due)
        selection = Selection(
            round_number=round_number,
            invited=invited,
            participants=participants,
            left_out={i: left_out[i] for i in present if i in left_out},
            trainers=first_of_each(self.template.architectures, participants)
            if self.pools
            else participants,
            round_ids=round_ids,
            query_ids=self.aggregator.select_queries(round_number, round_ids),
            unmeasured=later.intersection(participants),
            is_measured=round_number == due,
        )
        self.participation.require_present(selection)
        return selection

    def first_downloads(self, selection: Selection) -> dict[int, Download]:
        """Return what the trainers of a round are asked for at its beginning, by client id."""
        return {i: self._first_download(selection, i) for i in selection.trainers}

    def request(self, selection: Selection) -> Request:
        """Return what a round's uploads must answer to."""
        taught = frozenset[int]()
        if self.teachers is not None and self.round_order == "distill_first":
            taught = frozenset(i for i in selection.trainers if self.teachers.of(i) is not None)
        return replace(
            self.template.on(selection.query_ids),
            round=selection.round_number,
            round_ids=selection.round_ids if self.aggregator.declared.selects_queries else None,
            taught=taught,
        )

    def receive(self, reply: Reply) -> Upload | None:
        """Record a reply, and return its upload if it has one.

        Without one, what the client was sent and sent last may be lost: both sides start over.
        """
        upload = reply.upload
        if upload is not None:
            try:
                self.observer.check(upload)
            except UploadRejected as rejected:
                upload, error = None, str(rejected)
                reply = replace(reply, upload=None, error=error, rejected=True)
        self.recorder.note_reply(reply)
        if upload is None:
            self._start_over(reply.client_id)
        else:
            self.observer.received(upload.round, upload)
        return upload

    def account(self, client_id: int, upload: Upload | None, request: Request) -> Upload | None:
        """Enter in the ledger what left a client in this round, and return its upload.

        An upload whose privacy event cannot be read is rejected, and counts as one that was lost.
        """
        rows, size = len(request.public_ids), request.train_sizes[client_id]
        try:
            self.accounting.record_reply(client_id, upload, rows=rows, train_size=size)
        except UploadRejected as rejected:
            self.recorder.set_status(client_id, "rejected", str(rejected))
            self._start_over(client_id)
            return None
        return upload

    def accept(self, upload: Upload | None, request: Request) -> Upload | None:
        """Return an upload with its knowledge read; None where there is none to use.

        A client that declined is recorded as absent, one whose upload is refused as rejected.
        """
        if upload is None:
            return None
        self.trained.add(upload.client_id)
        if upload.has_declined:
            self.recorder.set_status(upload.client_id, "absent", upload.declined)
            return None
        try:
            if self.reader is None:
                if upload.knowledge is not None:
                    raise UploadRejected("knowledge came in a run that exchanges none")
                return None
            upload = self.reader.read(upload, request)
        except UploadRejected as rejected:
            self.recorder.set_status(upload.client_id, "rejected", str(rejected))
            return None
        self.observer.accepted(request.round, upload.client_id, upload.knowledge)
        return upload

    def publish(self, aggregate: Aggregate, request: Request) -> None:
        """Record a round's fusion, account for its release, and store its teachers."""
        self.observer.fused(request.round, aggregate.fusion, request.public_ids)
        self.accounting.record_fusion(aggregate.spent)
        for client_id, reason in aggregate.left_out.items():
            self.recorder.set_status(client_id, "rejected", reason)
        self.recorder.note_fusion(aggregate.fusion, aggregate.client_ids)
        if self.teachers is not None:
            self.teachers.store(aggregate.teachers)

    def last_downloads(self, selection: Selection) -> dict[int, Download]:
        """Return the downloads that end a round: learn from its teacher, and be measured.

        There are none where a round ends with private training.
        """
        if self.kind is None or self.round_order == "distill_first":
            return {}
        learn: Step = "adopt" if self.kind.learned_by == "adopt" else "distill"
        downloads = {}
        for client_id in selection.participants:
            status = self.recorder.records[client_id].status
            if status == "failed":
                continue
            learns = status == "ok" or client_id not in selection.trainers
            teacher = self._send(client_id) if learns else None
            steps: list[Step] = [] if teacher is None else [learn]
            after: MeasuringPoint = "training" if self.pools else "distillation"
            downloads[client_id] = Download(
                round=selection.round_number,
                steps=(*steps, *self._evaluate(after, client_id, selection), "inspect"),
                teacher=teacher,
            )
        return downloads

    def require_answers(self, selection: Selection) -> None:
        """Raise RunError where fewer clients are left in a round than ``min_clients``."""
        self.participation.require_answers(selection, self.recorder.failures())

    def state(self) -> ServerState:
        """Return what the server needs to go on after the last recorded round.

        Teachers are part of it only where a later round may still send them.
        """
        sends_later = self.kind is not None and (
            self.round_order == "distill_first" or self.kind.learned_by == "adopt"
        )
        return {
            "records": self.recorder.state(),
            "trained": sorted(self.trained),
            "strategy": self.aggregator.state,
            "sampler": self.aggregator.sampler.state(),
            "ledger": self.accounting.state(),
            "uploads": None if self.reader is None else self.reader.state(),
            "teachers": None
            if self.teachers is None
            else self.teachers.state(teachers=sends_later),
        }

    def restore(self, state: ServerState) -> None:
        """Go back to where ``state`` was taken, in a server that was made of the same scenario."""
        self.recorder.restore(state["records"])
        self.trained = set(state["trained"])
        self.aggregator.state = state["strategy"]
        self.aggregator.sampler.restore(state["sampler"])
        self.accounting.restore(state["ledger"])
        if self.reader is not None and state["uploads"] is not None:
            self.reader.restore(state["uploads"])
        if self.teachers is not None and state["teachers"] is not None:
            self.teachers.restore(state["teachers"])

    def _first_download(self, selection: Selection, client_id: int) -> Download:
        kind, round_number = self.kind, selection.round_number
        prepare = self.preparation if client_id not in self.trained else ()
        if kind is None or self.reader is None or self.teachers is None:
            return Download(
                round=round_number,
                steps=(*prepare, "train", *self._evaluate("training", client_id, selection)),
            )
        learn: list[Step] = []
        end: list[Step] = []
        teacher = None
        if kind.learned_by == "adopt":  # nobody trains from old weights
            if self.teachers.is_unsent(client_id):
                teacher = self._send(client_id)
            learn = ["adopt"] if teacher is not None else []
        elif self.round_order == "distill_first":
            teacher = self._send(client_id)
            learn = ["distill"] if teacher is not None and kind.learned_by == "distill" else []
        if self.round_order == "distill_first":
            end = ["inspect"]
            # Before anything was fused, nobody has distilled.
            if not self.teachers.is_empty:
                learn += self._evaluate("distillation", client_id, selection)
        if not self.pools:  # else the others have no such model yet
            end = [*self._evaluate("training", client_id, selection), *end]
        return Download(
            round=round_number,
            steps=(*prepare, *learn, "train", *end, "share"),
            public_ids=selection.query_ids if kind.asks_about_public else None,
            teacher=teacher,
            start_over=self.reader.must_start_over(client_id),
        )

    def _evaluate(self, point: MeasuringPoint, client_id: int, selection: Selection) -> list[Step]:
        measures = point in self.measured and client_id not in selection.unmeasured
        return [EVALUATES[point]] if measures else []

    def _start_over(self, client_id: int) -> None:
        """Forget what a client was sent and sent last: it may not have arrived."""
        if self.reader is not None and self.teachers is not None:
            self.reader.forget(client_id)
            self.teachers.note_lost(client_id)

    def _send(self, client_id: int) -> Packed | None:
        return None if self.teachers is None else self.teachers.send(client_id)
