"""How the benchmarks measure: CPU seconds, peak memory, whole trees of processes, and tables of
figures with targets.

Trees are read from /proc, as on Linux only.
"""

import os
import platform
import queue
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from fedkd.runtime.parallel import available_cores

SCRIPTS = Path(__file__).parent
MARK = "mark: "
"""Begins a line by which a measured process says how far it is."""
CPU_EVERY, MEMORY_EVERY = 0.05, 0.25


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Return the CPU and wall seconds of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def own_peak_gb() -> float:
    """Return this process's peak resident memory; getrusage would also count what its parent held
    before exec.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return own_memory_gb("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def own_memory_gb(what: str) -> float:
    """Return a figure of /proc/self/status, such as VmRSS (resident now) or VmHWM (resident at
    most).
    """
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)
    ]
    return int(line.split()[1]) * 1024 / 1e9


def restart_own_peak() -> None:
    """Let VmHWM begin anew at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


class Tree:
    """The CPU seconds and the memory of a process and all that descend from it, read from /proc.

    A process that has ended counts with what it had used when it was last seen; one that lived and
    ended between two looks is missed. ``workers`` are Ray's worker processes, ``daemons`` all else
    beside the root.
    """

    def __init__(self, root: int) -> None:
        self.root = root
        self._ticks: dict[tuple[int, int], int] = {}  # by process id and start time
        self._names: dict[tuple[int, int], str] = {}
        self.look()

    def look(self) -> list[int]:
        """Take note of every process's CPU time and return the ids of those that live."""
        found: dict[int, tuple[int, int, int, str]] = {}
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                try:
                    text = (path / "stat").read_text()
                except OSError:  # it has ended
                    continue
                name, _, rest = text.partition("(")[2].rpartition(")")
                fields = rest.split()
                found[int(path.name)] = (
                    int(fields[1]),
                    int(fields[19]),
                    int(fields[11]) + int(fields[12]),
                    name,
                )
        members = {pid for pid, start in self._ticks if pid in found and found[pid][1] == start}
        if not self._ticks:
            members = {self.root} & set(found)
        before = -1
        while before != len(members):
            before = len(members)
            members |= {pid for pid, (parent, *_) in found.items() if parent in members}
        for pid in members:
            _, start, ticks, name = found[pid]
            self._ticks[pid, start], self._names[pid, start] = ticks, name
        return sorted(members)

    def cpu(self) -> dict[str, float]:
        """Return CPU seconds so far: of ``all`` processes, and of the ``root``, the ``workers`` and
        the ``daemons``.
        """
        self.look()
        found = {"all": 0.0, "root": 0.0, "workers": 0.0, "daemons": 0.0}
        for (pid, start), ticks in self._ticks.items():
            used = ticks / os.sysconf("SC_CLK_TCK")
            is_worker = self._names[pid, start].startswith("ray::")
            found["root" if pid == self.root else "workers" if is_worker else "daemons"] += used
            found["all"] += used
        return found

    def memory_gb(self) -> float:
        """Return the sum of the proportional set sizes: a page that n processes share counts 1/n
        for each.
        """
        total = 0
        for pid in self.look():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:  # it has ended, or is a zombie
                continue
            total += sum(
                int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")
            )
        return total * 1024 / 1e9


@dataclass
class Watched:
    """A command that was watched. A mark is what it said behind ``MARK``; CPU seconds are those of
    its tree.
    """

    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_gb: float = 0.0
    cpu_at: dict[str, float] = field(default_factory=dict)
    wall_at: dict[str, float] = field(default_factory=dict)
    result: str = ""
    """Its last line."""

    def between(self, one: str, other: str) -> tuple[float, float]:
        """Return the CPU and wall seconds from one mark to another."""
        return self.cpu_at[other] - self.cpu_at[one], self.wall_at[other] - self.wall_at[one]


def watch(command: Sequence[str], *, timeout: float = 600, memory: bool = True) -> Watched:
    """Run a command to its end and return what it and its descendants used. Exits the program where
    it fails.
    """
    done, lines = Watched(), queue.Queue[str]()
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True)
        assert process.stdout is not None
        reader = threading.Thread(target=_forward, args=(process.stdout, lines), daemon=True)
        reader.start()
        tree, measured, ended = Tree(process.pid), 0.0, False
        while not (ended and lines.empty()):
            if process.poll() is not None and not ended:
                ended = True
                reader.join(
                    1.0
                )  # not for longer: what the process has left behind may hold the pipe
            try:
                line = lines.get(timeout=CPU_EVERY).strip()
            except queue.Empty:
                line = ""
            now = time.perf_counter()
            if line.startswith(MARK):
                mark = line.removeprefix(MARK)
                done.cpu_at[mark], done.wall_at[mark] = tree.cpu()["all"], now - started
            done.result = line or done.result
            if memory and now - measured > MEMORY_EVERY:
                measured, done.peak_gb = now, max(done.peak_gb, tree.memory_gb())
            tree.look()
            if now - started > timeout:
                _end(tree)
                sys.exit(f"bench: {command} took longer than {timeout:.0f} s")
        done.wall_s, done.cpu_s = time.perf_counter() - started, tree.cpu()["all"]
        if process.wait() != 0:
            complaints.seek(0)
            sys.exit(f"bench: {command} failed:\n{complaints.read()[-4000:]}")
    _end(tree, patience=5.0)
    return done


def _forward(stream: IO[str], lines: "queue.Queue[str]") -> None:
    for line in stream:
        lines.put(line)


def _end(tree: Tree, patience: float = 0.0) -> None:
    """Wait for a tree's processes to end, then end those that have not."""
    until = time.monotonic() + patience
    while (alive := tree.look()) and time.monotonic() < until:
        time.sleep(0.1)
    for pid in alive:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def script(name: str, *arguments: str) -> list[str]:
    """Return the command that runs a script of this folder."""
    return [sys.executable, str(SCRIPTS / name), *arguments]


def machine() -> str:
    """Return the machine in a line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if "model name" in line
        ]
        name = names[0] if names else name
    return f"{available_cores()} cores, {name}, Python {platform.python_version()}, torch {torch.__version__}"


Row = tuple[str, str, str]
"""What was measured, the figure, its target."""


def table(rows: Sequence[Row]) -> str:
    """Return measured figures with their targets as a Markdown table."""
    lines = [
        "| measured | here | target |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def shown(values: dict[str, float] | Sequence[float], unit: str = "", digits: int = 2) -> str:
    """Return a median with its range in words."""
    found: dict[str, Any] = values if isinstance(values, dict) else spread(values)
    return f"{found['median']:.{digits}f}{unit} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"
