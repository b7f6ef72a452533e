"""Checks of single settings, called with the setting's own name so that the message can use it.

``positive(beta=beta)`` raises ``SettingError("beta must be > 0, got -1.0")``. A settings class
calls these in ``__post_init__``; whoever parses a scenario puts the section's name in front.
"""

import math
from collections.abc import Sequence

from fedkd.errors import SettingError


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


def one_of(choices: Sequence[str], **settings: str) -> None:
    """Raise unless every value is one of ``choices``."""
    for name, value in settings.items():
        if value not in choices:
            raise SettingError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def only_with(condition: bool, reason: str, **settings: object) -> None:
    """Raise if a setting is given (is not None) although ``condition`` says that it would do
    nothing.
    """
    for name, value in settings.items():
        if value is not None and not condition:
            raise SettingError(f"{name}={value} would do nothing: {reason}")
