"""Components by name: each a settings class, such as a strategy, a data set or an attack.

A component is a section of the scenario that is replaced whole: its ``name`` decides which class
its other settings belong to. ``Components`` declares the groups, each once. A strategy is found by
its file's name (``strategy_files``). Any component may also be a class anywhere on Python's path,
``package.module:Class``.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Generic, TypeVar

from fedkd.audit.audit_settings import AUDITS, Audit
from fedkd.codecs import CODECS, Codec, StrategyDefault
from fedkd.data.column_sources import COLUMN_DATA
from fedkd.data.embedded import EMBEDDED_DATA
from fedkd.data.fetched import FETCHED_DATA
from fedkd.data.partitions import PARTITIONS, Partition
from fedkd.data.prepare import Source
from fedkd.data.public import PUBLIC_DATA, PublicSource
from fedkd.data.sources import DATA, Named
from fedkd.errors import SettingError
from fedkd.flower.engine_run import Engine
from fedkd.flower.engines import ENGINES
from fedkd.models.adapters import ADAPTERS, Adapters
from fedkd.models.heads import HEADS, Heads
from fedkd.privacy import PRIVACY
from fedkd.privacy.mechanisms import Mechanism
from fedkd.robustness.aggregators import ROBUST, Robust
from fedkd.robustness.attacks import ATTACKS, Attack
from fedkd.scenario.strategy_files import Strategies, check_one_meaning
from fedkd.settings.import_paths import (
    check_class,
    import_class,
    is_import_path,
    unknown_component,
)
from fedkd.settings.meaning import Affects, Meaning
from fedkd.settings.renamed import CHOICES
from fedkd.settings.schema import defaults, parse, to_values
from fedkd.settings.session_objects import held, is_held
from fedkd.strategy import Strategy
from fedkd.tasks.text.secrets import CANARIES, NoCanaries, TextCanaries
from fedkd.tasks.text.text_sources import TEXT_DATA

T = TypeVar("T")
Section = Mapping[str, object]
"""A section of a scenario file: settings by name, as YAML has them."""


@dataclass(frozen=True)
class Component(Generic[T]):
    """A named component: the name, its settings as plain values, and the object that they make."""

    name: str
    fields: Section
    value: T

    def to_dict(self) -> dict[str, object]:
        """Return the section as a scenario file has it."""
        return {"name": self.name, **self.fields}


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group of components: which there are, and what the choice means for a run."""

    default: str
    components: Mapping[str, type | Named]
    """Classes by name, or a class with the settings that the name stands for."""
    meaning: Meaning
    in_baseline: str | None
    """The component that a local-only baseline has in its stead; None leaves it the run's own."""
    seam: type | None
    """What a class of one's own must be derived from; None where a class needs only methods."""
    methods: tuple[str, ...] = ()
    """The methods that a class of one's own must have."""
    attributes: tuple[str, ...] = ()
    """The other attributes that its objects must have."""
    check: Callable[[str], None] = lambda name: None
    """Raises SettingError for a name that may mean two things."""


def group(
    default: str,
    components: Mapping[str, type | Named],
    *,
    affects: Affects = "figures",
    resumable: bool = False,
    in_baseline: str | None = None,
    seam: type | None = None,
    methods: tuple[str, ...] = (),
    attributes: tuple[str, ...] = (),
    check: Callable[[str], None] = lambda name: None,
) -> Component[T]:
    """Return the field of a group. The arguments are those of ``Group`` and ``Meaning``.

    Args:
        default: The component of a scenario that names none.
        components: Classes by name.
        affects: Which figures the choice and its settings change.
        resumable: Whether they may change when a run is resumed.
        in_baseline: What a local-only baseline has in its stead.
        seam: What a class of one's own must be derived from.
        methods: The methods that one must have, as they are written.
        attributes: The other attributes that its objects must have.
        check: Raises SettingError for a name that may mean two things.
    """
    meaning = Meaning(affects=affects, resumable=resumable)
    declared = Group(
        default=default,
        components=components,
        meaning=meaning,
        in_baseline=in_baseline,
        seam=seam,
        methods=methods,
        attributes=attributes,
        check=check,
    )
    made: Component[T] = field(metadata={"group": declared})
    return made


SOURCE = ("content_key()", "load()")
"""The methods of a data set."""


@dataclass(frozen=True, kw_only=True)
class Components:
    """The components of a scenario. A group is declared by its field here, and nowhere else."""

    strategy: Component[Strategy] = group(
        "knfu",
        Strategies(),
        affects="exchange",
        in_baseline="local_only",
        methods=("fuse(cohort, state)",),
        check=check_one_meaning,
    )
    data: Component[Source] = group(
        "digits",
        {**DATA, **EMBEDDED_DATA, **COLUMN_DATA, **FETCHED_DATA, **TEXT_DATA},
        methods=SOURCE,
    )
    text_canaries: Component[NoCanaries | TextCanaries] = group("none", CANARIES, seam=TextCanaries)
    public_data: Component[PublicSource] = group(
        "same",
        {**PUBLIC_DATA, **TEXT_DATA},
        affects="exchange",
        in_baseline="same",
        methods=SOURCE,
    )
    partition: Component[Partition] = group(
        "dirichlet", PARTITIONS, methods=("partitioner(clients, rows, seed)",)
    )
    heads: Component[Heads] = group("none", HEADS, seam=Heads)
    adapters: Component[Adapters] = group("none", ADAPTERS, seam=Adapters)
    privacy: Component[Mechanism] = group(
        "none", PRIVACY, affects="exchange", in_baseline="none", seam=Mechanism
    )
    attacks: Component[Attack] = group(
        "none", ATTACKS, affects="exchange", in_baseline="none", seam=Attack
    )
    robust: Component[Robust] = group(
        "none", ROBUST, affects="exchange", in_baseline="none", seam=Robust
    )
    codec: Component[Codec | StrategyDefault] = group(
        "own", {"own": StrategyDefault, **CODECS}, affects="exchange", in_baseline="own", seam=Codec
    )
    # The baseline has the records that an audit plants; ``planting`` is in its key by itself.
    audit: Component[Audit] = group("none", AUDITS, affects="exchange", seam=Audit)
    engine: Component[Engine] = group(
        "local",
        ENGINES,
        affects="nothing",
        resumable=True,
        methods=("describe()", "session(architectures, device)", "run(engine_run)"),
        attributes=("here",),
    )


GROUPS: dict[str, Group] = {f.name: f.metadata["group"] for f in fields(Components)}
"""The groups by name, as ``Components`` declares them."""


def names(group_name: str) -> list[str]:
    """Return the names of a group's components."""
    return list(GROUPS[group_name].components)


def find(group_name: str, name: str) -> tuple[Callable[..., object], dict[str, object]]:
    """Return the class of a component and the settings that its name stands for.

    Raises SettingError for a name that the group does not know, and for an import path of what is
    no such component, of which nothing is called.
    """
    if is_import_path(name):
        group = GROUPS[group_name]
        cls = import_class(name, what=group_name, seam=group.seam, methods=group.methods)
        return cls, defaults(cls)
    if (group_name, name) in CHOICES:
        raise SettingError(f"{group_name}={name} is now {group_name}={CHOICES[group_name, name]}")
    if name not in GROUPS[group_name].components:
        raise unknown_component(group_name, name, names(group_name))
    entry = GROUPS[group_name].components[name]
    cls, given = (entry.cls, entry.fields) if isinstance(entry, Named) else (entry, {})
    return cls, {**defaults(cls), **given}


def create(group_name: str, section: Section) -> Component[object]:
    """Return the component that a section describes: ``name`` and any of its settings."""
    settings = dict(section)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise SettingError(
            f"{group_name}.name must say which one, of {', '.join(names(group_name))}; got {name!r}"
        )
    GROUPS[group_name].check(name)
    if is_held(name) and not inspect.isclass(held(name, what=group_name)):
        return _of_session(group_name, name, settings)
    cls, base = find(group_name, name)
    given = {**base, **settings}
    value = parse(cls, given, group_name)
    missing = [a for a in GROUPS[group_name].attributes if not hasattr(value, a)]
    if missing:
        raise SettingError(
            f"{group_name}={name}: {cls.__name__} has no attribute {' and no '.join(missing)}"
            " (docs/extending.md)"
        )
    return with_value(Component(name, {key: given[key] for key in base}, None), value)


def _of_session(group_name: str, name: str, settings: Section) -> Component[object]:
    """Return the component that an object of this session is, as it is.

    Raises SettingError where it is no such component, or its settings are to be others.
    """
    value, group = held(name, what=group_name), GROUPS[group_name]
    check_class(type(value), name, what=group_name, seam=group.seam, methods=group.methods)
    if settings:
        raise SettingError(
            f"{group_name}.{next(iter(settings))} cannot be set: the object that was given is used"
            f" as it is; give another {type(value).__name__}"
        )
    return Component(name, {}, value)


def with_value(component: Component[object], value: T) -> Component[T]:
    """Return a component with another object, whose settings are read from it.

    A setting of which the object has no attribute stays as it was.
    """
    settings = {
        key: to_values(getattr(value, key, before)) for key, before in component.fields.items()
    }
    return Component(component.name, settings, value)
