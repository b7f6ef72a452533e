"""The Flower Strategy that drives the rounds: our server's downloads and replies as Flower's
messages.

One train message a client and round; a second, evaluate, message only where the round ends with
distillation (``round_order=train_first``). Where messages are expensive, that one also begins the next
round. Node ids are random on Flower's engines, so clients are asked for their card once and then
sorted by client id everywhere.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedkd.errors import RunError, UploadRejected
from fedkd.federation.round_records import RoundRecord
from fedkd.federation.server import Reply, Server
from fedkd.flower import records
from fedkd.messages import Download
from fedkd.storage.transcript_recorder import TranscriptRecorder

NODE_PATIENCE_SECONDS = 60.0


class FederatedDistillation(Strategy):
    """Rounds of federated distillation over any Grid. ``on_round`` gets the record of each finished
    round.

    ``joined`` sends the end of a round and the beginning of the next as one message, so that R
    rounds take R messages a client and one at the end, to the same figures. A round's record is
    complete a message later then, and a client that fails has failed in both rounds. A ``witness``
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
    ) -> None:
        self.server = server
        self.joined = joined and server.round_order == "train_first" and server.kind is not None
        self._witness = recorder
        self.on_round = on_round
        self.first_round = first_round
        self._scenario = ConfigRecord({"text": scenario_text})
        self._nodes: dict[int, int] = {}
        self._clients: dict[int, int] = {}

    # Flower's start asks for initial arrays; knowledge starts with none
    def start(  # type: ignore[override]
        self, grid: Grid, timeout: float | None = None, **_: Any
    ) -> Result:
        """Ask every client for its card, then run the rounds from the first on.

        Returns Flower's result, with no arrays in it.
        """
        self._introduce(grid, timeout)
        empty, result = ArrayRecord(), Result()
        if self.joined:
            self._start_joined(grid, timeout, result)
            return result
        for round_number in range(self.first_round, self.server.protocol.rounds + 1):
            messages = self.configure_train(round_number, empty, ConfigRecord(), grid)
            self.aggregate_train(round_number, grid.send_and_receive(messages, timeout=timeout))
            messages = self.configure_evaluate(round_number, empty, ConfigRecord(), grid)
            metrics = self.aggregate_evaluate(
                round_number, grid.send_and_receive(messages, timeout=timeout)
            )
            if metrics is not None:
                result.evaluate_metrics_clientapp[round_number] = metrics
            self.on_round(self.server.record(round_number))
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the round's first messages."""
        return self._messages(server_round, "train", self.server.open_round(server_round))

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[None, None]:
        """Fuse the round's knowledge. Teachers stay with the server until they are sent."""
        self.server.fuse(server_round, (self._reply(server_round, message) for message in replies))
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the round's last messages; none where training comes last."""
        return self._messages(server_round, "evaluate", self.server.close_round(server_round))

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Take note of the last replies and return the mean accuracies."""
        self.server.take_last_replies(
            server_round, (self._reply(server_round, message) for message in replies)
        )
        return self._means()

    def _means(self) -> MetricRecord | None:
        """Return the mean accuracies of the open round."""
        means = {}
        for name in ("personal_accuracy", "global_accuracy"):
            values = [
                v
                for record in self.server.records.values()
                if (v := getattr(record, name)) is not None
            ]
            if values:
                means[name] = sum(values) / len(values)
        return MetricRecord(means) if means else None

    def summary(self) -> None:
        """Log nothing: the run's own report says what will run."""

    def _start_joined(self, grid: Grid, timeout: float | None, result: Result) -> None:
        """Run the rounds with one message at the turn of two of them."""
        server, last = self.server, self.server.protocol.rounds
        ending: Mapping[int, Download] = {}
        for round_number in range(self.first_round, last + 2):
            beginning = server.announce(round_number) if round_number <= last else {}
            ends = dict(self._contents(ending))
            begins = dict(self._contents(beginning, count=False))
            messages = [
                Message(
                    _joined(ends.get(client_id), begins.get(client_id)),
                    dst_node_id=self._nodes[client_id],
                    message_type="train" if client_id in begins else "evaluate",
                    group_id=str(round_number),
                )
                for client_id in sorted({*ends, *begins})
            ]
            ended, begun = self._parted(
                round_number, grid.send_and_receive(messages, timeout=timeout), ends, begins
            )
            if round_number > self.first_round:
                server.take_last_replies(round_number - 1, ended)
                if (metrics := self._means()) is not None:
                    result.evaluate_metrics_clientapp[round_number - 1] = metrics
                self.on_round(server.record(round_number - 1))
            if round_number <= last:
                server.begin(round_number)
                for client_id, content in begins.items():
                    weight = records.weigh_upload(content)
                    server.sent(client_id, weight.bytes, weight.entropy)
                server.fuse(round_number, begun)
                ending = server.close_round(round_number)

    def _parted(
        self,
        round_number: int,
        replies: Iterable[Message],
        ends: Mapping[int, RecordDict],
        begins: Mapping[int, RecordDict],
    ) -> tuple[list[Reply], list[Reply]]:
        """Return the replies to the ends of the round before ``number``, and to the beginnings of
        that one.
        """
        ended: list[Reply] = []
        begun: list[Reply] = []
        for message in replies:
            client_id = self._clients[message.metadata.src_node_id]
            asked = [into for into, parts in ((ended, ends), (begun, begins)) if client_id in parts]
            if message.has_error():
                for into in asked:
                    into.append(Reply(client_id=client_id, upload=None, error=_reason(message)))
                continue
            parts = records.split(message.content)
            if len(parts) != len(asked):
                error = f"{len(parts)} parts came where {len(asked)} were asked for"
                for into in asked:
                    into.append(Reply(client_id=client_id, upload=None, error=error, rejected=True))
                continue
            for into, content in zip(asked, parts, strict=True):
                into.append(
                    self._read(
                        round_number if into is begun else round_number - 1, client_id, content
                    )
                )
        return ended, begun

    def _introduce(self, grid: Grid, timeout: float | None) -> None:
        """Learn which node is which client."""
        expected, deadline = self.server.clients, time.monotonic() + NODE_PATIENCE_SECONDS
        while len(nodes := list(grid.get_node_ids())) < expected:
            if time.monotonic() > deadline:
                raise RunError(
                    f"only {len(nodes)} of {expected} clients connected in"
                    f" {NODE_PATIENCE_SECONDS:.0f} s;"
                    " start a node for each client, or set clients to the number of nodes"
                )
            time.sleep(0.2)
        if len(nodes) > expected:
            raise RunError(
                f"{len(nodes)} nodes are connected, but clients={expected}; set"
                f" clients={len(nodes)}"
            )
        content = RecordDict({"scenario": self._scenario})
        asked = [
            Message(content, dst_node_id=node, message_type="query.describe", group_id="0")
            for node in nodes
        ]
        cards = {}
        for message in grid.send_and_receive(asked, timeout=timeout):
            if message.has_error():
                raise RunError(f"a client cannot start: {_reason(message)}")
            cards[message.metadata.src_node_id] = records.read_card(message.content)
        self._nodes = {card.client_id: node for node, card in cards.items()}
        self._clients = {node: client for client, node in self._nodes.items()}
        self.server.register(list(cards.values()))

    def _messages(
        self, round_number: int, kind: str, downloads: Mapping[int, Download]
    ) -> Iterable[Message]:
        for client_id, content in self._contents(downloads):
            yield Message(
                content,
                dst_node_id=self._nodes[client_id],
                message_type=kind,
                group_id=str(round_number),
            )

    def _contents(
        self, downloads: Mapping[int, Download], *, count: bool = True
    ) -> Iterable[tuple[int, RecordDict]]:
        """Yield the content for each client, and ``count`` its bytes into the open round."""
        arrays: Mapping[str, np.ndarray] | None = (
            None  # a common teacher and the request are encoded once a phase
        )
        teacher, taught = None, records.Weight()
        request, asked = None, records.Weight()
        for client_id, download in downloads.items():
            packed = self.server.pack(client_id, download)
            if packed is not arrays:
                arrays, teacher = packed, None if packed is None else records.pack_arrays(packed)
                taught = records.weigh(teacher)
            if request is None:
                request = records.request_record(download)
                asked = records.weigh(request)
            if self._witness is not None and packed is not None:
                self._witness.taught(download.round, client_id, packed)
            content = records.download_content(download, self._scenario, teacher, request)
            if count:
                weight = taught + (asked if download.public_ids is not None else records.Weight())
                self.server.sent(client_id, weight.bytes, weight.entropy)
            yield client_id, content

    def _reply(self, round_number: int, message: Message) -> Reply:
        client_id = self._clients[message.metadata.src_node_id]
        if message.has_error():
            return Reply(client_id=client_id, upload=None, error=_reason(message))
        return self._read(round_number, client_id, message.content)

    def _read(self, round_number: int, client_id: int, content: RecordDict) -> Reply:
        """Return the reply that a client's content is."""
        weight = records.weigh_upload(content)
        reply = Reply(
            client_id=client_id, upload=None, bytes=weight.bytes, entropy_bytes=weight.entropy
        )
        try:
            if self._witness is not None:
                sent = records.sent_arrays(content)
                if sent:
                    self._witness.uploaded(round_number, client_id, sent)
            upload = records.read_upload(
                content, self.server.kind, packed=self.server.codecs is not None
            )
        except UploadRejected as error:
            return replace(reply, error=str(error), rejected=True)
        if upload.client_id != client_id:
            return replace(reply, error=f"signed as client {upload.client_id}", rejected=True)
        return replace(reply, upload=upload)


def _joined(end: RecordDict | None, beginning: RecordDict | None) -> RecordDict:
    """Return the content of one message to a client that is in one of two rounds, or in both."""
    if end is None or beginning is None:
        content = end if beginning is None else beginning
        assert content is not None, "a message has something to say"
        return content
    return records.join(end, beginning)


def _reason(message: Message) -> str:
    return message.error.reason or f"error {message.error.code} without a reason"
