"""Types of settings: which values an annotation takes, and how messages call it.

Not for: sections of settings, which are classes (``fedkd.settings.schema``).
"""

import enum
import inspect
import json
import os
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from fedkd.errors import SettingError

TypeHint: TypeAlias = Any
"""What an annotation says: a class, a union, a ``Literal``; Python has no type for all of them."""

_LISTS: tuple[object, ...] = (tuple, list, set, frozenset, Sequence)
_DICTIONARIES: tuple[object, ...] = (dict, Mapping)
_UNIONS: tuple[object, ...] = (typing.Union, types.UnionType)
_WORDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    Path: "a path",
}
_REFUSED = (ValidationError, TypeError, ValueError, RuntimeError)


def of_type(hint: TypeHint, value: object, where: str) -> object:
    """Return the value of a setting, with lists as its type has them and ``~`` in a path as home.

    Types are strict, but for what YAML cannot write: a list may become a tuple or a set, text a
    path or a member of an enumeration. One value stands for a list of one.

    Args:
        hint: The type.
        value: What YAML, or the command line, says.
        where: The setting's name.

    Raises:
        SettingError: The value is of another type, or no setting can be of this type.
    """
    try:
        adapter = _adapter(hint)
    except PydanticUserError as error:
        raise SettingError(
            f"{where} is declared as {_shown(hint)}, which no setting can be: declare numbers,"
            " text, true or false, null, paths, or lists and dictionaries of these"
        ) from error
    attempts = [value]
    if _is_list(hint) and isinstance(value, str | int | float):
        attempts.append([value])
    refusal: Exception | None = None
    for attempt in attempts:
        for validated in (_as_python, _as_json):
            try:
                return _expanded(validated(adapter, attempt))
            except _REFUSED as error:
                refusal = refusal or error
    shown = list(value) if isinstance(value, tuple) else value
    why = _condition(hint, refusal)
    raise SettingError(f"{where} must be {describe_type(hint)}, got {shown!r}{why}") from refusal


@cache
def _adapter(hint: TypeHint) -> TypeAdapter[object]:
    return TypeAdapter(hint)


def _as_python(adapter: TypeAdapter[object], value: object) -> object:
    """Return a value that is of the type as it stands; a list is taken for a tuple."""
    return adapter.validate_python(tuple(value) if isinstance(value, list) else value, strict=True)


def _as_json(adapter: TypeAdapter[object], value: object) -> object:
    """Return a value that is of the type as JSON has it. Numbers of NumPy's pass for Python's."""

    def written(part: Any) -> object:
        return part.item() if hasattr(part, "item") else os.fspath(part)

    return adapter.validate_json(json.dumps(value, default=written), strict=True)


def _expanded(value: object) -> object:
    return value.expanduser() if isinstance(value, Path) else value


def _is_list(hint: TypeHint) -> bool:
    """Return whether a type is a list of any length, or null."""
    arguments = get_args(hint)
    if get_origin(hint) in _UNIONS:
        others = [part for part in arguments if part is not type(None)]
        return len(others) == 1 and _is_list(others[0])
    if get_origin(hint) in _LISTS[:1]:
        return len(arguments) == 2 and arguments[1] is Ellipsis
    return get_origin(hint) in _LISTS


def _condition(hint: TypeHint, refusal: Exception | None) -> str:
    """Return what a condition in a type says of a value, in brackets; empty without one."""
    declared: object = get_origin(hint)
    if declared is not Annotated or not isinstance(refusal, ValidationError):
        return ""
    return f" ({refusal.errors()[0]['msg']})"


def _shown(hint: TypeHint) -> str:
    """Return a type as it is written."""
    return hint.__name__ if isinstance(hint, type) else str(hint)


def choices_within(hint: TypeHint) -> list[str]:
    """Return the values that a type lists, as they are written; none where it lists none.

    >>> choices_within(int | None), choices_within(Literal["fast", "exact"]), choices_within(bool)
    (['null'], ['fast', 'exact'], ['true', 'false'])
    """
    listed: list[str] = []
    for one in get_args(hint) if get_origin(hint) in _UNIONS else (hint,):
        if one is bool:
            listed += ["true", "false"]
        elif one is type(None):
            listed.append("null")
        elif get_origin(one) is Literal:
            listed += map(str, get_args(one))
    return listed


def describe_type(hint: TypeHint) -> str:
    """Return a type in the words of a message.

    >>> describe_type(int | None), describe_type(Literal["sgd", "adam"])
    ('a whole number or null', 'one of sgd, adam')
    >>> describe_type(list[int] | None)
    'null or a list, as in [a,b], of which each is a whole number'
    """
    origin: object = get_origin(hint) or hint
    arguments = get_args(hint)
    if origin in _UNIONS:
        # Behind a list, "or null" would be said of its members.
        if set(arguments) >= {int, float}:  # of which each is a number
            arguments = tuple(part for part in arguments if part is not int)
        parts = sorted(arguments, key=lambda part: get_origin(part) in _LISTS + _DICTIONARIES)
        return " or ".join(describe_type(part) for part in parts)
    if origin is Annotated:
        return describe_type(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if inspect.isclass(origin) and issubclass(origin, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in origin)
    if origin in _LISTS:
        return f"a list, as in [a,b]{_of_which(arguments[:1])}"
    if origin in _DICTIONARIES:
        return f"a dictionary, as in {{a:1,b:2}}{_of_which(arguments[1:])}"
    return _WORDS.get(origin, _shown(hint))


def _of_which(arguments: Sequence[TypeHint]) -> str:
    """Return what the members of a list must be, in words; empty where nothing is said."""
    return "".join(f", of which each is {describe_type(argument)}" for argument in arguments)
