"""The local engine: a Flower Grid that calls the ClientApp in this process, the reference for every number.

With one worker clients run one after the other in the calling thread; with more, in threads of one intra-op thread
each. Results do not depend on the number of workers: clients share no state, and the server sorts by client id.
"""

import itertools
import os
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedkd.checks import at_least
from fedkd.errors import Interrupted

RUN_ID = 1
SERVER_NODE_ID = 1
FIRST_CLIENT_NODE_ID = 2
CLIENT_RAISED = 2  # Flower's error code for an exception in a ClientApp
DEFAULT_MOST_WORKERS = 8


@dataclass(frozen=True, kw_only=True)
class Local:
    """Clients in this process."""

    workers: int | None = None
    """Threads that clients run in, >= 1; null is one for each core, at most 8. The result is the same for any."""

    def __post_init__(self) -> None:
        if self.workers is not None:
            at_least(1, workers=self.workers)

    @property
    def threads(self) -> int:
        """The number of threads that will run."""
        return self.workers or min(available_cores(), DEFAULT_MOST_WORKERS)

    def run(
        self, server_app: ServerApp, client_app: ClientApp, clients: int, stop: threading.Event, on_reply: "OnReply"
    ) -> None:
        """Run a whole ServerApp over ``clients`` clients. ``stop`` is set when clients must end early."""
        with message_identity(), one_intra_op_thread():
            grid = LocalGrid(client_app, clients, self.threads, stop, on_reply)
            try:
                server_app(grid, Context(RUN_ID, SERVER_NODE_ID, {}, RecordDict(), {}))
            except BaseException:
                stop.set()
                raise
            finally:
                grid.shut_down()


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


ENGINES = {"local": Local}

OnReply = Callable[[Message], None]


@contextmanager
def message_identity() -> Iterator[None]:
    """Let this process create Flower messages, which need an identity. The one private import of Flower."""
    from flwr.supercore.task_identity import TaskIdentity

    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SERVER_NODE_ID, 1
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


@contextmanager
def one_intra_op_thread() -> Iterator[None]:
    """Give each of torch's calls one thread: faster on small models, and the same sums for any number of workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class LocalGrid(Grid):
    """A Grid whose nodes are this process's clients: node ``i + 2`` is client ``i``."""

    def __init__(
        self, client_app: ClientApp, clients: int, workers: int, stop: threading.Event, on_reply: OnReply
    ) -> None:
        self._client_app, self._stop, self._on_reply = client_app, stop, on_reply
        self._contexts = {
            FIRST_CLIENT_NODE_ID + i: Context(
                RUN_ID, FIRST_CLIENT_NODE_ID + i, {"partition-id": i, "num-partitions": clients}, RecordDict(), {}
            )
            for i in range(clients)
        }
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, "fedkd-client", initializer=torch.set_num_threads, initargs=(1,))
        self._replies: dict[str, Message] = {}
        self._numbers = itertools.count(1)

    def shut_down(self) -> None:
        """End the threads; a client that is at work ends with its batch once ``stop`` is set."""
        self._pool.shutdown(cancel_futures=True)

    def set_run(self, run: object) -> None:
        """Accept a run: there is only this one."""

    @property
    def run(self) -> object:  # type: ignore[override]
        """No run information: Flower's Run belongs to a SuperLink, and there is none."""
        raise RuntimeError("the local engine has no SuperLink and so no run information")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a new message."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all client nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the messages' clients and keep their replies to be pulled."""
        pushed = []
        for reply in self._answers(messages):
            pushed.append(f"message {next(self._numbers)}")
            self._replies[pushed[-1]] = reply
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return, once, the replies to pushed messages."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Run the messages' clients and return their replies. In process there is nobody to time out on."""
        return list(self._answers(messages))

    def _answers(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Yield the replies as they are ready; at most two messages a worker are in flight."""
        if self._workers == 1:
            yield from map(self._answer, messages)
            return
        flying: set[Future[Message]] = set()
        for message in messages:
            flying.add(self._pool.submit(self._answer, message))
            if len(flying) >= 2 * self._workers:
                landed, flying = wait(flying, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in landed)
        yield from (future.result() for future in as_completed(flying))

    def _answer(self, message: Message) -> Message:
        """Return the client's reply, or its exception as Flower reports one: a client never ends the run."""
        if self._stop.is_set():
            raise Interrupted
        context = self._contexts[message.metadata.dst_node_id]
        try:
            reply = self._client_app(message, context)
        except Exception as error:
            reply = Message(Error(CLIENT_RAISED, _explain(error)), reply_to=message)
        self._on_reply(reply)
        return reply


def _explain(error: Exception) -> str:
    """Return an exception in one line, with the place where it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
