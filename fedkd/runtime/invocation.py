"""Commands as a user types them, for messages that say what to do next."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAM = "fedkd"


def command_line(words: Sequence[str]) -> str:
    """Return a command of fedkd's as one line that works in the user's shell.

    It begins with ``fedkd`` where the shell finds this environment's, and else with ``python -m
    fedkd``.
    """
    found = shutil.which(PROGRAM)
    is_own = found is not None and Path(found).parent == Path(sys.executable).parent
    program = [PROGRAM] if is_own else ["python", "-m", PROGRAM]
    return shlex.join([*program, *words])
