"""Ray's processes of a killed run are ended by the next one, and those of others are not."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedkd.flower import ray_processes
from fedkd.flower.ray_processes import (
    OWNER,
    OWNER_FILE,
    claim_session,
    end_abandoned,
    owner,
    shut_down,
    started_by_us,
)

pytestmark = pytest.mark.skipif(not owner(), reason="there is no /proc here")


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Processes, which are ended after the test."""
    found: list[subprocess.Popen[bytes]] = []
    yield found
    for process in found:
        process.kill()
        process.wait()


def helper(named: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start what looks like a helper of Ray's that a driver has started."""
    code = "print(flush=True); import time; time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, OWNER: named},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()  # its command line and environment are its own now
    return process


def test_helpers_of_a_driver_that_has_ended_are_ended_and_no_other_process(
    started: list["subprocess.Popen[bytes]"], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    rays = str(Path(str(spec.origin)).parent / "gcs_server")
    namespace, pid, since = owner().split()
    dead = f"{namespace} {pid} {int(since) - 1}"
    elsewhere = f"pid:[1] {pid} {int(since) - 1}"
    started += [
        helper(dead, rays),
        helper(owner(), rays),
        helper(elsewhere, rays),
        helper(dead, "a client's own"),
    ]
    end_abandoned()
    assert started[0].wait(timeout=10) == -signal.SIGTERM
    time.sleep(0.05)
    assert [process.poll() for process in started[1:]] == [None] * 3
    assert capsys.readouterr().err == (
        "fedkd: ended 1 of Ray's processes, which a killed run had left behind\n"
    )
    end_abandoned()
    assert capsys.readouterr().err == ""


def test_ray_does_not_keep_sigterm_and_the_mark_stays_with_its_processes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with started_by_us():
        assert os.environ[OWNER] == owner()
        signal.signal(signal.SIGTERM, lambda code, frame: None)
    assert signal.getsignal(signal.SIGTERM) == before
    assert OWNER not in os.environ


def test_a_shutdown_that_hangs_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = []
    shut_down(lambda: called.append(True))
    assert called == [True]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(ray_processes, "SHUTDOWN_SECONDS", 0.05)
    shut_down(lambda: time.sleep(5))
    assert (
        "Ray did not shut down in 0.05 s; 0 of its processes were ended" in capsys.readouterr().err
    )


def test_folders_of_sessions_whose_driver_has_ended_are_deleted_and_no_others(
    tmp_path: Path,
) -> None:
    namespace, pid, since = owner().split()
    marks = {
        "session_dead": f"{namespace} {pid} {int(since) - 1}",
        "session_alive": owner(),
        "session_elsewhere": f"pid:[1] {pid} {since}",
        "session_strange": "",
        "other_dead": f"{namespace} {pid} {int(since) - 1}",
    }
    for name, mark in marks.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / OWNER_FILE).write_text(mark)
    (tmp_path / "session_unmarked").mkdir()
    (tmp_path / "session_mine").mkdir()
    (tmp_path / "session_latest").symlink_to(tmp_path / "session_mine")
    claim_session(tmp_path / "session_mine")
    left = {path.name for path in tmp_path.iterdir()}
    assert {*marks} - left == {"session_dead"}
    assert (tmp_path / "session_mine" / OWNER_FILE).read_text() == owner()
    assert {"session_unmarked", "session_latest"} <= left
