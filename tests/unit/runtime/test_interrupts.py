"""Signals set what a run looks at, whatever becomes of their exceptions."""

import signal
import threading
from collections.abc import Iterator

import pytest

from fedkd.errors import Interrupted
from fedkd.runtime.interrupts import (
    EndedBySignal,
    asked_to_end,
    end_if_asked,
    exit_status,
    interruptible,
)


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


@pytest.mark.parametrize("code", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_sighup_end_a_run_as_ctrl_c_does(
    code: signal.Signals, request: pytest.FixtureRequest
) -> None:
    before = signal.signal(code, signal.SIG_DFL)  # it is ignored where nohup started the tests
    request.addfinalizer(lambda: signal.signal(code, before))
    outer, inner = threading.Event(), threading.Event()
    with (
        pytest.raises(KeyboardInterrupt, match=code.name) as ended,
        interruptible(outer),
        interruptible(inner),
    ):
        signal.raise_signal(code)
    assert outer.is_set()
    assert inner.is_set()
    assert exit_status(ended.value) == 128 + code
    assert signal.getsignal(code) == signal.SIG_DFL


def test_a_lost_sigterm_is_told_from_ctrl_c() -> None:
    def work() -> None:
        stop = threading.Event()
        with interruptible(stop):
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:  # as a destructor does
                assert stop.is_set()
            raise Interrupted

    with pytest.raises(EndedBySignal, match="SIGTERM"):
        work()


def test_a_handler_of_sigterm_that_was_there_is_called() -> None:
    called = []
    before = signal.signal(signal.SIGTERM, lambda code, frame: called.append(code))
    try:
        with interruptible(threading.Event()):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert called == [signal.SIGTERM]


def test_sigusr1_asks_for_an_end_and_stops_nothing() -> None:
    stop = threading.Event()
    with interruptible(stop):
        with interruptible(stop):
            end_if_asked()
            signal.raise_signal(signal.SIGUSR1)
            assert asked_to_end()
        with pytest.raises(EndedBySignal, match="SIGUSR1") as ended:
            end_if_asked()
    assert not stop.is_set()
    assert exit_status(ended.value) == 128 + signal.SIGUSR1
    assert not asked_to_end()  # the next command was asked for nothing
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
