"""Runs in processes of their own, several at a time: begun, gone on with or left alone, as their
folders say.

A process takes one run after the other, so that libraries are loaded once. A run that fails, or
that takes its process with it, is reported and is nobody else's trouble. What a run prints goes
into a ``.log`` beside its folder.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fedkd.errors import FedkdError
from fedkd.experiment.run_or_resume import ensure, is_complete
from fedkd.scenario.scenario import Scenario

PATIENCE = 20.0
"""Seconds that interrupted runs have to write what is finished."""


@dataclass(frozen=True)
class Task:
    """A run that should be in a folder."""

    name: str
    scenario: Scenario
    folder: Path

    @property
    def log(self) -> Path:
        """The file that takes what the run prints."""
        return self.folder.with_name(f"{self.folder.name}.log")


@dataclass(frozen=True)
class Outcome:
    """How a task ended; ``error`` is empty where its run is complete."""

    task: Task
    error: str = ""


def search_here() -> None:
    """Let import paths name modules in the current folder, as `python -m fedkd.simulate` does.

    Behind everything else: no file of a user's takes the place of a script's own module.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def is_done(task: Task) -> bool:
    """Return whether a task's run is complete. Raises SettingError where its folder holds another
    run.
    """
    return is_complete(task.scenario, task.folder)


def carry_out(task: Task) -> None:
    """Run a task, or go on with what is in its folder from its last checkpoint. Raises
    FedkdError.
    """
    ensure(task.scenario, task.folder)


def run_all(
    tasks: Sequence[Task], jobs: int, on_end: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Carry out tasks in ``jobs`` processes and return their outcomes as they end.

    On KeyboardInterrupt the runs are interrupted in their turn, and write what is finished, before
    it is raised again.
    """
    waiting, outcomes = deque(tasks), list[Outcome]()
    workers = [_Worker() for _ in range(min(jobs, len(tasks)))]
    try:
        for worker in workers:
            worker.take(waiting.popleft())
        while any(worker.task is not None for worker in workers):
            ready = wait([worker.connection for worker in workers if worker.task is not None])
            for worker in [worker for worker in workers if worker.connection in ready]:
                outcomes.append(worker.outcome())
                on_end(outcomes[-1])
                if not worker.lives() and waiting:
                    workers[workers.index(worker)] = worker = _Worker()
                if waiting:
                    worker.take(waiting.popleft())
    finally:
        for worker in workers:
            worker.end()
        for worker in workers:
            worker.bury()
    return outcomes


@dataclass
class _Worker:
    """A process that carries out one task after the other. It does not hear Ctrl-C; whoever started
    it tells it.
    """

    task: Task | None = None
    connection: Connection = field(init=False)
    _process: Any = field(init=False)

    def __post_init__(self) -> None:
        context = multiprocessing.get_context(
            "spawn"
        )  # a fork would share torch's threads and locks
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), daemon=True)
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # until it has a session of its own
        try:
            self._process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        theirs.close()

    def take(self, task: Task) -> None:
        self.task = task
        try:
            self.connection.send((task.name, task.scenario.to_dict(), str(task.folder)))
        except OSError:  # it has died; outcome() says so
            return

    def outcome(self) -> Outcome:
        """Return how the task ended, which is known once something came, or the connection has
        ended.
        """
        task, self.task = self.task, None
        assert task is not None
        try:
            return Outcome(task, self.connection.recv())
        except (EOFError, OSError):
            self._process.join(PATIENCE)
            code = self._process.exitcode
            how = f"by signal {-code}" if code is not None and code < 0 else f"with status {code}"
            return Outcome(task, f"its process ended {how}; see {task.log}")

    def lives(self) -> bool:
        return bool(self._process.is_alive())

    def end(self) -> None:
        """Ask the process to end: a run that goes on is interrupted."""
        if self.task is not None and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGINT)
        self.connection.close()

    def bury(self) -> None:
        """Wait for the process to end, and end it if it does not."""
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _work(connection: Connection) -> None:
    """Carry out what comes until nothing comes any more."""
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        while True:
            name, plain, folder = connection.recv()
            if (
                connection.poll()
            ):  # nothing but its end can have come behind the task: it is no longer wanted
                return
            connection.send(_attempt(Task(name, Scenario.parse(plain), Path(folder))))
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _attempt(task: Task) -> str:
    """Carry out a task and return what went wrong, in a line; a traceback goes into the log."""
    kept = [os.dup(1), os.dup(2)]
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            carry_out(task)
            return ""
        except FedkdError as error:
            return str(error)
        except Exception as error:  # whatever it is, the other runs go on
            traceback.print_exc()
            return f"{type(error).__name__}: {error}; see {task.log}"
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for round_number, old in enumerate(kept, start=1):
                os.dup2(old, round_number)
                os.close(old)


def with_threads(scenario: Scenario, threads: int) -> Scenario:
    """Return a scenario whose clients run in so many threads, where the local engine is left to
    choose.
    """
    engine = scenario.engine
    if engine.name == "local" and engine.fields["workers"] is None:
        value = replace(engine.value, workers=threads)
        engine = replace(engine, fields={**engine.fields, "workers": threads}, value=value)
    return scenario.changed(engine=engine)
