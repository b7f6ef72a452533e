"""Standard output that may be full, and lines on the standard error about what was mended.

Not for: errors, which are raised, and what a run reports of itself (``fedkd.report.console``).
"""

import contextlib
import errno
import os
import sys
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def notice(text: str) -> None:
    """Write a line on the standard error, as the command writes its errors."""
    with contextlib.suppress(OSError, ValueError):  # it is full, or closed
        sys.stderr.write(f"fedkd: {printed(text)}\n")
        sys.stderr.flush()


def printed(text: str) -> str:
    r"""Return a text as one line, with what is not printable as Python would write it.

    >>> printed("a\nb")
    'a\\nb'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class FullableOutput:
    """The standard output, which is given up with a word once it is full: a run goes on."""

    def __getattr__(self, name: str) -> Any:
        """Return what the standard output of now has."""
        return getattr(sys.stdout, name)

    def write(self, text: str) -> int:
        """Write a text, or nothing where it is full."""
        if sys.stdout is not None:
            replace_unwritable()
            with _given_up_when_full():
                sys.stdout.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what waits in the buffer, or give it up."""
        flush_output()


def replace_unwritable() -> None:
    """Let the standard output write a question mark for what its encoding has no letter of.

    Such as a line of a table, where it goes to a file on Windows.
    """
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None and sys.stdout.errors in ("strict", "surrogateescape"):
        reconfigure(errors="replace")


def flush_output() -> None:
    """Write what waits in the buffer of the standard output; where it is full, say so.

    Otherwise Python would find out at its end, and say so in its own words.
    """
    if sys.stdout is not None:
        with _given_up_when_full():
            sys.stdout.flush()


def give_up_output() -> None:
    """Let all that is printed from now on, and what waits in the buffer, go nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no file has no buffer to lose
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def _given_up_when_full() -> Any:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        notice(f"the standard output cannot be written ({error.strerror}); nothing more is printed")
        give_up_output()
