"""Signals that end a run: Ctrl-C and SIGTERM at once, SIGUSR1 after the round at work.

Slurm and containers end a job by SIGTERM; SIGUSR1 is the notice that Slurm gives before. Each is a
KeyboardInterrupt here, so that whatever ends well at Ctrl-C ends well at the others.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fedkd.errors import Interrupted

AT_ONCE = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
AFTER_ROUND: int | None = getattr(signal, "SIGUSR1", None)
"""Asks a run to end after the round at work. Windows has none."""

_asked = threading.Event()


class EndedBySignal(KeyboardInterrupt):
    """A signal other than Ctrl-C's ended what was at work."""

    def __init__(self, signal_code: int) -> None:
        """Name the signal."""
        super().__init__(signal.Signals(signal_code).name)
        self.signal_code = signal_code


def exit_status(interruption: KeyboardInterrupt) -> int:
    """Return 128 and the number of the signal that interrupted a process, as shells report it.

    >>> exit_status(KeyboardInterrupt()), exit_status(EndedBySignal(signal.SIGTERM))
    (130, 143)
    """
    return 128 + int(getattr(interruption, "signal_code", signal.SIGINT))


def described(interruption: KeyboardInterrupt) -> str:
    """Return what interrupted a process, in words.

    >>> described(KeyboardInterrupt()), described(EndedBySignal(signal.SIGTERM))
    ('interrupted', 'interrupted by SIGTERM')
    """
    return f"interrupted by {interruption}" if str(interruption) else "interrupted"


def asked_to_end() -> bool:
    """Return whether SIGUSR1 has asked this process to end after the round at work."""
    return _asked.is_set()


def end_if_asked() -> None:
    """Raise EndedBySignal where SIGUSR1 has asked this process to end."""
    if AFTER_ROUND is not None and _asked.is_set():
        raise EndedBySignal(AFTER_ROUND)


@contextmanager
def interruptible(stop: threading.Event) -> Iterator[None]:
    """Set ``stop`` at the signals that end a run at once, and raise, until the context is left.

    What a signal did before it does as well; the default of SIGTERM, which is to end the process
    where it stands, becomes EndedBySignal. A signal that is ignored stays so. Contexts may be
    nested; in threads other than the main one nothing changes.

    Python drops an exception that is raised while a destructor or a callback of a library runs, as
    those of Ray's streams do after every message: KeyboardInterrupt too. Whatever looks at ``stop``
    raises Interrupted then, which leaves the context as a KeyboardInterrupt.
    """
    received: list[int] = []
    try:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {code: signal.getsignal(code) for code in AT_ONCE if _is_heeded(code)}

        def interrupt(code: int, frame: FrameType | None) -> None:
            stop.set()
            received.append(code)
            earlier = before[code]
            if callable(earlier):
                earlier(code, frame)
            else:
                raise EndedBySignal(code)

        for code in before:
            signal.signal(code, interrupt)
        try:
            with _asking():
                yield
        finally:
            for code, earlier in before.items():
                signal.signal(code, earlier)
    except Interrupted as lost:
        if received and received[-1] != signal.SIGINT:
            raise EndedBySignal(received[-1]) from lost
        raise KeyboardInterrupt from lost


def _is_heeded(code: int) -> bool:
    """Return whether a signal is neither ignored nor handled by what is no Python."""
    handler = signal.getsignal(code)
    return callable(handler) or (code != signal.SIGINT and handler == signal.SIG_DFL)


@contextmanager
def _asking() -> Iterator[None]:
    """Note SIGUSR1 instead of ending at it, where nobody else has a use for it."""
    if AFTER_ROUND is None or signal.getsignal(AFTER_ROUND) != signal.SIG_DFL:
        yield
        return
    signal.signal(AFTER_ROUND, lambda code, frame: _asked.set())
    try:
        yield
    finally:
        signal.signal(AFTER_ROUND, signal.SIG_DFL)
        _asked.clear()
