"""The working folder behind the libraries on Python's path.

``python -m`` puts it first, where a file of the user's called ``yaml.py`` would be taken for the
library. Classes of one's own are still found in it.
"""

import sys


def put_last() -> None:
    """Move the working folder to the end of Python's path, where ``python -m`` has put it first.

    A clone of fedkd that is worked in stays first: its packages are the program.
    """
    if sys.flags.safe_path or not sys.path:
        return
    first = sys.path.pop(0)
    from pathlib import Path  # the library's: the working folder is out of the way

    try:
        here = Path.cwd()
    except OSError:  # it was deleted
        here = None
    is_clone = Path(__file__).resolve().parents[2] == here
    if here is None or is_clone or Path(first or here).resolve() != here:
        sys.path.insert(0, first)
    else:
        sys.path.append(first or str(here))


def search_here() -> None:
    """Append the working folder to Python's path, for commands that ``python -m`` does not start.

    Import paths in settings may then name modules in it. It comes last, so that no user's file
    shadows a library's.
    """
    from pathlib import Path

    try:
        here = str(Path.cwd())
    except OSError:  # it was deleted
        return
    if here not in sys.path:
        sys.path.append(here)
