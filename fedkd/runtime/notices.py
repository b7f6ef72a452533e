"""Lines on the standard error about what was found and mended on the way.

Not for: errors, which are raised, and what a run reports of itself (``fedkd.report.console``).
"""

import contextlib
import sys


def notice(text: str) -> None:
    """Write a line on the standard error, as the command writes its errors."""
    with contextlib.suppress(OSError, ValueError):  # it is full, or closed
        sys.stderr.write(f"fedkd: {text}\n")
        sys.stderr.flush()
