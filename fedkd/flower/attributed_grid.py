"""A Grid over one of Flower's that takes replies one by one, and knows whose each is.

Flower reads the replies of a phase together: one that cannot be read takes the others with it, and
what a reply says of its sender is its sender's word. Here the reply to a message is what comes for
that message's id. A message that a node has lost, because it was started again, has no reply ever:
a node that answers a later message first is known to have lost it.
"""

import time
from collections.abc import Iterable, Iterator, Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedkd.errors import one_line
from fedkd.flower.engine_run import failed

SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two rounds of asking for replies; they grow while none comes."""


QUIET_SECONDS = 30.0
"""How long a node may take for a message before it is asked whether it still has it."""
PRESENT = "query.present"
"""The type of the message that asks."""
OF_THE_LINK = {3, 4, 5}
"""Codes of the errors by which the SuperLink says that a message, its reply or a node is gone."""
LOST = "its node was started again, and has lost the message"


class AttributedGrid:
    """Sends a phase's messages, and yields the replies as they come.

    ``in_order`` says that each node works on one message after the other, as SuperNodes do.
    """

    def __init__(self, grid: Grid, *, in_order: bool = False) -> None:
        self._grid, self._in_order = grid, in_order

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the connected nodes."""
        return self._grid.get_node_ids()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send messages, and yield a reply to each as it comes; a failed one where none is read.

        None comes for messages that were not answered in ``timeout`` seconds.
        """
        sent = list(messages)  # Flower's reads them twice
        ids: list[str | None] = list(self._grid.push_messages(sent)) if sent else []
        ids += [None] * (len(sent) - len(ids))
        waiting = {i: message for i, message in zip(ids, sent, strict=True) if i is not None}
        for message_id, message in zip(ids, sent, strict=True):
            if message_id is None:
                yield failed(message, "the message could not be sent")
        began = time.monotonic()
        deadline, pause = None if timeout is None else began + timeout, SHORTEST_PAUSE
        asked: dict[str, str] = {}
        while waiting and (deadline is None or time.monotonic() < deadline):
            before = len(waiting)
            if self._in_order and not asked and time.monotonic() > began + QUIET_SECONDS:
                asked = self._ask(waiting)
            present = {message_id for message_id, question in asked.items() if self._has(question)}
            for message_id, message in list(waiting.items()):
                reply = self._pull(message_id, message)
                if reply is None and message_id in present:
                    reply = failed(message, LOST)
                if reply is not None:
                    del waiting[message_id]
                    yield reply
            pause = SHORTEST_PAUSE if len(waiting) < before else min(2 * pause, LONGEST_PAUSE)
            if waiting:
                time.sleep(pause)

    def _ask(self, waiting: Mapping[str, Message]) -> dict[str, str]:
        """Send a question to each node that has not answered; return its id by the message's."""
        questions = [
            Message(
                RecordDict(),
                dst_node_id=message.metadata.dst_node_id,
                message_type=PRESENT,
                group_id=message.metadata.group_id,
            )
            for message in waiting.values()
        ]
        ids = self._grid.push_messages(questions)
        return {i: question for i, question in zip(waiting, ids, strict=False) if question}

    def _has(self, question: str) -> bool:
        """Return whether a question was answered by its node itself."""
        return any(
            reply.has_content() or reply.error.code not in OF_THE_LINK
            for reply in self._grid.pull_messages([question])
        )

    def _pull(self, message_id: str, message: Message) -> Message | None:
        """Return the reply to a message, if there is one, as one of the node it was sent to."""
        try:
            replies = list(self._grid.pull_messages([message_id]))
            if not replies:
                return None
            reply = replies[0]
            answer = reply.error if reply.has_error() else reply.content
            return Message(answer, reply_to=message)
        except Exception as error:
            if _is_of_the_link(error):
                raise
            return failed(message, f"the reply cannot be read: {one_line(error)}")


def _is_of_the_link(error: Exception) -> bool:
    """Return whether an error says that the SuperLink is gone, which is no node's fault."""
    if isinstance(error, RecursionError):
        return False
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | RuntimeError) or library in ("httpx", "httpcore", "grpc")
