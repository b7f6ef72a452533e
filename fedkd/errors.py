"""Exception types by who must act on them, and the text of their messages.

Not for: the checks themselves, which stand where a value is used (``fedkd.settings.validators``
has the common ones).
"""

import contextlib
import difflib
import traceback
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path


class FedkdError(Exception):
    """An error whose message explains the problem to the user in one line."""

    hides_exception = False
    """Whether it stands for an exception of code that fedkd does not know."""


class SettingError(FedkdError, ValueError):
    """A setting is unusable. The command exits with status 2 before any training."""


class SettingErrors(SettingError):
    """Several settings are unusable: the arguments are a message for each."""

    def __str__(self) -> str:
        """Return all messages in one text."""
        listed = " ".join(f"({i}) {message}" for i, message in enumerate(self.args, 1))
        return f"{len(self.args)} settings are wrong: {listed}"


class UploadRejected(FedkdError):
    """The server does not accept an upload. It records the rejection and continues the round."""


class RunError(FedkdError):
    """A run cannot continue. Files written so far stay. The command exits with status 1."""


class StoppedEarly(FedkdError):
    """A callback asked the run to end after a round. Not an error: the run's folder says so."""


class RunWarning(UserWarning):
    """What is doubtful about a run that was begun from Python."""


class NotFinite(RunError):
    """A strategy's result is infinite or no number. Perhaps one client's upload made it so."""


class StorageError(RunError):
    """A file cannot be written. No client is to blame, so the run ends."""


class Damaged(RunError):
    """A file does not hold what was written into it."""


class DeadlinePassed(FedkdError):
    """A client exceeded the deadline. The server records it as failed and continues the round."""


class FitFailed(FedkdError):
    """A client's model cannot be fitted. The server records it as failed and continues the round.

    As ``DeadlinePassed`` it is of one client alone.
    """


class Interrupted(BaseException):
    """Training was asked to stop.

    A BaseException, as KeyboardInterrupt is, so that ``except Exception`` does not catch it.
    """


TRACEBACK_HINT = "FEDKD_TRACEBACK=1 before the command prints where it comes from"


def unexpected(error: FedkdError) -> FedkdError:
    """Return an error that is marked as hiding an exception."""
    error.hides_exception = True
    return error


def notes(error: BaseException | None) -> tuple[str, ...]:
    """Return what is to be said behind an error that hides an exception, or has such a cause.

    >>> notes(unexpected(RunError("strategy Mine failed")))
    ('FEDKD_TRACEBACK=1 before the command prints where it comes from',)
    """
    seen: list[BaseException] = []
    while isinstance(error, FedkdError) and error not in seen:
        if error.hides_exception:
            return (TRACEBACK_HINT,)
        seen.append(error)
        error = error.__cause__
    return ()


def messages(error: FedkdError) -> tuple[str, ...]:
    """Return the messages of an error, of which each fills a line."""
    return error.args if isinstance(error, SettingErrors) else (str(error),)


class WrongSettings:
    """Collect the errors of settings that are checked one after the other.

    >>> wrong = WrongSettings()
    >>> with wrong.collected():
    ...     raise SettingError("rounds must be >= 1, got 0")
    >>> wrong.raise_any()
    Traceback (most recent call last):
    fedkd.errors.SettingError: rounds must be >= 1, got 0
    """

    def __init__(self) -> None:
        """Begin without any error."""
        self._errors: list[SettingError] = []

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Keep a SettingError of the block for later."""
        try:
            yield
        except SettingError as error:
            self._errors.append(error)

    def raise_any(self) -> None:
        """Raise the error that was kept, or one SettingErrors of several."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            found = dict.fromkeys(text for error in self._errors for text in messages(error))
            raise SettingErrors(*found) from self._errors[0]


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


TEXT_LIMIT = 500
"""Most characters that are shown of a text from elsewhere."""
EXAMINED = 10_000
"""Most characters of such a text that are looked at."""
FORMULA = ("=", "+", "-", "@")
"""With these a spreadsheet takes a text for a formula."""


def printable(text: str, limit: int = TEXT_LIMIT) -> str:
    r"""Return a text from elsewhere as one line that is safe to print and to write into a table.

    White space becomes single spaces. Control characters, among them those that begin escape
    sequences, and marks that turn the direction of writing are left out; a long text is cut. A note
    says how many characters there were, and how many of those that were looked at are left out.

    >>> printable("shapes\ndiffer")
    'shapes differ'
    >>> printable("\x1b[31mred")
    '[31mred (1 unprintable)'
    >>> printable("no " * 1000, limit=40)
    'no no no no no no... (3,000 characters)'
    """
    line = " ".join(text[:EXAMINED].split())
    shown = line if line.isprintable() else "".join(filter(str.isprintable, line))
    left_out = len(line) - len(shown)
    shown = f"'{shown}" if shown.startswith(FORMULA) else shown
    too_long = len(text) > EXAMINED or len(shown) > limit
    if not left_out and not too_long:
        return shown
    notes = [f"{len(text):,} characters"] if too_long else []
    notes += [f"{left_out:,} unprintable"] if left_out else []
    note = f" ({', '.join(notes)})"
    if len(shown) + len(note) > limit:
        shown = shown[: max(0, limit - len(note) - 3)].rstrip() + "..."
    return shown + note
