"""The Flower Strategy that carries our rounds: downloads and replies as Flower's messages.

``fedkd.federation.round`` is the round; here are its two ways of travelling. Apart, a client gets a
train message a round, and a second, evaluate, message where the round ends with distillation
(``round_order=train_first``). Joined, for where messages are expensive, that one also begins the
next round. Node ids are random on Flower's engines, so clients are asked for their card once and
then sorted by client id everywhere.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import cast
from weakref import WeakKeyDictionary

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedkd.errors import RunError, UploadRejected
from fedkd.federation.replies import Reply
from fedkd.federation.round import Downloads, Round, federated_round, finish
from fedkd.federation.round_records import RoundRecord
from fedkd.federation.server import Server
from fedkd.flower import records
from fedkd.flower.introduction import error_text, introduce
from fedkd.flower.node_states import NodeStates
from fedkd.flower.reply_decoder import Expected, read_upload
from fedkd.flower.wire_arrays import pack_arrays
from fedkd.messages import Download, Packed
from fedkd.settings.measuring_points import MEASURING_POINTS, column
from fedkd.storage.transcript_recorder import TranscriptRecorder

Contents = Mapping[int, RecordDict]
"""By client id."""


class FederatedDistillation(Strategy):
    """Rounds of federated distillation over any Grid. ``on_round`` gets each round's record.

    ``joined`` sends the end of a round and the beginning of the next as one message, so that R
    rounds take R messages a client and one at the end, to the same figures. A round's record is
    complete a message later then, and a client that fails has failed in both rounds. A ``recorder``
    is shown everything that travels, as it travels.
    """

    def __init__(
        self,
        server: Server,
        scenario_text: str,
        on_round: Callable[[RoundRecord], None],
        *,
        first_round: int = 1,
        joined: bool = False,
        recorder: TranscriptRecorder | None = None,
        nodes: NodeStates | None = None,
    ) -> None:
        """Begin before the clients have told who they are.

        Args:
            server: The run's.
            scenario_text: The scenario, which every message carries.
            on_round: Is called with each round's record.
            first_round: The first round to run: the next one where a run is resumed.
            joined: Whether the end of a round travels with the beginning of the next.
            recorder: Stores what travels.
            nodes: The client states on Flower's nodes; None where clients are in our processes.
        """
        self.server, self.scenario_text, self.on_round = server, scenario_text, on_round
        self.nodes = nodes
        self.joined = joined and server.round_order == "train_first" and server.kind is not None
        self.rounds = range(first_round, server.participation.protocol.rounds + 1)
        scenario = ConfigRecord({"text": scenario_text})
        self._question = RecordDict({"scenario": scenario})
        if nodes is not None:
            scenario = nodes.named(scenario_text)
            self._question = nodes.question(scenario)
        self._messenger = Messenger(server, scenario, recorder)

    # Flower's start asks for initial arrays; knowledge starts with none
    def start(  # type: ignore[override]
        self, grid: Grid, timeout: float | None = None, **_: object
    ) -> Result:
        """Ask every client for its card, then run the rounds. Flower's result has no arrays.

        ``timeout`` is how long a phase of a round waits for replies. Cards take as long as clients
        need to get their data.
        """
        self._messenger.introduce(grid, self._question, None)
        result = Result()
        if self.joined:
            self._run_joined(grid, timeout, result)
            return result
        empty = ArrayRecord()
        for round_number in self.rounds:
            messages = self.configure_train(round_number, empty, ConfigRecord(), grid)
            self.aggregate_train(round_number, grid.send_and_receive(messages, timeout=timeout))
            messages = self.configure_evaluate(round_number, empty, ConfigRecord(), grid)
            self.aggregate_evaluate(round_number, grid.send_and_receive(messages, timeout=timeout))
            self._report(self._record, result)
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Begin a round, and return its first messages.

        Args:
            server_round: The round, from 1.
            arrays: Flower's global arrays; unused, since knowledge starts with none.
            config: Flower's settings of the round; unused.
            grid: Flower's grid; unused.
        """
        self._round = federated_round(self.server, server_round)
        return self._messenger.messages(server_round, "train", next(self._round))

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[None, None]:
        """Fuse the round's knowledge. Teachers stay with the server until they are sent."""
        self._last = self._round.send(self._messenger.replies(server_round, replies))
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the round's last messages; none where training comes last.

        Args:
            server_round: The round, from 1.
            arrays: Flower's global arrays; unused.
            config: Flower's settings of the round; unused.
            grid: Flower's grid; unused.
        """
        return self._messenger.messages(server_round, "evaluate", self._last)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Take in the last replies, and return the mean accuracies."""
        self._record = finish(
            self._round, self._messenger.replies(server_round, replies, shares=False)
        )
        return mean_accuracies(self._record)

    def summary(self) -> None:
        """Log nothing: the run's own report says what will run."""

    def _report(self, record: RoundRecord, result: Result) -> None:
        means = mean_accuracies(record)
        if means is not None:
            result.evaluate_metrics_clientapp[record.round] = means
        self.on_round(record)

    def _run_joined(self, grid: Grid, timeout: float | None, result: Result) -> None:
        """Run the rounds with one message at the turn of two of them."""
        teachers, ending = self.server.teachers, cast("Round | None", None)
        assert teachers is not None, "messages are joined where teachers are sent"
        last: Downloads = {}
        for round_number in range(self.rounds.start, self.rounds.stop + 1):
            beginning = federated_round(self.server, round_number)
            before = teachers.marks()
            first, too_few = self._begin(beginning, round_number)
            ended, begun = self._messenger.exchange(grid, timeout, round_number, last, first)
            if ending is not None:
                sent = [i for i, download in first.items() if download.teacher is not None]
                with teachers.as_before(sent, before):  # a checkpoint is of the end of its round
                    self._report(finish(ending, ended), result)
            if too_few is not None:
                raise too_few
            if round_number in self.rounds:
                ending, last = beginning, beginning.send(begun)

    def _begin(self, steps: Round, round_number: int) -> tuple[Downloads, RunError | None]:
        """Return a round's first downloads, none after the last; or why it cannot be begun.

        The round before is to be ended, and recorded, even then.
        """
        if round_number not in self.rounds:
            return {}, None
        try:
            return next(steps), None
        except RunError as error:
            return {}, error


class Messenger:
    """Writes downloads as messages to nodes, and reads their replies."""

    def __init__(
        self, server: Server, scenario: ConfigRecord, recorder: TranscriptRecorder | None
    ) -> None:
        self._server, self._recorder, self._scenario = server, recorder, scenario
        self._nodes: dict[int, int] = {}
        self._clients: dict[int, int] = {}
        # Clients with one teacher get one record, which is encoded once.
        self._teachers: WeakKeyDictionary[Packed, ArrayRecord] = WeakKeyDictionary()

    def introduce(self, grid: Grid, question: RecordDict, timeout: float | None) -> None:
        """Ask every node which client it is, and register the clients with the server.

        Raises RunError where there are more or fewer nodes than clients, or no client is left.
        """
        self._nodes = introduce(grid, self._server, question, timeout)
        self._clients = {node: client for client, node in self._nodes.items()}

    def messages(self, round_number: int, kind: str, downloads: Downloads) -> Iterable[Message]:
        """Yield a message for each download, made when its turn comes."""
        for client_id, content in self._contents(downloads):
            yield self._message(client_id, content, kind, round_number)

    def replies(
        self, round_number: int, messages: Iterable[Message], *, shares: bool = True
    ) -> Iterable[Reply]:
        """Yield the replies in messages, as they come.

        Args:
            round_number: The round that they are of.
            messages: What came back.
            shares: Whether knowledge was asked for.
        """
        for client_id, message in self._of_clients(messages):
            if message.has_error():
                yield Reply(client_id=client_id, upload=None, error=error_text(message))
            else:
                yield self._read(round_number, client_id, message.content, shares=shares)

    def _of_clients(self, messages: Iterable[Message]) -> Iterable[tuple[int, Message]]:
        """Yield the messages that are of a client of the run, with it."""
        for message in messages:
            client_id = self._clients.get(message.metadata.src_node_id)
            if client_id is not None:
                yield client_id, message

    def exchange(
        self,
        grid: Grid,
        timeout: float | None,
        round_number: int,
        last: Downloads,
        first: Downloads,
    ) -> tuple[list[Reply], list[Reply]]:
        """Send the end of a round and the beginning of the next as one message to each client.

        Args:
            grid: Carries the messages.
            timeout: Seconds that it waits for replies; None is as long as it takes.
            round_number: The round that begins.
            last: The last downloads of the round before.
            first: The first downloads of this one.

        Returns:
            The replies to ``last``, and those to ``first``.
        """
        ends, begins = dict(self._contents(last)), dict(self._contents(first))
        messages = [
            self._message(
                client_id,
                _joined(ends.get(client_id), begins.get(client_id)),
                "train" if client_id in begins else "evaluate",
                round_number,
            )
            for client_id in sorted({*ends, *begins})
        ]
        replies = grid.send_and_receive(messages, timeout=timeout)
        return self._parted(round_number, replies, ends, begins)

    def _parted(
        self, round_number: int, messages: Iterable[Message], ends: Contents, begins: Contents
    ) -> tuple[list[Reply], list[Reply]]:
        """Return the replies to the ends of the round before, and to the beginnings of this one.

        Args:
            round_number: The round that begins.
            messages: What came back.
            ends: What clients were sent for the end of the round before.
            begins: What they were sent for the beginning of this one.
        """
        ended: list[Reply] = []
        begun: list[Reply] = []
        for client_id, message in self._of_clients(messages):
            asked = [into for into, sent in ((ended, ends), (begun, begins)) if client_id in sent]
            failure = Reply(client_id=client_id, upload=None)
            if message.has_error():
                for into in asked:
                    into.append(replace(failure, error=error_text(message)))
                continue
            parts = records.split(message.content)
            if len(parts) != len(asked):
                error = f"{len(parts)} parts came where {len(asked)} were asked for"
                for into in asked:
                    into.append(replace(failure, error=error, rejected=True))
                continue
            for into, content in zip(asked, parts, strict=True):
                of_round = round_number if into is begun else round_number - 1
                into.append(self._read(of_round, client_id, content, shares=into is begun))
        return ended, begun

    def _message(
        self, client_id: int, content: RecordDict, kind: str, round_number: int
    ) -> Message:
        return Message(
            content,
            dst_node_id=self._nodes[client_id],
            message_type=kind,
            group_id=str(round_number),
        )

    def _contents(self, downloads: Downloads) -> Iterable[tuple[int, RecordDict]]:
        """Yield the content for each client; what is common to clients is one record."""
        request, of = None, None
        tasks: dict[tuple[object, ...], ConfigRecord] = {}
        for client_id, download in downloads.items():
            asks = (download.round, download.steps, download.start_over)
            if asks not in tasks:
                tasks[asks] = records.task_record(download)
            if download.public_ids is not None and download.public_ids is not of:
                request, of = records.request_record(download), download.public_ids
            teacher = self._teacher(client_id, download)
            asked = request if download.public_ids is not None else None
            content = records.download_content(self._scenario, tasks[asks], teacher, asked)
            yield client_id, content

    def _teacher(self, client_id: int, download: Download) -> ArrayRecord | None:
        packed = download.teacher
        if not isinstance(packed, Packed):
            return None
        if self._recorder is not None:
            self._recorder.taught(download.round, client_id, packed.arrays)
        if packed not in self._teachers:
            self._teachers[packed] = pack_arrays(packed.arrays)
        return self._teachers[packed]

    def _read(
        self, round_number: int, client_id: int, content: RecordDict, *, shares: bool
    ) -> Reply:
        """Return the reply that a client's content is.

        Args:
            round_number: The round that it is of.
            client_id: The client that was asked.
            content: What came.
            shares: Whether knowledge was asked for.
        """
        expected = Expected(client_id=client_id, round_number=round_number, shares=shares)
        try:
            upload = read_upload(content, self._server.template.classes, expected)
        except UploadRejected as rejected:
            size = records.unread_size(content)
            return Reply(
                client_id=client_id, upload=None, size=size, error=str(rejected), rejected=True
            )
        if self._recorder is not None and isinstance(upload.knowledge, Packed):
            self._recorder.uploaded(round_number, client_id, upload.knowledge.arrays)
        return Reply(client_id=client_id, upload=upload, size=records.upload_size(content))


def mean_accuracies(record: RoundRecord) -> MetricRecord | None:
    """Return the mean accuracies of a round's clients; None where none was measured."""
    means = {}
    for point in MEASURING_POINTS:
        for name in ("personal_accuracy", "global_accuracy"):
            found = (getattr(client.after(point), name) for client in record.clients)
            values = [value for value in found if value is not None]
            if values:
                means[column(name, point)] = sum(values) / len(values)
    return MetricRecord(means) if means else None


def _joined(end: RecordDict | None, beginning: RecordDict | None) -> RecordDict:
    """Return the content of one message to a client that is in one of two rounds, or in both."""
    if end is None or beginning is None:
        content = end if beginning is None else beginning
        assert content is not None, "a message has something to say"
        return content
    return records.join(end, beginning)
