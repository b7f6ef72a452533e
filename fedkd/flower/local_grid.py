"""The local engine: a Flower Grid that calls the ClientApp in this process, the reference for every
number.

With one worker clients run one after the other in the calling thread; with more, in threads of one
intra-op thread each. Results do not depend on the number of workers: clients share no state, and
the server sorts by client id.
"""

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from fedkd.errors import Interrupted
from fedkd.flower.job import (
    FIRST_CLIENT_NODE_ID,
    RUN_ID,
    SERVER_NODE_ID,
    ClientPool,
    EngineRun,
    OnReply,
    answer,
    client_context,
)
from fedkd.runtime.devices import choose_device, deterministic
from fedkd.runtime.parallel import available_cores
from fedkd.settings.validators import at_least

DEFAULT_MOST_WORKERS = 8


@dataclass(frozen=True, kw_only=True)
class Local:
    """Clients in this process."""

    workers: int | None = None
    """Threads that clients run in, >= 1; null is one for each core, at most 8. The result is the
    same for any."""

    def __post_init__(self) -> None:
        if self.workers is not None:
            at_least(1, workers=self.workers)

    @property
    def threads(self) -> int:
        """The number of threads that will run."""
        return self.workers or min(available_cores(), DEFAULT_MOST_WORKERS)

    @property
    def here(self) -> bool:
        """True: clients run in this process."""
        return True

    def describe(self) -> str:
        """Return the number of workers in words."""
        return f"{self.threads} worker{'s' if self.threads > 1 else ''}"

    def session(self, architectures: Sequence[str], device: str) -> AbstractContextManager[None]:
        """Hold nothing: this process is there already."""
        return nullcontext()

    def run(self, job: EngineRun) -> None:
        """Run a whole ServerApp over the job's clients."""
        with message_identity(), deterministic(choose_device(job.device)):
            grid = LocalGrid(job.client_pool, job.clients, self.threads, job.stop, job.on_reply)
            try:
                job.server_app(grid, server_context())
            except BaseException:
                job.stop.set()
                raise
            finally:
                grid.shut_down()


def server_context() -> Context:
    """Return the ServerApp's context."""
    return Context(RUN_ID, SERVER_NODE_ID, {}, RecordDict(), {})


@contextmanager
def message_identity() -> Iterator[None]:
    """Let this process create Flower messages, which need an identity. The one private import of
    Flower.
    """
    from flwr.supercore.task_identity import TaskIdentity

    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SERVER_NODE_ID, 1
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


class LocalGrid(Grid):
    """A Grid whose nodes are this process's clients: node ``i + 2`` is client ``i``."""

    def __init__(
        self,
        client_pool: ClientPool,
        clients: int,
        workers: int,
        stop: threading.Event,
        on_reply: OnReply,
    ) -> None:
        self._crew, self._stop, self._on_reply = client_pool, stop, on_reply
        self._contexts = {
            FIRST_CLIENT_NODE_ID + i: client_context(i, clients) for i in range(clients)
        }
        self._workers = workers
        self._pool = ThreadPoolExecutor(
            workers, "fedkd-client", initializer=torch.set_num_threads, initargs=(1,)
        )
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
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message."""
        return Message(
            content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl
        )

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

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run the messages' clients and yield their replies as they are ready, in any order.

        A message is made when its client's turn comes, and a reply may be dropped once it is read:
        what is in memory at a time is a few messages, not a phase of them. In process there is
        nobody to time out on.
        """
        return self._answers(messages)

    def _answers(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Yield the replies as they are ready; at most two groups a worker are in flight."""
        group = self._crew.group
        groups = (
            ([message] for message in messages)
            if group is None
            else iter(group(list(messages), self._workers))
        )
        if self._workers == 1:
            for together in groups:
                yield from self._answer(together)
            return
        flying: set[Future[list[Message]]] = set()
        for together in groups:
            flying.add(self._pool.submit(self._answer, together))
            if len(flying) >= 2 * self._workers:
                landed, flying = wait(flying, return_when=FIRST_COMPLETED)
                for future in landed:
                    yield from future.result()
        for future in as_completed(flying):
            yield from future.result()

    def _answer(self, together: list[Message]) -> list[Message]:
        """Return the replies of a group's clients."""
        if self._stop.is_set():
            raise Interrupted
        if self._crew.group is not None:
            self._crew.prepare(together)
        replies = []
        for message in together:
            replies.append(
                answer(self._crew.app, message, self._contexts[message.metadata.dst_node_id])
            )
            self._on_reply(replies[-1])
        return replies
