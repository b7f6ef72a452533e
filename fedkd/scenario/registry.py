"""Choices by name: each a settings class, such as a strategy, a data set, an attack or an engine.

A choice is a section of the scenario that is replaced whole: its ``name`` decides which class its
other settings belong to. Strategies are found in the ``strategies`` package by their file's name;
any choice may also be a class anywhere on Python's path, ``package.module:Class``.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedkd.audit.audit_settings import AUDITS, Audit
from fedkd.codecs import CODECS, Codec, StrategyDefault
from fedkd.data.partitions import PARTITIONS
from fedkd.data.public import PUBLIC_DATA
from fedkd.data.sources import DATA, Named
from fedkd.errors import SettingError, unknown_name
from fedkd.flower.engines import ENGINES
from fedkd.models.heads import HEADS, Heads
from fedkd.privacy import PRIVACY
from fedkd.robustness.aggregators import ROBUST, Robust
from fedkd.robustness.attacks import ATTACKS, Attack
from fedkd.settings.import_paths import import_path, is_import_path
from fedkd.settings.renamed import CHOICES
from fedkd.settings.schema import defaults, parse, to_values
from fedkd.tasks.text.secrets import CANARIES
from fedkd.tasks.text.text_sources import TEXT_DATA

GROUPS = (
    "strategy",
    "data",
    "text_canaries",
    "public_data",
    "partition",
    "heads",
    "privacy",
    "attacks",
    "robust",
    "codec",
    "audit",
    "engine",
)


@dataclass(frozen=True)
class Component:
    """A named choice: the name, its settings as plain values, and the object they make."""

    name: str
    fields: Mapping[str, Any]
    value: Any

    def to_dict(self) -> dict[str, Any]:
        """Return the section as a scenario file has it."""
        return {"name": self.name, **self.fields}


def names(group: str) -> list[str]:
    """Return the names that a group knows."""
    if group == "strategy":
        import strategies

        return sorted(
            m.name for m in pkgutil.iter_modules(strategies.__path__) if not m.name.startswith("_")
        )
    return list(_TABLES[group])


def find(group: str, name: str) -> tuple[Any, dict[str, Any]]:
    """Return the class of a choice and the default settings that its name stands for."""
    if is_import_path(name):
        cls = import_path(name, what=group)
        if not callable(cls):
            raise SettingError(f"{group}={name} is no class")
        return cls, defaults(cls)
    if (group, name) in CHOICES:
        raise SettingError(f"{group}={name} is now {group}={CHOICES[group, name]}")
    if name not in names(group):
        raise unknown_name(group, name, names(group))
    if group == "strategy":
        cls = _strategy_class(name)
        return cls, defaults(cls)
    entry = _TABLES[group][name]
    cls, fields = (entry.cls, entry.fields) if isinstance(entry, Named) else (entry, {})
    return cls, {**defaults(cls), **fields}


def create(group: str, section: Mapping[str, Any]) -> Component:
    """Return the choice that a section describes: ``name`` and any of its settings."""
    fields = dict(section)
    name = fields.pop("name", None)
    if not isinstance(name, str):
        raise SettingError(
            f"{group}.name must say which one, of {', '.join(names(group))}; got {name!r}"
        )
    cls, base = find(group, name)
    given = {**base, **fields}
    value = parse(cls, given, group)
    seam = SEAMS.get(group)
    if seam is not None and is_import_path(name) and not isinstance(value, seam):
        raise SettingError(
            f"{group}={name} must be derived from {seam.__module__}.{seam.__qualname__}"
            " (docs/extending.md)"
        )
    return Component(name, {key: to_values(getattr(value, key, given[key])) for key in base}, value)


SEAMS: Mapping[str, Any] = {
    "heads": Heads,
    "attacks": Attack,
    "robust": Robust,
    "codec": Codec,
    "audit": Audit,
}
"""What a component must be, by group: said once it is chosen, and not where it first acts."""


def _strategy_class(name: str) -> type:
    module = importlib.import_module(f"strategies.{name}")
    own = [
        c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__
    ]
    found = [c for c in own if hasattr(c, "fuse")]
    if len(found) != 1:
        raise SettingError(
            f"strategies/{name}.py must define one class with a method fuse, it has {len(found)}"
        )
    return found[0]


_TABLES: dict[str, Mapping[str, Any]] = {
    "data": {**DATA, **TEXT_DATA},
    "public_data": PUBLIC_DATA,
    "partition": PARTITIONS,
    "heads": HEADS,
    "privacy": PRIVACY,
    "attacks": ATTACKS,
    "robust": ROBUST,
    "codec": {"own": StrategyDefault, **CODECS},
    "audit": AUDITS,
    "text_canaries": CANARIES,
    "engine": ENGINES,
}
