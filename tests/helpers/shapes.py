"""The type checker behind ``--jaxtyping-packages``: shapes are enforced in tests, and an int may
stand for a float."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))
_checked: dict[Any, Callable[..., Any]] = {}


def check(stub: Callable[..., Any]) -> Callable[..., Any]:
    """Return what jaxtyping calls to check arguments: its empty function of the same signature,
    made to check them.

    A function inside another is decorated whenever the outer one is called. Its check, which is
    compiled and takes longer than most calls, is the same each time.
    """
    if stub.__defaults__ or stub.__kwdefaults__:  # beartype looks at the values too
        return _check(stub)
    key = (stub.__module__, stub.__qualname__, stub.__code__, tuple(stub.__annotations__.items()))
    if key not in _checked:
        _checked[key] = _check(stub)
    return _checked[key]
