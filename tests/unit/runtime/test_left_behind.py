"""What clients leave behind is named, and keeps no process from ending."""

import subprocess
import sys
import threading
import time

import pytest

from fedkd.runtime.left_behind import Surroundings


def test_new_threads_and_children_are_named_and_those_from_before_are_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    release = threading.Event()
    earlier = threading.Thread(target=release.wait, name="earlier")
    earlier.start()
    earlier_on = Surroundings()
    earlier_on.tell_what_is_new()
    assert capsys.readouterr().err == ""
    later = threading.Thread(target=release.wait, name="later")
    later.start()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert earlier_on.new_threads() == ["later"]
        assert "input()" in earlier_on.new_children()[child.pid]
        earlier_on.tell_what_is_new()
        said = capsys.readouterr().err.splitlines()
    finally:
        release.set()
        child.communicate(b"\n")
    assert said[0] == "fedkd: clients left 1 thread: later"
    assert said[1].startswith(f"fedkd: clients left 1 process, not ended: {child.pid} (")
    later.join()
    assert earlier_on.new_threads() == []
    assert earlier_on.new_children() == {}


def test_a_thread_that_never_ends_does_not_keep_a_process_from_ending() -> None:
    code = (
        "import threading, time; from fedkd.runtime import left_behind;"
        "left_behind.PATIENCE_SECONDS = 0.1;"
        "threading.Thread(target=time.sleep, args=(60,), name='endless').start();"
        "print('said'); left_behind.end(3)"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    assert time.monotonic() - began < 40
    assert (done.returncode, done.stdout) == (3, "said\n")
    assert done.stderr == (
        "fedkd: 1 thread of clients did not end in 0.1 s, and the process ends without: endless\n"
    )
