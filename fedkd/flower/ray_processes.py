"""Ray's processes around a run: its signals, its end, and what a killed run left of it.

Ray's helpers end when their driver does, but some outlive one that was killed. Those that fedkd
starts carry their driver in their environment, so that a later run knows whose they were.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedkd.runtime.standard_streams import notice

OWNER_FILE = "fedkd_owner"
"""The file in Ray's folder of a session that names the process which started it."""
OWNER = "FEDKD_RAY_OWNER"
"""The environment variable of Ray's processes that names the process which started them."""
SHUTDOWN_SECONDS = 20.0
"""How long Ray may take to shut down."""
END_SECONDS = 5.0


@contextmanager
def started_by_us() -> Iterator[None]:
    """Mark the processes that Ray starts here, and keep its hands off SIGTERM.

    Ray would let SIGTERM end this process by an exception of its own.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    os.environ[OWNER] = owner()
    try:
        yield
    finally:
        del os.environ[OWNER]
        if is_main and before is not None:
            signal.signal(signal.SIGTERM, before)


def shut_down(shutdown: Callable[[], None]) -> None:
    """Shut Ray down; if that takes too long, end the processes that it started here."""
    thread = threading.Thread(target=shutdown, name="fedkd-ray-shutdown", daemon=True)
    thread.start()
    thread.join(SHUTDOWN_SECONDS)
    if thread.is_alive():
        ended = _end([pid for pid, named in _marked().items() if named == owner()])
        notice(
            f"Ray did not shut down in {SHUTDOWN_SECONDS:g} s; {len(ended)} of its processes were"
            " ended"
        )


def end_abandoned() -> None:
    """End Ray's processes that a driver of fedkd started which has ended since."""
    abandoned = [pid for pid, named in _marked().items() if _has_ended(named)]
    if abandoned and (ended := _end(abandoned)):
        notice(f"ended {len(ended)} of Ray's processes, which a killed run had left behind")


def claim_session(folder: Path) -> None:
    """Mark Ray's folder of this session, and delete those of drivers of fedkd that have ended.

    Ray leaves logs and sockets of each session in the temporary folder.
    """
    with contextlib.suppress(OSError):  # it is Ray's: the run does not depend on it
        (folder / OWNER_FILE).write_text(owner())
    for mark in folder.parent.glob(f"session_*/{OWNER_FILE}"):
        with contextlib.suppress(OSError):
            if not mark.parent.is_symlink() and _has_ended(mark.read_text()):
                shutil.rmtree(mark.parent, ignore_errors=True)


def owner() -> str:
    """Return this process as a mark has it: its namespace of ids, its id, when it started.

    Together they name no other process of this machine until it is started again. Empty where the
    system has no /proc.
    """
    return _identity(os.getpid())


def _identity(pid: int) -> str:
    try:
        namespace = Path("/proc/self/ns/pid").readlink()
        started = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        )
    except OSError:
        return ""
    return f"{namespace} {pid} {started}"


def _has_ended(named: str) -> bool:
    """Return whether the process of a mark is gone, as far as this process can know."""
    namespace, _, rest = named.partition(" ")
    pid, _, _ = rest.partition(" ")
    if not pid.isdigit() or not owner().startswith(f"{namespace} "):  # another container's
        return False
    return _identity(int(pid)) != named


def _marked() -> dict[int, str]:
    """Return Ray's processes of this user that carry a mark, with whom it names."""
    found, mark, package = {}, f"{OWNER}=".encode(), _package()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            environment = (folder / "environ").read_bytes().split(b"\0")
            named = [entry for entry in environment if entry.startswith(mark)]
            if named and _is_rays((folder / "cmdline").read_bytes(), package):
                found[int(folder.name)] = named[0].removeprefix(mark).decode(errors="replace")
    return found


def _is_rays(command: bytes, package: bytes) -> bool:
    """Return whether a process is one of Ray's own, and none that a client started."""
    return command.startswith(b"ray::") or package in command


def _package() -> bytes:
    """Return the folder of Ray's package, which the commands of its processes name."""
    found = importlib.util.find_spec("ray")
    assert found is not None, "the engine depends on Ray"
    return os.fsencode(str(Path(str(found.origin)).parent))


def _end(processes: list[int]) -> list[int]:
    """End processes, first by SIGTERM, and return those that were there."""
    mine = os.getpid()
    found = [pid for pid in processes if pid != mine and _signal(pid, signal.SIGTERM)]
    deadline = time.monotonic() + END_SECONDS
    while any(_is_running(pid) for pid in found) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in found:
        _signal(pid, getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has the second alone
    return found


def _is_running(pid: int) -> bool:
    """Return whether a process runs; one that has ended may wait for its parent to notice."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")


def _signal(pid: int, code: int) -> bool:
    try:
        os.kill(pid, code)
    except OSError:
        return False
    return True
