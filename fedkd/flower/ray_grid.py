"""The Ray engine: clients in Ray actors, on the cores and GPUs of one or many machines.

A client stays with its worker, so that its model does not travel: a worker gets the messages of all
of its clients in one call and sends each reply back as it is ready. Workers write their clients'
states to the run's folder too, so that a worker that ends is replaced by one that goes on from
there. The client at work when it ended has failed in this round; the worker's other clients are
asked again.

Ray's own retries are off: they would do a client's part of a round twice without a record of it.
"""

import contextlib
import os
import re
import socket
import sys
import threading
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from flwr.app import Message

from fedkd.errors import FedkdError, Interrupted, RunError, SettingError, StorageError
from fedkd.flower.engine_grid import EngineGrid, message_identity, server_context
from fedkd.flower.engine_run import (
    ClientPool,
    EngineRun,
    WorkerSpec,
    answer,
    client_context,
    client_of,
    failed,
)
from fedkd.flower.placement import Slot, assign_workers, tiles
from fedkd.flower.ray_processes import claim_session, end_abandoned, shut_down, started_by_us
from fedkd.runtime.devices import deterministic
from fedkd.runtime.parallel import available_cores
from fedkd.settings.optional_libraries import require
from fedkd.settings.validators import at_least

T = TypeVar("T")

START_SECONDS = 120.0
"""How long workers may take to start."""
POLL_SECONDS = 0.25
CONNECT_SECONDS = 10.0
MOST_STARTS = 3
"""How often a worker may crash during start-up before the run fails."""


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
        """Start Ray here, or attach to the cluster; at the end stop what was started."""
        require("ray", "engine=ray")
        with started_by_us():  # it looks at signals when it is imported, too
            import ray

        costs = [1.0] * len(architectures)
        if ray.is_initialized():
            self._slots(architectures, costs, device)
            yield
            return
        end_abandoned()
        with started_by_us():
            self._connect()
        try:
            self._slots(architectures, costs, device)
            yield
        finally:
            shut_down(ray.shutdown)

    def run(self, engine_run: EngineRun) -> None:
        """Run a ServerApp to its end over the run's clients."""
        session = self.session(engine_run.architectures, engine_run.device)
        with (
            session,
            message_identity(),
            deterministic(torch.device("cpu")),
            contextlib.ExitStack() as stack,
        ):
            _make_folder(engine_run.spec.states)
            slots = self._slots(
                engine_run.architectures,
                engine_run.cost(),
                engine_run.device,
                engine_run.together,
            )
            grid = RayGrid(slots, engine_run)
            stack.callback(grid.shut_down)
            grid.start()
            engine_run.server_app(grid, server_context())

    def ask_worker(
        self,
        call: Callable[[WorkerSpec], T],
        spec: WorkerSpec,
        architectures: Sequence[str],
        device: str,
    ) -> T | None:
        """Return what a function finds in a process with a worker's part of a GPU.

        None where no worker will have one. Raises RunError where the function fails there.

        Args:
            call: The function; the process finds it by its name.
            spec: What it is called with.
            architectures: By client id.
            device: The setting.
        """
        import ray

        slots = self._slots(architectures, [1.0] * len(architectures), device)
        share = max((slot.gpus for slot in slots), default=Fraction(0))
        if device == "cpu" or not share:
            return None
        task: Any = ray.remote(_called).options(num_cpus=1, num_gpus=float(share), max_retries=0)
        try:
            found: T = ray.get(task.remote(_paths(), call, spec), timeout=START_SECONDS)
        except ray.exceptions.GetTimeoutError as error:
            raise RunError(
                f"no process of Ray with {float(share):g} of a GPU answered within"
                f" {START_SECONDS:.0f} s"
            ) from error
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, FedkdError):
                raise cause from error
            said = _raised(error) or _cause(error)
            raise RunError(f"a Ray worker cannot start: {said}") from error
        return found

    def _connect(self) -> None:
        """Start Ray, or attach to the cluster. Raises SettingError where that cannot be done."""
        import ray

        # Ray's own 15 starves workers on a machine that does anything else.
        os.environ.setdefault("RAY_worker_niceness", "0")
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
                ray.init(address=_checked_address(self.address), **quiet)
            else:
                cores = self.workers or available_cores()
                started: Any = ray.init(
                    address="local", num_cpus=cores, include_dashboard=False, **quiet
                )
                claim_session(Path(started.address_info["session_dir"]))
        except Exception as error:  # where a machine is too busy, Ray raises no other kind
            reason = " ".join(str(error).split())[:300]
            if self.address is None:
                failure = f"cannot start Ray on this machine: {reason}"
            else:
                failure = (
                    f"cannot reach a Ray cluster at {self.address}: {reason}; start one there"
                    " (ray start --head) and open its port, or leave address out to start Ray here"
                )
            raise SettingError(f"engine.address: {failure}") from error

    def _slots(
        self,
        architectures: Sequence[str],
        costs: Sequence[float],
        device: str,
        together: Sequence[tuple[int, ...]] = (),
    ) -> list[Slot]:
        """Return the workers to start. Raises SettingError where the cluster is too small.

        Args:
            architectures: By client id.
            costs: Seconds of a round, by client id.
            device: The setting.
            together: Clients that must have one worker.
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
            return assign_workers(
                architectures,
                costs,
                workers=self.workers,
                cores=cores,
                gpus=wanted,
                gpus_per_client=self.gpus_per_client,
                together=together,
            )
        except SettingError as error:
            raise SettingError(f"engine.{error}") from error


def _checked_address(address: str) -> str:
    """Return the cluster's HOST:PORT. Raises OSError unless somebody listens there.

    Ray itself would try for minutes.
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
    with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS):
        return address


def _paths() -> tuple[str, ...]:
    """Return where Python finds modules here, such as a user's own strategy."""
    return tuple(path or str(Path.cwd()) for path in sys.path)


def _called(paths: Sequence[str], call: Callable[[WorkerSpec], T], spec: WorkerSpec) -> T:
    """Call a function in a process of Ray's."""
    sys.path.extend(path for path in paths if path not in sys.path)
    return call(spec)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be made: {error.strerror}") from error


@dataclass(frozen=True)
class ActorSpec:
    """What an actor is made from."""

    create_clients: Callable[[WorkerSpec], ClientPool]
    spec: WorkerSpec
    clients: int
    """K, of the whole run."""
    paths: tuple[str, ...]
    """Where Python finds modules in the driver, such as a user's own strategy."""


class Actor:
    """A worker process with its clients. Ray makes an actor class of it."""

    def __init__(self, actor_spec: ActorSpec, public_inputs: np.ndarray | None) -> None:
        """Create the clients.

        ``public_inputs`` lies in Ray's object store, once for all actors of a machine.
        """
        sys.path.extend(path for path in actor_spec.paths if path not in sys.path)
        spec = actor_spec.spec
        if not spec.states.is_dir():
            raise RunError(
                f"{spec.states} is not to be seen on {socket.gethostname()}; give a run_dir"
                " on a file system"
                " that every machine of the cluster sees"
            )
        self._client_pool = actor_spec.create_clients(replace(spec, public_inputs=public_inputs))
        self._clients = actor_spec.clients
        self._stop = threading.Event()  # is never set: this process is ended instead

    def ready(self) -> int:
        """Return the process's id once the clients are there."""
        return os.getpid()

    def work(self, messages: list[Message]) -> Iterator[Message | RunError]:
        """Yield each client's reply, or the error that ends the run.

        Replies come in the sequence of the messages, which come grouped.
        """
        pool = self._client_pool
        groups = [[message] for message in messages]
        if pool.group is not None:
            groups = pool.group(messages, 1)
        with message_identity():
            for together in groups:
                if pool.group is not None:
                    pool.prepare(together)
                for message in together:
                    context = client_context(client_of(message), self._clients)
                    try:
                        yield answer(pool.app, message, context, self._stop)
                    except RunError as error:
                        yield error
                        return


@dataclass(eq=False)
class Worker:
    """The driver's side of one worker.

    ``queue`` holds the messages that its process has not answered yet, in the sequence in which it
    takes them.
    """

    slot: Slot
    actor_spec: ActorSpec
    actor: Any = None
    queue: deque[Message] = field(default_factory=deque)
    stream: Any = None
    since: float = 0.0
    """When the client that is at work began."""


class RayGrid(EngineGrid):
    """A Grid whose nodes are clients in Ray actors."""

    def __init__(self, slots: list[Slot], engine_run: EngineRun) -> None:
        import ray

        super().__init__(engine_run.clients)
        self._ray, self._run = ray, engine_run
        public = engine_run.spec.public_inputs
        self._public_inputs = None if public is None else ray.put(public)
        spec = replace(engine_run.spec, public_inputs=None)
        paths = _paths()
        self.workers = [
            Worker(
                slot,
                ActorSpec(
                    engine_run.create_clients,
                    # Ray hides its GPUs from a process that has no part of one.
                    replace(spec, owned=slot.clients, device="" if slot.gpus else "cpu"),
                    engine_run.clients,
                    paths,
                ),
            )
            for slot in slots
        ]
        self._worker_of = {
            client_id: worker for worker in self.workers for client_id in worker.slot.clients
        }

    def start(self) -> None:
        """Start all workers. Raises RunError where they are not ready in time."""
        for worker in self.workers:
            self._launch(worker)
        for worker in self.workers:
            self._await(worker)

    def shut_down(self) -> None:
        """End every worker's process."""
        for worker in self.workers:
            self._end(worker)

    def answers(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Yield the replies as they are ready.

        A client that is past the run's deadline and does not end by itself is ended with its
        worker's process.
        """
        self._enqueue(messages)
        busy = [worker for worker in self.workers if worker.queue]
        for worker in busy:
            self._send(worker)
        while busy:
            if self._run.stop.is_set():
                raise Interrupted
            ready = self._ready(busy)
            replies = [reply for worker in ready if (reply := self._take(worker)) is not None]
            late = [w for w in busy if w not in ready and self._is_hanging(w)]
            reason = f"missed the deadline of {self._run.deadline or 0:g} s"
            replies += [self._fail(worker, reason) for worker in late]
            for reply in replies:
                self._run.on_reply(reply)
                yield reply
            busy = [worker for worker in busy if worker.queue]

    def _enqueue(self, messages: Iterable[Message]) -> None:
        """Queue messages with their workers, in the sequence in which their processes take them.

        So it is known which client is at work.
        """
        for message in messages:
            self._worker_of[client_of(message)].queue.append(message)
        group = self._run.client_pool.group
        for worker in self.workers:
            if group is not None and worker.queue:
                groups = group(list(worker.queue), 1)
                worker.queue = deque(message for together in groups for message in together)

    def _ready(self, busy: Sequence[Worker]) -> list[Worker]:
        """Return the workers that have a reply; wait a little for one if none has."""
        workers = {worker.stream: worker for worker in busy}
        streams = list(workers)
        ready, _ = self._ray.wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)
        if not ready:
            ready, _ = self._ray.wait(streams, num_returns=1, timeout=POLL_SECONDS)
        return [workers[stream] for stream in ready]

    def _send(self, worker: Worker) -> None:
        """Hand a worker all that is left of its queue, in one call."""
        work = worker.actor.work.options(num_returns="streaming")
        worker.stream = work.remote(list(worker.queue))
        worker.since = time.monotonic()

    def _take(self, worker: Worker) -> Message | None:
        """Return the next reply of a worker; a failed one where its process ended.

        None where it has no more.
        """
        try:
            reply = self._ray.get(next(worker.stream))
        except StopIteration:
            if not worker.queue:
                return None
            return self._fail(worker, "its worker ended without an answer")
        except self._ray.exceptions.RayError as error:
            return self._fail(worker, _cause(error))
        if isinstance(reply, RunError):
            raise reply
        worker.queue.popleft()
        worker.since = time.monotonic()
        return reply  # type: ignore[no-any-return]

    def _is_hanging(self, worker: Worker) -> bool:
        """Return whether a worker's client did not end by itself soon after its deadline."""
        deadline = self._run.deadline
        if deadline is None or worker.stream is None:
            return False
        return time.monotonic() - worker.since > 1.5 * deadline + 1.0

    def _fail(self, worker: Worker, reason: str) -> Message:
        """Return the failure of the client at work; a new process goes on with the others."""
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
        actor_class = self._ray.remote(Actor).options(**options)
        worker.actor = actor_class.remote(worker.actor_spec, self._public_inputs)

    def _await(self, worker: Worker) -> None:
        """Wait until a worker's clients are there; start it again if its process ended before."""
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
                if raised := _raised(error):  # it would raise again
                    raise RunError(f"a Ray worker cannot start: {raised}") from error
                reason = _cause(error)
                self._launch(worker)
        raise RunError(f"a Ray worker cannot start: {reason}")

    def _end(self, worker: Worker) -> None:
        if worker.actor is not None:
            with contextlib.suppress(Exception):  # it may be gone already, and Ray with it
                self._ray.kill(worker.actor)
        worker.actor = worker.stream = None


def _raised(error: BaseException) -> str | None:
    """Return the last exception that a process raised, in a line; None where it said nothing."""
    lines = str(error).splitlines()
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
    return raised[-1] if raised else None


def _cause(error: BaseException) -> str:
    """Return why a worker ended, in a line."""
    if "low on memory" in str(error) or type(error).__name__ == "OutOfMemoryError":
        return "its worker was ended because the machine ran low on memory"
    return f"its worker's process ended ({type(error).__name__})"
