"""Exception types by who must act on them, and the text of their messages.

Not for: the checks themselves, which stand where a value is used (``fedkd.settings.validators``
has the common ones).
"""

import difflib
import traceback
from collections.abc import Collection, Iterable
from pathlib import Path


class FedkdError(Exception):
    """An error whose message explains the problem to the user in one line."""


class SettingError(FedkdError, ValueError):
    """A setting is unusable. The command exits with status 2 before any training."""


class UploadRejected(FedkdError):
    """The server does not accept an upload. It records the rejection and continues the round."""


class RunError(FedkdError):
    """A run cannot continue. Files written so far stay. The command exits with status 1."""


class StorageError(RunError):
    """A file cannot be written. No client is to blame, so the run ends."""


class Damaged(RunError):
    """A file does not hold what was written into it."""


class DeadlinePassed(FedkdError):
    """A client exceeded the deadline. The server records it as failed and continues the round."""


class Interrupted(BaseException):
    """Training was asked to stop.

    A BaseException, as KeyboardInterrupt is, so that ``except Exception`` does not catch it.
    """


def one_line(error: BaseException, files: Collection[str] | None = None) -> str:
    """Return an exception as one line of text: type, message, file name and line number.

    With ``files``, the location is the innermost frame in one of them, and is left out if no frame
    is. A FedkdError is given by its message alone.

    >>> one_line(ValueError("shapes differ"))
    'ValueError: shapes differ'
    >>> one_line(SettingError("rounds must be >= 1, got 0"))
    'rounds must be >= 1, got 0'
    """
    if isinstance(error, FedkdError):
        return str(error)
    text = ": ".join(part for part in (type(error).__name__, " ".join(str(error).split())) if part)
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if files is None or f.filename in files
    ]
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else text


def unknown_name(what: str, name: str, known: Iterable[str]) -> SettingError:
    """Return the error for an unknown name, with the most similar known names in its message.

    ``what`` says what the name stands for, such as "strategy".

    >>> print(unknown_name("strategy", "knfuu", ["fedmd", "knfu"]))
    unknown strategy 'knfuu'; did you mean 'knfu'? Known: fedmd, knfu
    """
    names = sorted(known)
    similar = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(n) for n in similar)}?" if similar else "."
    return SettingError(f"unknown {what} {name!r}{hint} Known: {', '.join(names) or 'none'}")
