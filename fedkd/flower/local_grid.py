"""The local engine calls the ClientApp in this process; it is the reference for every figure.

With one worker clients run one after the other in the calling thread; with more, in threads of one
intra-op thread each. Results do not depend on the number of workers: clients share no state, and
the server sorts by client id.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from flwr.app import Message

from fedkd.errors import Interrupted
from fedkd.flower.engine_grid import EngineGrid, message_identity, server_context
from fedkd.flower.engine_run import (
    ClientPool,
    EngineRun,
    OnReply,
    answer,
    client_context,
    client_of,
)
from fedkd.runtime.devices import choose_device, deterministic
from fedkd.runtime.parallel import available_cores
from fedkd.runtime.standard_streams import notice
from fedkd.settings.validators import at_least

DEFAULT_MOST_WORKERS = 8
PATIENCE_SECONDS = 10.0
"""How long a run that ends waits for the clients that are still at work."""


@dataclass(frozen=True, kw_only=True)
class Local:
    """Clients in this process."""

    workers: int | None = None
    """Threads that clients run in, >= 1; null is one for each core, at most 8, and one on a GPU,
    where threads wait for one another. The result is the same for any."""

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

    def on(self, device: torch.device) -> "Local":
        """Return the engine as it runs on a device: with one thread on a GPU, unless asked."""
        alone = device.type == "cuda" and self.workers is None
        return replace(self, workers=1) if alone else self

    def describe(self) -> str:
        """Return the number of workers in words."""
        return f"{self.threads} worker{'s' if self.threads > 1 else ''}"

    def session(self, architectures: Sequence[str], device: str) -> AbstractContextManager[None]:
        """Hold nothing: this process is there already."""
        return nullcontext()

    def run(self, engine_run: EngineRun) -> None:
        """Run a ServerApp to its end over the run's clients."""
        with message_identity(), deterministic(choose_device(engine_run.device)):
            grid = LocalGrid(
                engine_run.client_pool,
                engine_run.clients,
                self.threads,
                engine_run.stop,
                engine_run.on_reply,
            )
            try:
                engine_run.server_app(grid, server_context())
            except BaseException:
                engine_run.stop.set()
                raise
            finally:
                grid.shut_down()


class LocalGrid(EngineGrid):
    """A Grid whose nodes are this process's clients."""

    def __init__(
        self,
        client_pool: ClientPool,
        clients: int,
        workers: int,
        stop: threading.Event,
        on_reply: OnReply,
    ) -> None:
        """Begin with no message.

        Args:
            client_pool: The clients.
            clients: How many they are.
            workers: Threads that they run in.
            stop: Ends clients early once it is set.
            on_reply: Is called with every reply.
        """
        super().__init__(clients)
        self._client_pool, self._stop, self._on_reply = client_pool, stop, on_reply
        self._contexts = {node: client_context(i, clients) for i, node in enumerate(self.node_ids)}
        self._workers = workers
        self._pending: set[Future[list[Message]]] = set()
        self._at_work: set[int] = set()
        self._threads = ThreadPoolExecutor(
            workers, "fedkd-client", initializer=torch.set_num_threads, initargs=(1,)
        )

    def shut_down(self) -> None:
        """End the threads; a client that is at work ends with its batch once ``stop`` is set.

        One that does not is named and left: a thread cannot be ended.
        """
        self._threads.shutdown(wait=False, cancel_futures=True)
        begun = [future for future in self._pending if not future.cancelled()]
        if wait(begun, timeout=PATIENCE_SECONDS).not_done:  # nobody notifies of a cancelled one
            notice(
                f"clients {sorted(self._at_work)} are still at work after {PATIENCE_SECONDS:g} s"
                " and are left; with engine=ray such a client's process is ended"
            )

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all client nodes."""
        return list(self._contexts)

    def answers(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Yield the replies as they are ready; at most two groups a worker are in flight.

        A message is made when its client's turn comes, and a reply may be dropped once it is read:
        what is in memory at a time is a few messages, not all of a round.
        """
        group = self._client_pool.group
        groups = (
            ([message] for message in messages)
            if group is None
            else iter(group(list(messages), self._workers))
        )
        if self._workers == 1:
            for together in groups:
                yield from self._answer(together)
            return
        for together in groups:
            self._pending.add(self._threads.submit(self._answer, together))
            if len(self._pending) >= 2 * self._workers:
                done, self._pending = wait(self._pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from future.result()
        for future in as_completed(self._pending):
            yield from future.result()
        self._pending = set()

    def _answer(self, together: list[Message]) -> list[Message]:
        """Return the replies of a group's clients."""
        if self._stop.is_set():
            raise Interrupted
        if self._client_pool.group is not None:
            self._client_pool.prepare(together)
        replies = []
        for message in together:
            context, client_id = self._contexts[message.metadata.dst_node_id], client_of(message)
            self._at_work.add(client_id)
            replies.append(answer(self._client_pool.app, message, context, self._stop))
            self._at_work.discard(client_id)
            self._on_reply(replies[-1])
        return replies
