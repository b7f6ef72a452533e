"""Measurement for the benchmarks: CPU seconds and peak memory of processes, and their tables.

Process trees are read from /proc, which only Linux has.
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
"""Prefix of a line by which a measured process reports its progress."""
CPU_EVERY, MEMORY_EVERY = 0.05, 0.25
"""Seconds between two readings."""


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Return the CPU and wall seconds of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def own_peak_gb() -> float:
    """Return the peak resident memory of this process in GB.

    It is read from /proc, since getrusage also counts its parent's memory before exec.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return own_memory_gb("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def own_memory_gb(what: str) -> float:
    """Return a field of /proc/self/status in GB, such as VmRSS (resident) or VmHWM (its peak)."""
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)
    ]
    return int(line.split()[1]) * 1024 / 1e9


def restart_own_peak() -> None:
    """Reset this process's peak resident memory to its current one."""
    Path("/proc/self/clear_refs").write_text("5")


class Tree:
    """CPU seconds and memory of a process and all its descendants, read from /proc.

    A process that has ended counts as last read; one that started and ended between two readings is
    missed. ``workers`` are Ray's worker processes, ``daemons`` all others except the root.
    """

    def __init__(self, root: int) -> None:
        self.root = root
        self._ticks: dict[tuple[int, int], int] = {}  # by process id and start time
        self._names: dict[tuple[int, int], str] = {}
        self.update()

    def update(self) -> list[int]:
        """Read every process's CPU time, and return the ids of the running processes."""
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
        """Return CPU seconds so far, by "all", "root", "workers" and "daemons"."""
        self.update()
        found = {"all": 0.0, "root": 0.0, "workers": 0.0, "daemons": 0.0}
        for (pid, start), ticks in self._ticks.items():
            used = ticks / os.sysconf("SC_CLK_TCK")
            is_worker = self._names[pid, start].startswith("ray::")
            found["root" if pid == self.root else "workers" if is_worker else "daemons"] += used
            found["all"] += used
        return found

    def memory_gb(self) -> float:
        """Return the sum of the proportional set sizes in GB.

        A page that n processes share counts 1/n for each.
        """
        total = 0
        for pid in self.update():
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
    """Measurements of a command and its descendants."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_gb: float = 0.0
    cpu_at: dict[str, float] = field(default_factory=dict)
    """CPU seconds by mark, the text after ``MARK``."""
    wall_at: dict[str, float] = field(default_factory=dict)
    """Wall seconds by mark."""
    result: str = ""
    """Its last line."""

    def between(self, first: str, last: str) -> tuple[float, float]:
        """Return the CPU and wall seconds between two marks."""
        return self.cpu_at[last] - self.cpu_at[first], self.wall_at[last] - self.wall_at[first]


def watch(command: Sequence[str], *, timeout: float = 600, memory: bool = True) -> Watched:
    """Run a command and return the measurements of it and its descendants.

    Exits the program if the command fails or takes longer than ``timeout`` seconds. ``memory`` says
    whether peak memory is measured.
    """
    done, lines = Watched(), queue.Queue[str]()
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        reader = threading.Thread(target=_forward, args=(process.stdout, lines), daemon=True)
        reader.start()
        tree, measured, ended = Tree(process.pid), 0.0, False
        while not (ended and lines.empty()):
            if process.poll() is not None and not ended:
                ended = True
                reader.join(1.0)  # no longer, since a remaining descendant may hold the pipe
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
            tree.update()
            if now - started > timeout:
                _end(tree)
                sys.exit(f"bench: {command} took longer than {timeout:.0f} s")
        done.wall_s, done.cpu_s = time.perf_counter() - started, tree.cpu()["all"]
        if process.wait() != 0:
            errors.seek(0)
            sys.exit(f"bench: {command} failed:\n{errors.read()[-4000:]}")
    _end(tree, patience=5.0)
    return done


def _forward(stream: IO[str], lines: "queue.Queue[str]") -> None:
    for line in stream:
        lines.put(line)


def _end(tree: Tree, patience: float = 0.0) -> None:
    """Wait ``patience`` seconds for a tree's processes to end, then kill those that have not."""
    until = time.monotonic() + patience
    while (alive := tree.update()) and time.monotonic() < until:
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
    """Return a description of the machine: cores, processor, Python, torch."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if "model name" in line
        ]
        name = names[0] if names else name
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{available_cores()} cores, {name}, {versions}"


Row = tuple[str, str, str]
"""Name of a measurement, its figure, its target."""


def table(rows: Sequence[Row]) -> str:
    """Return measurements as a Markdown table."""
    lines = [
        "| measured | here | target |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the smallest and the largest value."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def shown(values: dict[str, float] | Sequence[float], unit: str = "", digits: int = 2) -> str:
    """Return a median with its range in words.

    Args:
        values: The values, or their ``spread``.
        unit: Printed after the median.
        digits: Decimals.
    """
    found: dict[str, Any] = values if isinstance(values, dict) else spread(values)
    median, low, high = (f"{found[k]:.{digits}f}" for k in ("median", "low", "high"))
    return f"{median}{unit} ({low} to {high})"
