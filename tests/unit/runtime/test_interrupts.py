"""Ctrl-C sets what a run looks at, whatever becomes of its exception."""

import signal
import threading
from collections.abc import Iterator

import pytest

from fedkd.errors import Interrupted
from fedkd.runtime.interrupts import interruptible


@pytest.fixture(autouse=True)
def own_handler() -> Iterator[None]:
    """Heed Ctrl-C in these tests, also where whatever started them ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Dropped:
    """Its destructor is at work at Ctrl-C, so that Python loses the exception."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_raises_as_ever_and_sets_the_event() -> None:
    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt), interruptible(stop):
        signal.raise_signal(signal.SIGINT)
    assert stop.is_set()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_lost_ctrl_c_ends_what_looks_at_the_event() -> None:
    went_on = []

    def work() -> None:
        stop = threading.Event()
        with interruptible(stop):
            Dropped()
            went_on.append(True)
            if stop.is_set():
                raise Interrupted

    with pytest.raises(KeyboardInterrupt):
        work()
    assert went_on


def test_what_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptible(stop):
        signal.raise_signal(signal.SIGINT)
    assert not stop.is_set()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_run_in_a_thread_leaves_the_handler_alone() -> None:
    seen = []

    def enter() -> None:
        with interruptible(threading.Event()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
