"""The Flower Grid of fedkd's own engines: clients are its nodes, and there is no SuperLink."""

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from fedkd.flower.engine_run import FIRST_CLIENT_NODE_ID, RUN_ID, SERVER_NODE_ID


class EngineGrid(Grid):
    """A Grid whose node ``i + 2`` is client ``i``. An engine says how messages are answered."""

    def __init__(self, clients: int) -> None:
        self.node_ids = [FIRST_CLIENT_NODE_ID + i for i in range(clients)]
        self._replies: dict[str, Message] = {}
        self._message_numbers = itertools.count(1)

    @abstractmethod
    def answers(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Yield the replies of the messages' clients as they are ready, in any sequence."""

    def set_run(self, run: object) -> None:
        """Accept a run: there is only this one."""

    @property
    def run(self) -> object:  # type: ignore[override]
        """No run information: Flower's Run belongs to a SuperLink, and there is none."""
        raise RuntimeError("fedkd's engines have no SuperLink and so no run information")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message; the arguments are Flower's.

        Args:
            content: What it says.
            message_type: The kind of call, such as ``train``.
            dst_node_id: The node that it is for.
            group_id: The messages that it belongs to: the round.
            ttl: Seconds that it lives.
        """
        return Message(
            content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl
        )

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all client nodes."""
        return list(self.node_ids)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answer messages, and store the replies to be pulled."""
        pushed = []
        for reply in self.answers(messages):
            pushed.append(f"message {next(self._message_numbers)}")
            self._replies[pushed[-1]] = reply
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return, once, the replies to pushed messages."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Yield the replies to messages as they are ready, in any sequence.

        Nothing times out: a client is past its deadline by the run's own clock.
        """
        return self.answers(messages)


def server_context() -> Context:
    """Return the ServerApp's context."""
    return Context(RUN_ID, SERVER_NODE_ID, {}, RecordDict(), {})


@contextmanager
def message_identity() -> Iterator[None]:
    """Let this process create Flower messages, which need an identity.

    The one private import of Flower.
    """
    from flwr.supercore.task_identity import TaskIdentity

    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SERVER_NODE_ID, 1
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before
