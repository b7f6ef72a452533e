"""Parse settings: from what YAML and the command line say to checked objects, and back.

A settings class is any class with typed keyword parameters, usually a frozen dataclass whose fields
carry a string below them that says what they are. Nothing else describes a setting: defaults,
``--help`` and checks follow from it.
"""

import ast
import contextlib
import dataclasses
import difflib
import enum
import inspect
import itertools
import os
import re
import textwrap
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

from fedkd.errors import SettingError, WrongSettings, messages
from fedkd.settings.renamed import setting_hint
from fedkd.settings.setting_types import TypeHint, of_type

T = TypeVar("T")

REQUIRED = "???"
"""Stands for the value of a setting without a default (OmegaConf's sign for a missing value)."""


@cache  # a command asks each of two hundred classes several times
def parameters(cls: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    """Return the settings of a class by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = {name: p for name, p in inspect.signature(cls).parameters.items() if p.kind in kinds}
    return MappingProxyType(found)


def defaults(cls: Callable[..., object]) -> dict[str, object]:
    """Return the default of every setting as plain values; REQUIRED where there is none."""
    found = {}
    for name, parameter in parameters(cls).items():
        value = parameter.default
        field = getattr(cls, "__dataclass_fields__", {}).get(name)
        if field is not None and field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        found[name] = REQUIRED if value is inspect.Parameter.empty else to_values(value)
    return found


def section_values(section: object) -> dict[str, object]:
    """Return the settings of a section by name; TypeError for what is no dataclass."""
    if not dataclasses.is_dataclass(section) or isinstance(section, type):
        raise TypeError(f"{section!r} is no section of settings")
    return {f.name: to_values(getattr(section, f.name)) for f in dataclasses.fields(section)}


def to_values(value: object) -> object:
    """Return settings as plain mappings, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return section_values(value)
    if isinstance(value, Mapping):
        return {key: to_values(v) for key, v in value.items()}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, set | frozenset):
        return [to_values(v) for v in sorted(value)]
    return [to_values(v) for v in value] if isinstance(value, tuple | list) else value


def flat(mapping: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested settings by their dotted names.

    >>> flat({"seed": 0, "public": {"size": 10}})
    {'seed': 0, 'public.size': 10}
    """
    found: dict[str, object] = {}
    for key, value in mapping.items():
        found |= (
            flat(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{key}": value}
        )
    return found


def parse(cls: Callable[..., T], mapping: object, where: str) -> T:
    """Return an object of class ``cls`` from a mapping of its settings.

    ``where`` is the section's name.

    Types are strict: no text becomes a number, no truth value becomes a count. Raises SettingError
    that names the setting as it is written on the command line.
    """
    if not isinstance(mapping, Mapping):
        raise SettingError(f"{where} must be a section of settings, got {mapping!r}")
    known, wrong = parameters(cls), WrongSettings()
    for name in mapping:
        if name not in known:
            with wrong.collected():
                raise _unknown(cls, where, str(name), known)
    hints, values = _hints_or_raise(cls, where), {}
    for name, parameter in known.items():
        with wrong.collected():
            if name in mapping and mapping[name] != REQUIRED:
                values[name] = check_type(hints.get(name, Any), mapping[name], dotted(where, name))
            elif parameter.default is inspect.Parameter.empty:
                raise SettingError(
                    f"{dotted(where, name)} has no default; give it as {dotted(where, name)}=VALUE"
                )
    wrong.raise_any()
    with in_section(where, known):
        try:
            return cls(**values)
        except SettingError:
            raise
        except (ValueError, TypeError) as error:
            raise SettingError(f"{where}: {error}") from error


def _unknown(
    cls: Callable[..., object], where: str, name: str, known: Collection[str]
) -> SettingError:
    """Return the error for a setting that a class does not have.

    Args:
        cls: The class.
        where: The section's name.
        name: The setting's.
        known: Those of the settings that it has.
    """
    why = getattr(cls, "refuses", {}).get(name)
    if why is not None:
        return SettingError(f"there is no setting {dotted(where, name)!r}: {why}")
    return unknown_setting(dotted(where, name), [dotted(where, k) for k in known])


def _hints_or_raise(cls: Callable[..., object], where: str) -> Mapping[str, TypeHint]:
    """Return the types of a class's settings; SettingError where they name what is not there."""
    try:
        return _hints(cls)
    except (NameError, AttributeError, TypeError) as error:
        raise SettingError(
            f"{where}: the types of the settings of {getattr(cls, '__name__', cls)} cannot be"
            f" read: {error}; import them outside TYPE_CHECKING"
        ) from error


@cache
def _hints(cls: Callable[..., object]) -> Mapping[str, TypeHint]:
    """Return the types of a class's settings. Raises what Python does where it cannot read them."""
    owner = cls if dataclasses.is_dataclass(cls) else cls.__init__
    return MappingProxyType(typing.get_type_hints(owner, include_extras=True))


@contextlib.contextmanager
def in_section(where: str, known: Collection[str]) -> Iterator[None]:
    """Put a section's name before the settings that a SettingError of the block begins with.

    ``known`` are the settings of the section.

    >>> with in_section("partition", ["alpha"]):
    ...     raise SettingError("alpha must be > 0, got -1.0")
    Traceback (most recent call last):
    fedkd.errors.SettingError: partition.alpha must be > 0, got -1.0
    """
    try:
        yield
    except SettingError as error:
        placed = [_placed(message, where, known) for message in messages(error)]
        if not where or placed == list(messages(error)):
            raise
        raise SettingError("; ".join(placed)) from error


def _placed(message: str, where: str, known: Collection[str]) -> str:
    """Return a class's complaint with its section before the setting that it begins with."""
    if re.match(rf"{re.escape(where)}\b[.:=]", message):
        return message
    begins = re.match(r"\w*", message)
    return f"{where}.{message}" if begins and begins.group() in known else f"{where}: {message}"


def check_type(hint: TypeHint, value: object, where: str) -> object:
    """Return a value that is of a type, with sections parsed. Raises SettingError for another."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return parse(hint, value, where)
    return of_type(hint, value, where)


def dotted(where: str, name: str) -> str:
    """Return a setting's full name."""
    return f"{where}.{name}" if where else name


def unknown_setting(name: str, known: list[str]) -> SettingError:
    """Return the error for a setting that does not exist, with the nearest ones that do."""
    hint = setting_hint(name)
    if hint is not None:
        return SettingError(hint)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return SettingError(f"there is no setting {name!r}; did you mean {' or '.join(near)}?")
    section = name.rpartition(".")[0]
    siblings = [k for k in known if k.rpartition(".")[0] == section]
    if not siblings:
        return SettingError(
            f"there is no setting {name!r}: this {section} has no settings of its own"
        )
    what = f"settings of this {section}" if section else "settings"
    return SettingError(f"there is no setting {name!r}; the {what} are {', '.join(siblings)}")


def documentation(cls: type) -> dict[str, str]:
    """Return the text below each field of a settings class, in one line each.

    Inherited fields come first.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        found |= _own_documentation(base)
    return found


@cache  # parsing a class takes milliseconds, and many have the same bases
def _own_documentation(cls: type) -> dict[str, str]:
    """Return what is said below each field in a class's own body; nothing without its source."""
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    found: dict[str, str] = {}
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    for field, text in itertools.pairwise(body):
        is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if is_text and isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            found[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[attr-defined]
    return found
