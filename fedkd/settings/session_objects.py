"""Objects of this Python session that no import path names, under names that a scenario can hold.

A lambda, a class in a function, an object that its settings do not make again: each is held here
for as long as the process lives, and a scenario names it ``fedkd.session:NAME``. Nothing is
imported by such a name, and another process finds nothing behind it.
"""

import importlib
import itertools
import re
import sys
import uuid
from types import ModuleType

from fedkd.errors import SettingError

SESSION = "fedkd.session"
"""Stands for a module in the names of a session's objects. There is no such module."""
_held: dict[str, object] = {}
_serials: dict[int, tuple[object, int]] = {}
"""Numbers of objects by their ids, with the objects, so that no id is given away again."""
_PROCESS = uuid.uuid4().hex


def is_session_name(name: str) -> bool:
    """Return whether a name is that of an object of a session, this one's or another's.

    >>> is_session_name("fedkd.session:Rule"), is_session_name("my_module:Rule")
    (True, False)
    """
    return name.partition(":")[0] == SESSION


def hold(thing: object, name: str | None = None) -> str:
    """Return the name of an object, which is held under it from now on.

    One object has one name as long as nobody asks for another. ``name`` is the one that a stored
    run has for it.
    """
    if name is not None:
        _held[name] = thing
        return name
    for known, held in _held.items():
        if held is thing:
            return known
    stem = re.sub(r"\W", "", getattr(thing, "__name__", "") or type(thing).__name__) or "object"
    stem = f"object_{stem}" if stem[0].isdigit() else stem
    found = next(
        candidate
        for count in itertools.count(1)
        if (candidate := f"{SESSION}:{stem}{'' if count == 1 else f'_{count}'}") not in _held
    )
    _held[found] = thing
    return found


def is_held(name: str) -> bool:
    """Return whether this session holds an object under a name."""
    return name in _held


def held(name: str, *, what: str) -> object:
    """Return the object under a name; ``what`` is the setting that named it.

    Raises SettingError where another session gave the name.
    """
    if name not in _held:
        raise SettingError(not_here(what, name))
    return _held[name]


def not_here(what: str, name: str) -> str:
    """Return why a setting names nothing in this process, and the cure."""
    setting = what.partition(".")[0]
    given = "[THE_SAME]" if setting == "models" else "THE_SAME"
    return (
        f"{what}={name} was an object of the Python session that began this run, and no file says"
        f" what it was; go on from Python with fedkd.resume(FOLDER, {setting}={given}), or begin"
        " again with a class in a module"
    )


def module_path(thing: object) -> str | None:
    """Return the import path at which a class or function is found, or None.

    Those of a notebook's cell are in ``__main__``, which is another module in another process.

    >>> module_path(SettingError), module_path(lambda: 0)
    ('fedkd.errors:SettingError', None)
    """
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "")
    if not isinstance(module, str) or not name.isidentifier():
        return None
    found: ModuleType | None
    try:
        found = importlib.import_module(module)
    except Exception:  # importing runs anybody's code
        return None
    return f"{module}:{name}" if getattr(found, name, None) is thing else None


def is_given(thing: object) -> bool:
    """Return whether an object is held in this session."""
    return any(held is thing for held in _held.values())


def session_text(thing: object) -> str:
    """Return what tells an object's code from others' where no file tells all of it.

    The values that a function closes over are in no file, nor is a notebook's cell: such an object
    is like no other, and like none of another process. Empty for what lies in a module.
    """
    path = module_path(thing)
    if path is not None and (not path.startswith("__main__:") or _has_file()):
        return ""
    _, serial = _serials.setdefault(id(thing), (thing, len(_serials)))
    return f"{_PROCESS} {serial}"


def _has_file() -> bool:
    """Return whether the program that runs is a file: in a notebook it is not."""
    return getattr(sys.modules["__main__"], "__file__", None) is not None
