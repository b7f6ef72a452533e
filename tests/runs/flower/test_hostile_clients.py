"""A hostile client in a whole run: it is rejected, and the others' run is as if it had failed."""

import csv
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from hostile import exchanged, spoil_surely, spoiling
from tiny import records, scenario

from fedkd.errors import TEXT_LIMIT, RunError
from fedkd.experiment.run import run
from fedkd.flower.attributed_grid import AttributedGrid
from fedkd.flower.engine_grid import message_identity

HONEST = (0, 2, 3)
FAILURE = Error(2, "it failed")


def is_card(reply: Message) -> bool:
    return reply.metadata.message_type.startswith("query")


@pytest.mark.fast(1)
@pytest.mark.parametrize("strategy", ["knfu", "cfd"])
def test_the_others_run_is_the_same_to_the_bit_as_if_the_client_had_failed(strategy: str) -> None:
    stream = random.Random(7)

    def hostile(client: int, reply: Message) -> RecordDict | None:
        spoils = client == 1 and not is_card(reply)
        return spoil_surely(reply.content, stream) if spoils else None

    def failing(client: int, reply: Message) -> Error | None:
        return FAILURE if client == 1 and not is_card(reply) else None

    with spoiling(hostile):
        spoiled = records(strategy=strategy)
    with spoiling(failing):
        failed = records(strategy=strategy)
    for one, other in zip(spoiled, failed, strict=True):
        assert (one.clients[1].status, other.clients[1].status) == ("rejected", "failed")
        assert one.clients[1].reason
        assert exchanged(one, HONEST) == exchanged(other, HONEST)


def test_weights_that_make_the_fusion_worthless_are_left_out_of_it() -> None:
    def hostile(client: int, reply: Message) -> RecordDict | None:
        if client != 1 or is_card(reply) or "knowledge" not in reply.content:
            return None
        huge = {}
        for name, array in reply.content["knowledge"].items():
            values = np.full(array.shape, 1e29, array.dtype).tobytes()
            huge[name] = Array(array.dtype, tuple(array.shape), array.stype, values)
        return RecordDict({**reply.content, "knowledge": ArrayRecord(huge)})

    with spoiling(hostile):
        for record in records(strategy="feddf", models=["mlp"], rounds=2):
            assert [c.status for c in record.clients] == ["ok", "rejected", "ok", "ok"]
            assert record.clients[1].reason.endswith("not finite with its numbers up to 1e+29")
            assert record.knowledge_sha256 is not None


def test_a_client_that_says_it_is_another_is_left_out_with_that_one() -> None:
    def hostile(client: int, reply: Message) -> RecordDict | None:
        if client != 1 or not is_card(reply):
            return None
        return RecordDict({"card": ConfigRecord({**reply.content["card"], "client_id": 0})})

    with spoiling(hostile):
        for record in records(strategy="fedmd"):
            assert [c.status for c in record.clients] == ["rejected", "rejected", "ok", "ok"]
            assert record.clients[0].reason.endswith("2 nodes said that they are client 0")
            assert record.clients[1].reason.endswith("nobody said to be client 1")
            assert record.clients[0].bytes_down == 0


@pytest.mark.parametrize("card", [{}, {"client_id": 1}, {"client_id": 1.0, "architecture": 3}])
def test_a_client_without_a_card_is_left_out_and_the_others_go_on(card: dict[str, Any]) -> None:
    def hostile(client: int, reply: Message) -> RecordDict | None:
        spoils = client == 1 and is_card(reply)
        return RecordDict({"card": ConfigRecord(card)} if card else {}) if spoils else None

    with spoiling(hostile):
        (record,) = records(strategy="fedmd", rounds=1)
    assert [c.status for c in record.clients] == ["ok", "rejected", "ok", "ok"]
    assert record.clients[1].reason.startswith("left out of the run: nobody said to be client 1;")


def test_a_run_that_nobody_can_start_ends_with_the_reason() -> None:
    with (
        spoiling(lambda _, reply: Error(2, "\x1b[31mno")),
        pytest.raises(RunError, match=r"no client can take part; .*: \[31mno \(1 unprintable\)$"),
    ):
        records(strategy="fedmd")


@pytest.mark.slow
def test_what_a_client_says_reaches_no_terminal_and_no_table_as_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "\x1b]0;title\x07\x1b[31mred\x00\u202e[/bold] " + "x" * 8_000_000

    def hostile(client: int, reply: Message) -> Error | RecordDict | None:
        if is_card(reply) or client not in (1, 2):
            return None
        if client == 1:
            return Error(2, text)
        about = ConfigRecord({**reply.content["about"], "declined": text})
        return RecordDict(
            {**{n: r for n, r in reply.content.items() if n != "about"}, "about": about}
        )

    with spoiling(hostile):
        run(scenario(strategy="fedmd", report={"console": True}), tmp_path / "run")
    printed = "".join(capfd.readouterr())
    assert not [c for c in printed if not c.isprintable() and c not in "\n"]
    assert len(printed) < 20_000
    with (tmp_path / "run" / "clients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    said = [row["reason"] for row in rows if row["client"] == "1"]
    assert all("8,000," in reason and len(reason) <= TEXT_LIMIT for reason in said)
    stored = (tmp_path / "run" / "rounds.jsonl").read_text()
    assert len(stored) < 20_000
    assert "\\u001b" not in stored


class ForeignGrid:
    """Flower's, where a message cannot be sent and another one's reply cannot be read."""

    def __init__(self, error: Exception) -> None:
        self.error, self.asked = error, 0
        self.sent: dict[str, Message] = {}

    def get_node_ids(self) -> list[int]:
        return [11, 12, 13]

    def push_messages(self, messages: Iterable[Message]) -> list[str | None]:
        self.sent = {f"m{i}": message for i, message in enumerate(messages)}
        return [None if name == "m1" else name for name in self.sent]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        (name,) = message_ids
        self.asked += 1
        if name == "m2":
            raise self.error
        if self.asked < 4:
            return []
        lie = Message(RecordDict(), reply_to=self.sent[name])
        lie.metadata.__dict__["_src_node_id"] = 13
        return [lie]


def test_a_reply_is_of_the_node_that_was_asked_whatever_it_says_of_itself() -> None:
    with message_identity():
        asked = [Message(RecordDict(), node, "train") for node in (11, 12, 13)]
        grid = AttributedGrid(cast(Grid, ForeignGrid(ValueError("bad\x1b object"))))
        replies = {r.metadata.src_node_id: r for r in grid.send_and_receive(asked)}
    assert sorted(replies) == [11, 12, 13]
    assert not replies[11].has_error()
    assert replies[12].error.reason == "the message could not be sent"
    assert replies[13].error.reason.startswith("the reply cannot be read: ValueError")


def test_a_link_that_is_gone_ends_the_run() -> None:
    with message_identity():
        asked = [Message(RecordDict(), node, "train") for node in (11, 12, 13)]
        grid = AttributedGrid(cast(Grid, ForeignGrid(ConnectionError("gone"))))
        with pytest.raises(ConnectionError):
            list(grid.send_and_receive(asked))
