"""The Ray engine: a Flower Grid over Ray actors that own their clients, on the cores and GPUs of
one or many machines.

A client stays with its worker, so that its model does not travel: a worker gets the messages of all
of its clients in one call and sends each reply back as it is ready. Workers write their clients'
states to the run's folder too, so that a worker that ends, for whatever reason, is replaced by one
that goes on from there. What ended it is the client that had the word; that client failed in this
round, the others of the worker are asked again.

Ray's own retries are off: a client's part of a round must not be done twice on the sly.
"""

import contextlib
import itertools
import os
import re
import socket
import sys
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedkd.errors import Interrupted, RunError, SettingError, StorageError
from fedkd.flower.job import (
    FIRST_CLIENT_NODE_ID,
    ClientPool,
    EngineRun,
    WorkerSpec,
    answer,
    client_context,
    client_of,
    failed,
)
from fedkd.flower.local_grid import message_identity, server_context
from fedkd.flower.placement import Slot, place, tiles
from fedkd.runtime.devices import deterministic
from fedkd.runtime.parallel import available_cores
from fedkd.settings.validators import at_least

START_SECONDS = 120.0
"""How long workers may take to start."""
POLL_SECONDS = 0.25
KNOCK_SECONDS = 10.0
MOST_STARTS = 3
"""Starts in a row that a worker may fail before any client of its own had the word."""


@dataclass(frozen=True, kw_only=True)
class Ray:
    """Clients in Ray actors: many cores, GPUs, a cluster."""

    workers: int | None = None
    """Actors that clients run in, >= 1; null is one for each core, or for each GPU. The result is
    the same for any."""
    address: str | None = None
    """A running cluster to attach to, HOST:PORT, or auto to find one on this machine; null starts
    Ray here."""
    gpus_per_client: Mapping[str, float] | None = None
    """Part of a GPU that a client takes, by model, as in {resnet: 0.5, mlp: 0.1}; parts must tile a
    GPU (1/n, or a whole number). null gives every worker the same part."""

    def __post_init__(self) -> None:
        if self.workers is not None:
            at_least(1, workers=self.workers)
        if self.gpus_per_client is not None:
            if not self.gpus_per_client:
                raise SettingError(
                    "gpus_per_client must name every model, as in {resnet: 0.5, mlp: 0.1}"
                )
            for model, share in self.gpus_per_client.items():
                try:
                    tiles(share)
                except SettingError as error:
                    raise SettingError(f"gpus_per_client.{model}: {error}") from error

    @property
    def here(self) -> bool:
        """False: clients run in processes of their own."""
        return False

    def describe(self) -> str:
        """Return the number of workers in words."""
        count = f"{self.workers} workers" if self.workers else "a worker for each core or GPU"
        return count if self.address is None else f"{count}, cluster at {self.address}"

    @contextmanager
    def session(self, architectures: Sequence[str] = (), device: str = "cpu") -> Iterator[None]:
        """Start Ray here, or attach to the cluster; at the end stop what was started, and only
        that.
        """
        import ray

        if ray.is_initialized():
            self._slots(architectures, [1.0] * len(architectures), device)
            yield
            return
        os.environ.setdefault(
            "RAY_worker_niceness", "0"
        )  # Ray's own 15 starves workers beside anything else
        quiet: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": "ERROR",
            "namespace": f"fedkd-{uuid.uuid4()}",
        }
        warnings.filterwarnings(
            "ignore", message=".*accelerator visible devices", category=FutureWarning
        )
        try:
            if self.address is not None:
                ray.init(address=_found(self.address), **quiet)
            else:
                ray.init(
                    address="local",
                    num_cpus=self.workers or available_cores(),
                    include_dashboard=False,
                    **quiet,
                )
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            where = (
                "start Ray on this machine"
                if self.address is None
                else f"reach a Ray cluster at {self.address}"
            )
            advice = "; start one there (ray start --head) and open its port, or leave address out to start Ray here"
            reason = " ".join(str(error).split())[:300]
            raise SettingError(
                f"engine.address: cannot {where}: {reason}{advice if self.address else ''}"
            ) from error
        try:
            self._slots(architectures, [1.0] * len(architectures), device)
            yield
        finally:
            ray.shutdown()

    def run(self, job: EngineRun) -> None:
        """Run a whole ServerApp over the job's clients."""
        session = self.session(job.architectures, job.device)
        with (
            session,
            message_identity(),
            deterministic(torch.device("cpu")),
            contextlib.ExitStack() as stack,
        ):
            _make(job.spec.states)
            grid = RayGrid(self._slots(job.architectures, job.cost(), job.device), job)
            stack.callback(grid.shut_down)
            grid.start()
            job.server_app(grid, server_context())

    def _slots(
        self, architectures: Sequence[str], costs: Sequence[float], device: str
    ) -> list[Slot]:
        """Return the workers to start. SettingError where the cluster does not have what they
        need.
        """
        import ray

        if not architectures:
            return []

        found: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        cores, gpus = int(found.get("CPU", 1)), int(found.get("GPU", 0))
        if self.workers is not None and self.workers > cores:
            raise SettingError(
                f"engine.workers={self.workers}, but the cluster has {cores} CPUs; use at most"
                f" {cores}"
            )
        if gpus == 0 and (device == "cuda" or self.gpus_per_client is not None):
            what = "device=cuda" if device == "cuda" else "engine.gpus_per_client"
            raise SettingError(
                f"{what}, but Ray finds no GPU; use device=cpu without engine.gpus_per_client"
            )
        wanted = gpus if device != "cpu" or self.gpus_per_client is not None else 0
        try:
            return place(
                architectures,
                costs,
                workers=self.workers,
                cores=cores,
                gpus=wanted,
                gpus_per_client=self.gpus_per_client,
            )
        except SettingError as error:
            raise SettingError(f"engine.{error}") from error


def _found(address: str) -> str:
    """Return the cluster's HOST:PORT. Raises OSError unless somebody listens there: Ray would try
    for minutes.
    """
    if "://" in address:
        return address
    if address == "auto":
        from ray._private.services import (
            canonicalize_bootstrap_address,
        )  # Ray offers no public way to ask

        found = canonicalize_bootstrap_address("auto")
        if found is None:
            raise ConnectionError(
                "none is running on this machine; start one, give HOST:PORT, or leave address out"
            )
        address = str(found)
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"expected HOST:PORT or auto, got {address}")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS):
        return address


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be made: {error.strerror}") from error


class Actor:
    """A worker process: the clients of one order. Ray makes an actor class of it."""

    def __init__(self, part: "JobPart", public_inputs: np.ndarray | None) -> None:
        """Hire the clients. ``public_inputs`` lies in Ray's object store, once for all actors of a
        machine.
        """
        sys.path.extend(path for path in part.paths if path not in sys.path)
        if not part.spec.states.is_dir():
            raise RunError(
                f"{part.spec.states} is not to be seen on {socket.gethostname()}; give a run_dir"
                " on a file system"
                " that every machine of the cluster sees"
            )
        self._crew: ClientPool = part.create_clients(
            replace(part.spec, public_inputs=public_inputs)
        )
        self._clients = part.clients

    def ready(self) -> int:
        """Return the process's id once the clients are there."""
        return os.getpid()

    def work(self, messages: list[Message]) -> Iterator[Message | RunError]:
        """Yield each client's reply, in the order of the messages, or what ends the run. Messages
        come grouped.
        """
        groups = (
            [[message] for message in messages]
            if self._crew.group is None
            else self._crew.group(messages, 1)
        )
        with message_identity():
            for together in groups:
                if self._crew.group is not None:
                    self._crew.prepare(together)
                for message in together:
                    context = client_context(client_of(message), self._clients)
                    try:
                        yield answer(self._crew.app, message, context)
                    except RunError as error:
                        yield error
                        return


@dataclass(frozen=True)
class JobPart:
    """What an actor is made from."""

    create_clients: Callable[[WorkerSpec], ClientPool]
    spec: WorkerSpec
    clients: int
    paths: tuple[str, ...]
    """Where Python finds modules in the driver, such as a user's own strategy."""


@dataclass(eq=False)
class Worker:
    """The driver's side of one worker. ``queue`` is what its process has not answered yet, in the
    order it was sent.
    """

    slot: Slot
    part: JobPart
    actor: Any = None
    queue: deque[Message] = field(default_factory=deque)
    stream: Any = None
    since: float = 0.0
    """When the client that has the word got it."""


class RayGrid(Grid):
    """A Grid whose nodes are clients in Ray actors: node ``i + 2`` is client ``i``."""

    def __init__(self, slots: list[Slot], job: EngineRun) -> None:
        import ray

        self._ray, self._job = ray, job
        public = job.spec.public_inputs
        self._placed = None if public is None else ray.put(public)
        spec = replace(job.spec, public_inputs=None)
        paths = tuple(path or str(Path.cwd()) for path in sys.path)
        self._workers = [
            Worker(
                slot,
                JobPart(job.create_clients, replace(spec, owned=slot.clients), job.clients, paths),
            )
            for slot in slots
        ]
        self._worker_of = {
            client_id: worker for worker in self._workers for client_id in worker.slot.clients
        }
        self._replies: dict[str, Message] = {}
        self._numbers = itertools.count(1)

    @property
    def workers(self) -> list[Worker]:
        """The workers."""
        return self._workers

    def start(self) -> None:
        """Start all workers and wait until they are ready. Raises RunError where they do not start
        in time.
        """
        for worker in self._workers:
            self._launch(worker)
        for worker in self._workers:
            self._await(worker)

    def shut_down(self) -> None:
        """End every worker's process."""
        for worker in self._workers:
            self._end(worker)

    def set_run(self, run: object) -> None:
        """Accept a run: there is only this one."""

    @property
    def run(self) -> object:  # type: ignore[override]
        """No run information: Flower's Run belongs to a SuperLink, and there is none."""
        raise RuntimeError("the ray engine has no SuperLink and so no run information")

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
        return [FIRST_CLIENT_NODE_ID + i for i in range(self._job.clients)]

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

        A client that is past the job's deadline and does not end by itself is ended with its
        worker's process.
        """
        return self._answers(messages)

    def _answers(self, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            self._worker_of[client_of(message)].queue.append(message)
        for worker in (
            self._workers
        ):  # in the order in which its process takes them, so that it is known who is next
            if self._job.client_pool.group is not None and worker.queue:
                groups = self._job.client_pool.group(list(worker.queue), 1)
                worker.queue = deque(message for together in groups for message in together)
        busy = [worker for worker in self._workers if worker.queue]
        for worker in busy:
            self._send(worker)
        while busy:
            if self._job.stop.is_set():
                raise Interrupted
            streams = {worker.stream: worker for worker in busy}
            ready, _ = self._ray.wait(
                list(streams), num_returns=len(streams), timeout=0, fetch_local=False
            )
            if not ready:
                ready, _ = self._ray.wait(list(streams), num_returns=1, timeout=POLL_SECONDS)
            for stream in ready:
                reply = self._take(streams[stream])
                if reply is not None:
                    yield self._reported(reply)
            for worker in busy:
                if (
                    worker.stream is not None
                    and worker not in map(streams.get, ready)
                    and self._is_hanging(worker)
                ):
                    yield self._reported(
                        self._fail(worker, f"missed the deadline of {self._job.deadline:g} s")
                    )
            busy = [worker for worker in busy if worker.queue]

    def _reported(self, reply: Message) -> Message:
        self._job.on_reply(reply)
        return reply

    def _send(self, worker: Worker) -> None:
        """Hand a worker all that is left of its queue, in one call."""
        worker.stream = worker.actor.work.options(num_returns="streaming").remote(
            list(worker.queue)
        )
        worker.since = time.monotonic()

    def _take(self, worker: Worker) -> Message | None:
        """Return the next reply of a worker; a failed one where its process ended; None where it
        has no more.
        """
        try:
            reply = self._ray.get(next(worker.stream))
        except StopIteration:
            return (
                None
                if not worker.queue
                else self._fail(worker, "its worker ended without an answer")
            )
        except self._ray.exceptions.RayError as error:
            return self._fail(worker, _cause(error))
        if isinstance(reply, RunError):
            raise reply
        worker.queue.popleft()
        worker.since = time.monotonic()
        return reply  # type: ignore[no-any-return]

    def _is_hanging(self, worker: Worker) -> bool:
        """Return whether the client that has the word did not end by itself after its deadline,
        with some patience.
        """
        deadline = self._job.deadline
        return deadline is not None and time.monotonic() - worker.since > 1.5 * deadline + 1.0

    def _fail(self, worker: Worker, reason: str) -> Message:
        """Return the failure of the client that had the word, and let a new process go on with the
        others.
        """
        self._end(worker)
        message = worker.queue.popleft()
        self._launch(worker)
        self._await(worker)
        if worker.queue:
            self._send(worker)
        return failed(message, reason)

    def _launch(self, worker: Worker) -> None:
        options: dict[str, Any] = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0}
        if worker.slot.gpus:
            options["num_gpus"] = float(worker.slot.gpus)
        worker.actor = self._ray.remote(Actor).options(**options).remote(worker.part, self._placed)

    def _await(self, worker: Worker) -> None:
        """Wait until a worker's clients are there; start it again if its process ended before
        that.
        """
        for _ in range(MOST_STARTS):
            try:
                self._ray.get(worker.actor.ready.remote(), timeout=START_SECONDS)
                return
            except self._ray.exceptions.GetTimeoutError as error:
                left = self._ray.available_resources()  # type: ignore[no-untyped-call]
                raise RunError(
                    f"a Ray worker did not start within {START_SECONDS:.0f} s: it needs 1 CPU and"
                    f" {float(worker.slot.gpus):g} GPUs, and the cluster has left {left}"
                ) from error
            except self._ray.exceptions.RayError as error:
                raised = [
                    line
                    for line in str(error).splitlines()
                    if re.match(r"[\w.]+(Error|Exception): ", line)
                ]
                if raised:  # it would raise again
                    raise RunError(f"a Ray worker cannot start: {raised[-1]}") from error
                reason = _cause(error)
                self._launch(worker)
        raise RunError(f"a Ray worker cannot start: {reason}")

    def _end(self, worker: Worker) -> None:
        if worker.actor is not None:
            with contextlib.suppress(Exception):  # it may be gone already, and Ray with it
                self._ray.kill(worker.actor)
        worker.actor = worker.stream = None


def _cause(error: BaseException) -> str:
    """Return why a worker ended, in a line."""
    if "low on memory" in str(error) or type(error).__name__ == "OutOfMemoryError":
        return "its worker was ended because the machine ran low on memory"
    return f"its worker's process ended ({type(error).__name__})"
