"""The type checker behind jaxtyping's import hook: shapes are enforced in tests, and an int may
stand for a float."""

import re
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))
_checked: dict[Any, Callable[..., Any]] = {}
ARRAY = re.compile(r"\b(Bool|Complex|Float|Inexact|Int|Integer|Key|Num|Real|Shaped|UInt)\d*\[")
"""An annotation of jaxtyping, as Python prints it."""


def check(stub: Callable[..., Any]) -> Callable[..., Any]:
    """Return what jaxtyping calls to check arguments: its empty function of the same signature,
    made to check them.

    One without arrays stays as it is: mypy has read it, and a check takes longer than most calls.

    A function inside another is decorated whenever the outer one is called. Its check, which is
    compiled and takes longer than most calls, is the same each time.
    """
    if not any(ARRAY.search(str(annotation)) for annotation in stub.__annotations__.values()):
        return stub
    if stub.__defaults__ or stub.__kwdefaults__:  # beartype looks at the values too
        return _check(stub)
    key = (stub.__module__, stub.__qualname__, stub.__code__, tuple(stub.__annotations__.items()))
    if key not in _checked:
        _checked[key] = _check(stub)
    return _checked[key]
