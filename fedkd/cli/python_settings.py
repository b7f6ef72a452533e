"""From the keyword arguments of Python's entry to a scenario, by the checks of the command line.

Names stay names. An object becomes the name and the settings by which a file can make it again; one
that no file can is held in the session under a name (``fedkd.settings.session_objects``).
"""

import contextlib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedkd.cli.arguments import check_changes, parse_arguments, read_scenario
from fedkd.data.given_arrays import CHOICES, hold_data, is_data
from fedkd.data.public import in_public_words
from fedkd.errors import SettingError
from fedkd.models.model_names import written
from fedkd.report.run_checksums import check_run
from fedkd.scenario.registry import GROUPS, create, find, names
from fedkd.scenario.repeatability import only_here
from fedkd.scenario.run_names import parse_named
from fedkd.scenario.scenario import NAMING_MODELS, SECTIONS, Scenario, check_names, meaning_of
from fedkd.scenario.trust import check_trust
from fedkd.settings.import_paths import is_import_path, path_of
from fedkd.settings.schema import defaults, to_values
from fedkd.settings.session_objects import hold, is_session_name, module_path

Settings = Mapping[str, object]
"""Keyword arguments: settings by name or dotted name, sections as mappings, objects."""
ARRAYS = ("data", "public_data")
"""The groups that take data in memory."""


def scenario_of(
    scenario: str | os.PathLike[str], given: Settings, *, trust: bool = False
) -> Scenario:
    """Return the scenario of a name or a file, with settings changed. Raises SettingError.

    A file that names what is not fedkd's is read only where ``trust`` vouches for it.
    """
    from fedkd.cli.hydra_compose import composed

    if not isinstance(scenario, str | os.PathLike):
        raise SettingError(
            f"scenario must be a name or a file, as in fedkd.run('digits'), got {scenario!r}"
        )
    text = os.fspath(scenario)
    is_file = isinstance(scenario, os.PathLike) or text.endswith((".yaml", ".yml"))
    asked = ["--config", text] if is_file else [f"scenario={text}"]
    return parsed(composed(parse_arguments([*asked, f"trust={str(trust).lower()}"])), given)


def resumed_scenario(folder: Path, given: Settings, *, rounds: int | None, trust: bool) -> Scenario:
    """Return the scenario of a run that goes on.

    Args:
        folder: The run's.
        given: Settings that may differ, and objects that no file names, given again.
        rounds: All rounds; None is as the run has it.
        trust: Whether the run may name what is not fedkd's.

    Raises:
        SettingError: It is no run's folder, or a setting may not differ.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise SettingError(f"resume={folder}: no run's folder (it has no config.yaml)")
    check_run(folder, "config.yaml")
    body, given = read_scenario(path), with_data_held(given)
    check_names(body, f"resume={folder}: this run")
    objects = {key: value for key, value in given.items() if not meaning_of(key).resumable}
    for key, value in objects.items():
        if key not in (*GROUPS, "models") or isinstance(value, str | Mapping):
            check_changes([f"{key}={value}"], "a run", ". For another experiment use fedkd.run")
    body = with_objects(body, objects)
    others = {key: value for key, value in body.items() if key not in objects}
    check_trust(others, f"resume={folder}", trust=trust)
    changes = {key: value for key, value in given.items() if key not in objects}
    more = {} if rounds is None else {"rounds": rounds}
    return parsed(body, {**changes, **more}, anew=False)


def with_data_held(given: Settings) -> dict[str, object]:
    """Return settings in which data in memory are a data set that the cache holds.

    What is said of its columns, as in ``**{"data.target": "species"}``, is taken with it.
    """
    changed = dict(given)
    for group in ARRAYS:
        value = changed.get(group)
        is_settings = isinstance(value, Mapping) and not is_data(value)
        if value is None or isinstance(value, str | bool | int | float) or is_settings:
            continue
        if inspect.isclass(value) or hasattr(value, "content_key"):
            continue
        said = {name: changed.pop(f"{group}.{name}", None) for name in CHOICES}
        given_choice = {name: choice for name, choice in said.items() if choice is not None}
        if group == "public_data":
            with in_public_words():
                changed[group] = hold_data(value, given_choice, labeled=False)
        else:
            changed[group] = hold_data(value, given_choice)
    return changed


def _keys(given: Settings) -> Iterator[str]:
    """Yield the names of settings as the command line has them."""
    for key, value in given.items():
        if isinstance(value, Mapping):
            yield from (f"{key}.{name}" for name in value)
        else:
            yield key


def parsed(body: Settings, given: Settings, *, anew: bool = True) -> Scenario:
    """Return the scenario of settings in a file's form, with others changed.

    Whole sections and components come first, so that ``strategy="knfu"`` and
    ``**{"strategy.sharpness": 3}`` go together.

    Args:
        body: The settings.
        given: The others.
        anew: Whether a run begins, whose name then shows what was given.

    Raises:
        SettingError: One of them is unusable.
    """
    changed, given = {key: _copied(value) for key, value in body.items()}, with_data_held(given)
    for key, value in given.items():
        if "." not in key:
            changed[key] = _merged(key, changed.get(key), value)
    for key, value in given.items():
        if "." in key:
            _set(changed, key.split("."), _plain(value, key), key)
    scenario = parse_named(changed, list(_keys(given)), anew=anew)
    check_reachable(scenario)
    return scenario


def with_objects(body: Settings, given: Settings) -> dict[str, Any]:
    """Return a stored run's settings, with each object given again under the name that they have.

    Raises SettingError where a setting is to be another than it was.
    """
    changed = {key: _copied(value) for key, value in body.items()}
    for key, value in given.items():
        was = changed.get(key)
        if key == "models":
            _give_models(was if isinstance(was, list) else [], value)
            continue
        name = was["name"] if isinstance(was, dict) else was
        if isinstance(name, str) and is_session_name(name):
            hold(_made_alike(key, value, was), name)
            continue
        again = named(key, value)
        before = was if isinstance(was, dict) else {"name": was}
        if create(key, again).to_dict() != create(key, before).to_dict():
            raise SettingError(f"{key}={again['name']} is not what this run began with: {name}")
    return changed


def _made_alike(key: str, value: object, was: object) -> object:
    """Return what is given again: a class where the run has its settings.

    Raises SettingError for an object with other settings.
    """
    settings = {k: v for k, v in was.items() if k != "name"} if isinstance(was, dict) else {}
    if not settings or inspect.isclass(value):
        return value
    now = _settings_of(value, type(value))
    different = [name for name in settings if settings[name] != now.get(name)]
    if different:
        name = different[0]
        raise SettingError(
            f"{key}.{name} was {settings[name]!r} when this run began, and is {now.get(name)!r} in"
            " the object that was given; give the same"
        )
    return type(value)


def _give_models(names_of_run: Sequence[object], value: object) -> None:
    """Hold models given again under the names that a run has for them."""
    things = list(value) if isinstance(value, list | tuple) else [value]
    if len(things) != len(names_of_run):
        raise SettingError(
            f"models: {len(things)} were given, this run began with {len(names_of_run)}"
            f" ({', '.join(map(str, names_of_run))})"
        )
    for name, thing in zip(names_of_run, things, strict=True):
        bare = path_of(str(name))
        given = thing.get("name") if isinstance(thing, Mapping) else thing
        if is_session_name(bare) and not isinstance(given, str):
            hold(given, bare)


def named(group: str, value: object) -> dict[str, Any]:
    """Return the name and the settings of what is given for a group of components.

    Raises SettingError for what is no component of it.
    """
    if isinstance(value, str):
        return {"name": value}
    if value is None or isinstance(value, bool | int | float):
        raise SettingError(f"{group} must be a name, a class or an object of one, got {value!r}")
    cls = value if inspect.isclass(value) else type(value)
    if inspect.isclass(value):
        return {"name": _known(group, cls) or module_path(cls) or hold(cls)}
    settings = _settings_of(value, cls)
    if set(defaults(cls)) <= settings.keys() and _is_plain(settings):
        section = {"name": _known(group, cls) or module_path(cls) or hold(cls), **settings}
        if _makes_again(group, section, value):
            return section
    return {"name": hold(value)}


def _is_plain(settings: Settings) -> bool:
    """Return whether a file can hold settings as they are."""
    try:
        return bool(yaml.safe_load(yaml.safe_dump(settings)) == settings)
    except yaml.YAMLError:
        return False


def _known(group: str, cls: type) -> str | None:
    """Return the name by which fedkd knows a class of a group; None for another's."""
    package, _, module = cls.__module__.rpartition(".")
    if package.partition(".")[0] not in ("fedkd", "strategies_here"):
        return None
    for name in (module, *names(group)):  # of strategies, which are many, the file says the name
        with contextlib.suppress(SettingError):
            if not is_import_path(name) and find(group, name) == (cls, defaults(cls)):
                return name
    return None


def _settings_of(value: object, cls: type) -> dict[str, object]:
    return {key: to_values(getattr(value, key)) for key in defaults(cls) if hasattr(value, key)}


def _makes_again(group: str, section: dict[str, Any], value: object) -> bool:
    """Return whether a section of settings makes an object like the one that was given.

    Raises SettingError where one of them is wrong.
    """
    again = create(group, section).value
    try:
        same = again == value if type(again).__eq__ is not object.__eq__ else None
        return bool(vars(again) == vars(value) if same is None else same)
    except (TypeError, ValueError):  # arrays have no single truth
        return False


def _merged(key: str, before: object, value: object) -> object:
    """Return a top-level setting, section or component in a file's form.

    Args:
        key: Its name.
        before: What it was.
        value: What is given.
    """
    if key in GROUPS:
        if isinstance(value, Mapping):
            section = {str(name): _plain(v, f"{key}.{name}") for name, v in value.items()}
            if "name" in section:
                return section
            was = {"name": before} if isinstance(before, str) else before
            return {**(was if isinstance(was, dict) else {}), **section}
        return named(key, value)
    if key in SECTIONS and isinstance(value, Mapping):
        was = before if isinstance(before, dict) else {}
        return {**was, **{str(name): _plain(v, f"{key}.{name}") for name, v in value.items()}}
    if key in NAMING_MODELS and not isinstance(value, str):
        return [_model(one) for one in (value if isinstance(value, list | tuple) else [value])]
    if key == "models":
        return [value]
    return _plain(value, key)


def _model(thing: object) -> str:
    """Return a model by name; a factory, or a class of modules, by its path or in the session."""
    if isinstance(thing, str):
        return thing
    if isinstance(thing, Mapping):
        named_by = {"name": _model(thing["name"])} if "name" in thing else {}
        return written({**thing, **named_by})
    if not callable(thing) or (hasattr(thing, "state_dict") and not inspect.isclass(thing)):
        raise SettingError(
            f"models: a {type(thing).__name__} was given, expected names, or functions (or classes"
            " of torch.nn.Module) that make one of (input_shape, classes)"
        )
    return module_path(thing) or hold(thing)


def _plain(value: object, key: str) -> object:
    """Return a setting as YAML has it. Raises SettingError for what it has no word for."""
    if isinstance(value, np.generic):
        return value.item()
    if key == "start_from" and hasattr(value, "folder"):  # a run
        value = value.folder
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(v, f"{key}.{name}") for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, key) for one in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise SettingError(
        f"{key} must be a number, text, a truth value or a list, got a {type(value).__name__}"
    )


def _set(body: dict[str, Any], path: Sequence[str], value: object, key: str) -> None:
    """Set what a dotted name says in nested settings."""
    section, where = body, path[0]
    if where in GROUPS and isinstance(body.get(where), str):
        body[where] = {"name": body[where]}
    for part in path[:-1]:
        found = section.setdefault(part, {})
        if not isinstance(found, dict):
            raise SettingError(f"there is no setting {key!r}: {part} has no settings of its own")
        section = found
    section[path[-1]] = value


def _copied(value: object) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(one) for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value


def check_reachable(scenario: Scenario) -> None:
    """Raise SettingError where clients in other processes would need objects of this session."""
    found = [one for one in only_here(scenario) if ":" in one]
    if found and not scenario.engine.value.here:
        raise SettingError(
            f"{found[0]}: clients of engine={scenario.engine.name} are in other processes, which"
            " cannot find what a notebook or script defines; put it into a module, or use"
            " engine=local"
        )
