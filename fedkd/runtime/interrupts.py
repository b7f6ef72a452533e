"""Ctrl-C during a run, which ends it even where the exception that it raises is lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fedkd.errors import Interrupted


@contextmanager
def interruptible(stop: threading.Event) -> Iterator[None]:
    """Set ``stop`` at Ctrl-C, besides what Ctrl-C did before, until the context is left.

    Python drops an exception that is raised while a destructor or a callback of a library runs, as
    those of Ray's streams do after every message: KeyboardInterrupt too. Whatever looks at ``stop``
    raises Interrupted then, which leaves the context as a KeyboardInterrupt.
    """
    try:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)
        if not callable(before):  # it is ignored, as in the background of a shell
            yield
            return

        def interrupt(signal_code: int, frame: FrameType | None) -> None:
            stop.set()
            before(signal_code, frame)

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
    except Interrupted as lost:
        raise KeyboardInterrupt from lost
