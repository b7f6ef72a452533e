"""Parallel execution of runs in worker processes: each is started, resumed, or left as it is.

A process executes one run after the other, so that libraries are loaded once. A run that fails, or
crashes its process, is reported and does not affect the others. A run's output goes to a ``.log``
file next to its folder.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fedkd.errors import FedkdError
from fedkd.experiment.run_or_resume import ensure, is_complete
from fedkd.flower.local_grid import Local
from fedkd.runtime.interrupts import AFTER_ROUND, asked_to_end, end_if_asked, interruptible
from fedkd.scenario.scenario import Scenario

EVERY = 1.0
"""Seconds from one look at whether the runs are to end to the next."""
PATIENCE = 20.0
"""Seconds that interrupted runs have to write their finished rounds."""


@dataclass(frozen=True)
class RunTask:
    """A scenario to run, and the folder of its run."""

    name: str
    scenario: Scenario
    folder: Path

    @property
    def log(self) -> Path:
        """The file of the run's output."""
        return self.folder.with_name(f"{self.folder.name}.log")


@dataclass(frozen=True)
class Outcome:
    """The end of a task."""

    task: RunTask
    error: str = ""
    """Empty if the run is complete."""


def is_done(task: RunTask) -> bool:
    """Return whether a task's run is complete. Raises SettingError if its folder holds another."""
    return is_complete(task.scenario, task.folder)


def carry_out(task: RunTask) -> None:
    """Run a task, or resume the run in its folder from its last checkpoint. Raises FedkdError."""
    ensure(task.scenario, task.folder)


def run_all(
    tasks: Sequence[RunTask], jobs: int, on_end: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Carry out tasks in ``jobs`` processes, and return their outcomes in the order of their ends.

    ``on_end`` is called with each outcome. On KeyboardInterrupt, and the signals that are one, the
    runs are interrupted too, and write their finished rounds, before it is raised again. SIGUSR1
    lets each run end the round that it is at.
    """
    with interruptible(threading.Event()):
        outcomes = _run_all(tasks, jobs, on_end)
        end_if_asked()
    return outcomes


def _run_all(
    tasks: Sequence[RunTask], jobs: int, on_end: Callable[[Outcome], None]
) -> list[Outcome]:
    waiting, outcomes = deque(tasks), list[Outcome]()
    workers = [_Worker() for _ in range(min(jobs, len(tasks)))]
    try:
        for worker in workers:
            worker.take(waiting.popleft())
        while any(worker.task is not None for worker in workers):
            at_work = [worker.connection for worker in workers if worker.task is not None]
            ready = wait(at_work, timeout=EVERY)
            if asked_to_end():
                waiting.clear()
                for worker in workers:
                    worker.end_after_round()
            for worker in [worker for worker in workers if worker.connection in ready]:
                outcomes.append(worker.outcome())
                on_end(outcomes[-1])
                if not worker.is_alive() and waiting:
                    workers[workers.index(worker)] = worker = _Worker()
                if waiting:
                    worker.take(waiting.popleft())
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()
    return outcomes


@dataclass
class _Worker:
    """A process that carries out one task after the other.

    Ctrl-C does not reach it; the parent process interrupts it.
    """

    task: RunTask | None = None
    is_asked: bool = False
    """Whether it has been asked to end after the round at work."""
    connection: Connection = field(init=False)
    _process: Any = field(init=False)

    def __post_init__(self) -> None:
        # A forked process would share torch's threads and locks.
        context = multiprocessing.get_context("spawn")
        self.connection, other_end = context.Pipe()
        self._process = context.Process(target=_work, args=(other_end,), daemon=True)
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # until it has a session of its own
        try:
            self._process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        other_end.close()

    def take(self, task: RunTask) -> None:
        """Start a task."""
        self.task = task
        try:
            self.connection.send((task.name, task.scenario.to_dict(), str(task.folder)))
        except OSError:  # it has died; outcome() says so
            return

    def outcome(self) -> Outcome:
        """Return the outcome of the task, once the connection is ready to read or closed."""
        task, self.task = self.task, None
        assert task is not None
        try:
            return Outcome(task, self.connection.recv())
        except (EOFError, OSError):
            if self.is_asked or asked_to_end():
                return Outcome(task, "it was asked to end after its round, and can go on")
            self._process.join(PATIENCE)
            code = self._process.exitcode
            by = f"by signal {-code}" if code is not None and code < 0 else f"with status {code}"
            return Outcome(task, f"its process ended {by}; see {task.log}")

    def is_alive(self) -> bool:
        """Return whether the process is running."""
        return bool(self._process.is_alive())

    def end_after_round(self) -> None:
        """Pass SIGUSR1 on, once."""
        if self.task is None or self.is_asked or AFTER_ROUND is None or not self.is_alive():
            return
        self.is_asked = True
        os.kill(self._process.pid, AFTER_ROUND)

    def stop(self) -> None:
        """Ask the process to end, interrupting its run."""
        if self.task is not None and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGINT)
        self.connection.close()

    def join(self) -> None:
        """Wait for the process to end, and kill it if it does not."""
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _work(connection: Connection) -> None:
    """Carry out the tasks that arrive until the connection closes."""
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with interruptible(threading.Event()):
            while True:
                name, values, folder = connection.recv()
                if connection.poll():  # the connection is closed: the task was cancelled
                    return
                connection.send(_attempt(RunTask(name, Scenario.parse(values), Path(folder))))
                end_if_asked()
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _attempt(task: RunTask) -> str:
    """Carry out a task, and return its error in one line, or ""; the log takes a traceback."""
    standard_streams = [os.dup(1), os.dup(2)]
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            carry_out(task)
            return ""
        except FedkdError as error:
            return str(error)
        except Exception as error:  # the other runs continue
            traceback.print_exc()
            return f"{type(error).__name__}: {error}; see {task.log}"
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in enumerate(standard_streams, start=1):
                os.dup2(original, descriptor)
                os.close(original)


def with_threads(scenario: Scenario, threads: int) -> Scenario:
    """Return a scenario with ``threads`` workers, if it leaves the local engine's to be chosen."""
    engine = scenario.engine
    if isinstance(engine.value, Local) and engine.value.workers is None:
        value = replace(engine.value, workers=threads)
        engine = replace(engine, fields={**engine.fields, "workers": threads}, value=value)
    return scenario.changed(engine=engine)
