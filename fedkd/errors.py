"""What can go wrong, by who has to act on it, and how a near miss is named.

Not for: the checks themselves, which stand where the value is used (``fedkd.settings.validators``
has the common ones).
"""

import difflib
import traceback
from collections.abc import Collection, Iterable
from pathlib import Path


class FedkdError(Exception):
    """Any error that fedkd explains to its user in one line."""


class SettingError(FedkdError, ValueError):
    """A setting that cannot be used as it stands. The command ends with status 2, before any
    training.
    """


class UploadRejected(FedkdError):
    """An upload that the server does not accept. It is recorded, and the round goes on."""


class RunError(FedkdError):
    """A run that cannot go on. What was written before stays. The command ends with status 1."""


class StorageError(RunError):
    """The disk does not take what must be written. No client is to blame, so the run ends."""


class Damaged(RunError):
    """A file is not what was written into it."""


class DeadlinePassed(FedkdError):
    """A client took longer than the protocol's deadline. It is recorded as failed, and the round
    goes on.
    """


class Interrupted(BaseException):
    """Training was asked to stop. Like KeyboardInterrupt it is no ordinary exception."""


def one_line(error: BaseException, files: Collection[str] | None = None) -> str:
    """Return an exception in one line, with the place where it was raised: in one of ``files``,
    where they are given.

    One of fedkd's own needs no place, and one that did not pass through ``files`` has none.
    """
    if isinstance(error, FedkdError):
        return str(error)
    text = ": ".join(part for part in (type(error).__name__, " ".join(str(error).split())) if part)
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if files is None or f.filename in files
    ]
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else text


def unknown_name(what: str, name: str, known: Iterable[str]) -> SettingError:
    """Return the error for a name that does not exist, with the nearest ones that do.

    >>> print(unknown_name("strategy", "knfuu", ["fedmd", "knfu"]))
    unknown strategy 'knfuu'; did you mean 'knfu'? Known: fedmd, knfu
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else "."
    return SettingError(f"unknown {what} {name!r}{hint} Known: {', '.join(names) or 'none'}")
