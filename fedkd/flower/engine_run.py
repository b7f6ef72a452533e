"""What an engine is, and what it is given to run.

An engine knows Flower's apps, messages and client ids; it knows nothing of models, strategies or
scenarios. Clients in this process come as a ``ClientPool``; other processes make theirs from a
``WorkerSpec``, which travels there.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedkd.errors import RunError, one_line

RUN_ID = 1
SERVER_NODE_ID = 1
FIRST_CLIENT_NODE_ID = 2
CLIENT_RAISED = 2  # Flower's error code for an exception in a ClientApp

T = TypeVar("T")
OnReply = Callable[[Message], None]
Groups = list[list[Message]]


@dataclass(frozen=True)
class ClientPool:
    """The clients of one process: Flower's app, and preparation of several of them at once.

    ``group`` puts messages in groups, given how many groups are worked on at once; ``prepare`` is
    called once for each group before the app is called for each of its messages. Where ``group`` is
    None, every message is worked on alone.
    """

    app: ClientApp
    group: Callable[[Sequence[Message], int], Groups] | None = None
    prepare: Callable[[Sequence[Message]], None] = lambda _: None


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """What another process needs to create its clients: values that travel."""

    scenario: str
    """The scenario's text."""
    states: Path
    """The folder of client states; every worker must see it."""
    history: bool
    """Whether states of earlier rounds are stored too, for checkpoints."""
    owned: tuple[int, ...] = ()
    """The clients of the process."""
    device: str = ""
    """Where models compute there; empty leaves it to the scenario."""
    fixed_batches: bool = False
    """Whether who is trained together is a function of all clients' sizes alone."""
    public_inputs: np.ndarray | None = field(default=None, repr=False)
    """The public set as model inputs, in memory once for all processes of a machine."""


@dataclass(frozen=True, kw_only=True)
class EngineRun:
    """One run of a federation."""

    server_app: ServerApp
    client_pool: ClientPool
    """The clients, for an engine that runs them in this process."""
    create_clients: Callable[[WorkerSpec], ClientPool]
    """Creates the clients of another process; found there by its name."""
    spec: WorkerSpec
    architectures: tuple[str, ...]
    """By client id."""
    cost: Callable[[], Sequence[float]]
    """Measures what a round costs each client, in seconds, by client id."""
    device: str
    """cpu, cuda, or auto."""
    deadline: float | None
    """Seconds that a client may take for a message."""
    stop: threading.Event
    """Set when clients must end early."""
    on_reply: OnReply
    together: tuple[tuple[int, ...], ...] = ()
    """Clients that must be in one process, since they are trained together."""

    @property
    def clients(self) -> int:
        """K."""
        return len(self.architectures)


@runtime_checkable
class Engine(Protocol):
    """Where clients run. The result does not depend on it."""

    @property
    def here(self) -> bool:
        """Whether clients run in this process."""

    def describe(self) -> str:
        """Return the engine's size in words."""

    def session(self, architectures: Sequence[str], device: str) -> AbstractContextManager[None]:
        """Hold what several runs in a row share, such as a connection.

        Raises SettingError where it cannot be had, or cannot run clients of these architectures on
        this device.
        """

    def run(self, engine_run: EngineRun) -> None:
        """Run a ServerApp to its end over the run's clients, within a session."""


def ask_worker(
    engine: Engine,
    call: Callable[[WorkerSpec], T],
    spec: WorkerSpec,
    architectures: Sequence[str],
    device: str,
) -> T | None:
    """Return what a function finds in a process with a GPU where clients will run; None without.

    An engine may have a method ``ask_worker(call, spec, architectures, device)``.

    Args:
        engine: The engine, within a session.
        call: The function; another process finds it by its name.
        spec: What it is called with.
        architectures: By client id.
        device: The setting.
    """
    ask: Callable[..., T | None] | None = getattr(engine, "ask_worker", None)
    return None if ask is None else ask(call, spec, architectures, device)


def on_device(engine: Engine, device: torch.device) -> Engine:
    """Return an engine as it runs where models compute on a device.

    One may have a method ``on(device)`` that says; others run alike on all.
    """
    on: Callable[[torch.device], Engine] | None = getattr(engine, "on", None)
    return engine if on is None else on(device)


def client_context(client_id: int, clients: int) -> Context:
    """Return a client's Flower context; its node id is ``client_id + 2``."""
    node_id = FIRST_CLIENT_NODE_ID + client_id
    return Context(
        RUN_ID, node_id, {"partition-id": client_id, "num-partitions": clients}, RecordDict(), {}
    )


def client_of(message: Message) -> int:
    """Return the client that a message is for."""
    return message.metadata.dst_node_id - FIRST_CLIENT_NODE_ID


def answer(app: ClientApp, message: Message, context: Context, stop: threading.Event) -> Message:
    """Return a client's reply, or its exception as Flower reports one.

    A client never ends the run, whatever it raises: SystemExit and KeyboardInterrupt too. What is
    no fault of the client's (the disk is full, a state cannot be read) does: RunError passes. So
    does any exception once ``stop`` is set, as a real Ctrl-C does by its signal.

    Args:
        app: The clients.
        message: What one of them is asked.
        context: The client's.
        stop: Set when the run is interrupted.
    """
    try:
        return app(message, context)
    except RunError:
        raise
    except BaseException as error:
        if stop.is_set():
            raise
        return failed(message, one_line(error))


def failed(message: Message, reason: str) -> Message:
    """Return a reply that reports a failed client."""
    return Message(Error(CLIENT_RAISED, reason), reply_to=message)
