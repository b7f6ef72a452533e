"""A node that answers a later message first has lost the earlier one; nobody waits for it then."""

from collections.abc import Iterable
from typing import cast

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from fedkd.flower import attributed_grid
from fedkd.flower.attributed_grid import LOST, PRESENT, AttributedGrid
from fedkd.flower.engine_grid import message_identity


class Link:
    """A SuperLink. Node 12 was started again after its message; node 13 is slow; 14 is gone."""

    def __init__(self) -> None:
        self.sent: dict[str, Message] = {}
        self.pulls = 0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            ids.append(f"m{len(self.sent)}")
            self.sent[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        (name,) = message_ids
        self.pulls += 1
        message = self.sent[name]
        node, question = message.metadata.dst_node_id, message.metadata.message_type == PRESENT
        if node == 14:
            late = not question and self.pulls > 30
            if question or late:
                return [Message(Error(5 if question else 8, "no heartbeat"), reply_to=message)]
            return []
        if node == 11 or (node == 12 and question) or (node == 13 and self.pulls > 20):
            return [Message(RecordDict(), reply_to=message)]
        return []


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QUIET_SECONDS", "SHORTEST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(attributed_grid, name, 0.0)


def replies(*, in_order: bool, timeout: float | None) -> tuple[dict[int, str], Link]:
    link = Link()
    with message_identity():
        asked = [Message(RecordDict(), node, "train") for node in (11, 12, 13, 14)]
        grid = AttributedGrid(cast(Grid, link), in_order=in_order)
        found = list(grid.send_and_receive(asked, timeout=timeout))
    said = {r.metadata.src_node_id: r.error.reason if r.has_error() else "" for r in found}
    return said, link


def test_a_node_that_answers_a_later_message_has_lost_the_earlier() -> None:
    said, link = replies(in_order=True, timeout=None)
    assert said == {11: "", 12: LOST, 13: "", 14: "no heartbeat"}
    questions = [m for m in link.sent.values() if m.metadata.message_type == PRESENT]
    assert [m.metadata.dst_node_id for m in questions][-3:] == [12, 13, 14]


def test_where_nodes_work_on_several_messages_nobody_is_asked() -> None:
    said, link = replies(in_order=False, timeout=0.05)
    assert said == {11: "", 13: "", 14: "no heartbeat"}
    assert len(link.sent) == 4
