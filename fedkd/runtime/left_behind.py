"""Threads and child processes that clients leave behind: named, and never waited for without end.

Not for: temporary folders that killed processes left (``fedkd.storage.leftovers``).
"""

import os
import sys
import threading
import time
from concurrent.futures import thread as executors
from pathlib import Path
from typing import NoReturn

from fedkd.runtime.standard_streams import flush_output, notice

PATIENCE_SECONDS = 5.0
"""How long a process waits for its threads at its end."""
SHOWN = 5


class Surroundings:
    """Remembers which threads and child processes there were, to tell those that came since."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._children = set(children())

    def new_threads(self) -> list[str]:
        """Return the names of the threads since then that would keep the process from ending."""
        pooled = getattr(executors, "_threads_queues", {})  # those end when their pool does
        return [
            thread.name
            for thread in lasting_threads()
            if thread not in self._threads and thread not in pooled
        ]

    def new_children(self) -> dict[int, str]:
        """Return the command lines of the child processes since then, by process id."""
        return {pid: said for pid, said in children().items() if pid not in self._children}

    def tell_what_is_new(self) -> None:
        """Write a line about what was left behind, if anything was."""
        threads, processes = self.new_threads(), self.new_children()
        if threads:
            notice(f"clients left {_counted(len(threads), 'thread')}: {_listed(threads)}")
        if processes:
            named = _listed([f"{pid} ({said})" for pid, said in processes.items()])
            notice(f"clients left {_counted(len(processes), 'process', 'es')}, not ended: {named}")


def lasting_threads() -> list[threading.Thread]:
    """Return the threads that Python waits for before the process ends."""
    return [
        thread
        for thread in threading.enumerate()
        if not thread.daemon and thread is not threading.main_thread()
    ]


def children() -> dict[int, str]:
    """Return the command lines of this process's living children, by process id.

    Empty where the system has no /proc.
    """
    found = {}
    for folder in _possible_children():
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            said = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if int(parent) == os.getpid() and state != "Z":
            found[int(folder.name)] = "".join(c if c.isprintable() else "?" for c in said[:80])
    return found


def _possible_children() -> list[Path]:
    """Return the folders in /proc of the children that the kernel lists, or of all processes.

    Not every kernel lists them by thread; to look at all processes takes a tenth of a short run.
    """
    try:
        lists = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    except OSError:  # a thread has ended
        lists = []
    if lists:
        return [Path("/proc", pid) for listed in lists for pid in listed.split()]
    return list(Path("/proc").glob("[0-9]*"))


def end(status: int) -> NoReturn:
    """End the process with a status, a few seconds later at most if threads do not end."""
    watch = threading.Thread(target=_end_anyway, args=(status,), name="fedkd-end", daemon=True)
    watch.start()
    sys.exit(status)


def _end_anyway(status: int) -> None:
    """End the process without the threads that it waits for."""
    time.sleep(PATIENCE_SECONDS)
    while not (left := [thread.name for thread in lasting_threads()]):
        time.sleep(1.0)  # something else takes its time
    notice(
        f"{_counted(len(left), 'thread')} of clients did not end in {PATIENCE_SECONDS:g} s, and the"
        f" process ends without: {_listed(left)}"
    )
    flush_output()
    os._exit(status)


def _counted(count: int, one: str, plural: str = "s") -> str:
    return f"{count} {one}{plural if count > 1 else ''}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
