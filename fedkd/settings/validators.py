"""Checks of single settings, called with the setting's own name so that the message can use it.

``positive(beta=beta)`` raises ``SettingError("beta must be > 0, got -1.0")``. A settings class
calls these in ``__post_init__``; parsing a scenario puts the section's name in front.
"""

import functools
import math
from collections.abc import Hashable
from pathlib import Path
from types import UnionType
from typing import Literal, Union, cast, get_args, get_origin, get_type_hints

from fedkd.errors import SettingError
from fedkd.settings.setting_types import TypeHint, describe_type


def _finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise SettingError(f"{name} must be a finite number, got {value}")


def positive(**settings: float) -> None:
    """Raise unless every value is a finite number above 0."""
    for name, value in settings.items():
        _finite(name, value)
        if value <= 0:
            raise SettingError(f"{name} must be > 0, got {value}")


def at_least(minimum: float, **settings: float) -> None:
    """Raise unless every value is a finite number no smaller than ``minimum``."""
    for name, value in settings.items():
        _finite(name, value)
        if value < minimum:
            raise SettingError(f"{name} must be >= {minimum}, got {value}")


def at_most(maximum: float, **settings: float) -> None:
    """Raise unless every value is a finite number no larger than ``maximum``."""
    for name, value in settings.items():
        _finite(name, value)
        if value > maximum:
            raise SettingError(f"{name} must be <= {maximum:g}, got {value}")


def share(**settings: float) -> None:
    """Raise unless every value is above 0 and at most 1."""
    for name, value in settings.items():
        if not 0 < value <= 1:
            raise SettingError(f"{name} must be above 0 and at most 1, got {value}")


def check_choices(settings: object) -> None:
    """Raise unless every field annotated with a ``Literal`` has one of its values.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Example:
    ...     law: Literal["gaussian", "laplace"] | None = None
    >>> check_choices(Example("normal"))
    Traceback (most recent call last):
    fedkd.errors.SettingError: law must be one of gaussian, laplace or null, got 'normal'
    """
    for name, (hint, allowed) in _choices(cast(Hashable, type(settings))).items():
        value = getattr(settings, name)
        if not any(value == choice and type(value) is type(choice) for choice in allowed):
            raise SettingError(f"{name} must be {describe_type(hint)}, got {value!r}")


@functools.cache
def _choices(cls: Hashable) -> dict[str, tuple[TypeHint, tuple[object, ...]]]:
    """Return the values of each field whose type is a ``Literal``, alone or with None."""
    found = {}
    for name, hint in get_type_hints(cls).items():
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        others = [p for p in parts if get_origin(p) is not Literal]
        if len(others) < len(parts) and set(others) <= {type(None)}:
            values = [v for p in parts if get_origin(p) is Literal for v in get_args(p)]
            found[name] = hint, (*values, *([None] if others else []))
    return found


def only_with(condition: bool, reason: str, **settings: object) -> None:
    """Raise if a setting is given (is not None) that would do nothing.

    ``condition`` says whether it does something, ``reason`` why not.
    """
    for name, value in settings.items():
        if value is not None and not condition:
            raise SettingError(f"{name}={value} would do nothing: {reason}")


def user_path(text: str, what: str) -> Path:
    """Return the path that a user gave, ``~`` being the home; ``what`` is the option for errors."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # nobody knows a home
        raise SettingError(f"{what}={text}: {error}; write the path without ~") from error
