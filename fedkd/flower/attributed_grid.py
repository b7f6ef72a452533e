"""A Grid over one of Flower's that takes replies one by one, and knows whose each is.

Flower reads the replies of a phase together: one that cannot be read takes the others with it, and
what a reply says of its sender is its sender's word. Here the reply to a message is what comes for
that message's id.
"""

import time
from collections.abc import Iterable, Iterator

from flwr.app import Message
from flwr.serverapp import Grid

from fedkd.errors import one_line
from fedkd.flower.engine_run import failed

SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two rounds of asking for replies; they grow while none comes."""


class AttributedGrid:
    """Sends a phase's messages, and yields the replies as they come."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

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
        deadline, pause = None if timeout is None else time.monotonic() + timeout, SHORTEST_PAUSE
        while waiting and (deadline is None or time.monotonic() < deadline):
            before = len(waiting)
            for message_id, message in list(waiting.items()):
                reply = self._pull(message_id, message)
                if reply is not None:
                    del waiting[message_id]
                    yield reply
            pause = SHORTEST_PAUSE if len(waiting) < before else min(2 * pause, LONGEST_PAUSE)
            if waiting:
                time.sleep(pause)

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
