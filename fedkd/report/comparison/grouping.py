"""Finished runs grouped by what differs between their scenarios: into methods and settings.

A scenario comes as settings by their dotted names, those alone that affect a figure, and its name.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from fedkd.errors import SettingError
from fedkd.report.comparison.figures import Setting

NOTHING = "–"
IDENTITY = ("name", "seed")
"""Settings that distinguish no methods: the scenario's name, and which repetition a run is."""
ALWAYS = ("data.name", "partition.name", "partition.alpha", "clients", "models", "rounds")
"""What a reader of a table must know, default or not."""

Config = Mapping[str, Any]


def sort_runs(
    configs: Mapping[Path, Config], by: str = "strategy"
) -> dict[tuple[str, Setting], dict[int, Path]]:
    """Return runs by method and setting, then by seed.

    Raises SettingError where two differ in no setting and seed.

    A method is a strategy with those of its own settings that differ, and with any other setting of
    which each strategy has one value of its own, such as a loss. What else differs is a setting.
    ``by`` puts another group of components, or a single setting, in the strategy's stead; all else
    that differs is a setting then, the strategy too.
    """
    different = differing(configs.values())
    labels = {folder: _method(config, different, by) for folder, config in configs.items()}
    others = [key for key in different if not _is_of(key, by)]
    bound = [
        key
        for key in others
        if by == "strategy" and _is_bound({(labels[f], _text(c, key)) for f, c in configs.items()})
    ]
    found: dict[tuple[str, Setting], dict[int, Path]] = {}
    for folder, config in configs.items():
        label = " ".join(
            [labels[folder], *(_assigned(config, key) for key in bound if key in config)]
        )
        setting = tuple(
            (key.removesuffix(".name"), _text(config, key)) for key in others if key not in bound
        )
        by_seed = found.setdefault((label, setting), {})
        if (seed := config["seed"]) in by_seed:
            raise SettingError(
                f"{by_seed[seed]} and {folder} are the same run twice, {label} with seed {seed};"
                " name one of them"
            )
        by_seed[seed] = folder
    return {key: dict(sorted(by_seed.items())) for key, by_seed in found.items()}


def differing(configs: Iterable[Config]) -> list[str]:
    """Return the settings that differ.

    Settings of a component count where runs of the same component differ in them.

    >>> one = {"strategy.name": "knfu", "strategy.beta": 1, "seed": 0}
    >>> two = {"strategy.name": "fedmd", "seed": 1}
    >>> differing([one, two]), differing([one, one | {"strategy.beta": 2}])
    (['strategy.name'], ['strategy.beta'])
    """
    values: dict[str, set[tuple[Any, str]]] = {}
    for config in configs:
        for key in config:
            section, _, field = key.partition(".")
            if section not in IDENTITY:
                choice = None if field == "name" else config.get(f"{section}.name")
                values.setdefault(key, set()).add((choice, _text(config, key)))
    return [
        key for key, found in values.items() if len({choice for choice, _ in found}) < len(found)
    ]


def in_common(configs: Iterable[Config], defaults: Config) -> str:
    """Return a line on what all runs have in common: what is no default, or is asked for first."""
    known = list(configs)
    different = set(differing(known))
    shared = [
        key for key in known[0] if key not in different and all(key in config for config in known)
    ]
    shown = [
        _assigned(known[0], key)
        for key in shared
        if key.partition(".")[0] not in IDENTITY
        and key != "strategy.name"  # it is the method's name
        and (key in ALWAYS or known[0][key] != defaults.get(key))
    ]
    names = " and ".join(sorted({config["name"] for config in known}))
    seeds = ",".join(map(str, sorted({config["seed"] for config in known})))
    said = ", ".join([f"scenario {names}", f"seed={seeds}", *shown])
    return f"All runs: {said}. What is not named is a default."


def _is_of(key: str, by: str) -> bool:
    """Return whether a setting is the one, or of the group, that tells methods apart."""
    return key == by or key.startswith(f"{by}.")


def _method(config: Config, different: Iterable[str], by: str) -> str:
    fields = [
        key
        for key in different
        if _is_of(key, by) and key not in (f"{by}.name", by) and key in config
    ]
    name = f"{by}.name" if f"{by}.name" in config else by
    return " ".join([_text(config, name), *(_assigned(config, key) for key in fields)])


def _is_bound(pairs: set[tuple[str, str]]) -> bool:
    """Return whether each of several methods has one value of a setting, from pairs of both."""
    methods = {method for method, _ in pairs}
    return 1 < len(methods) == len(pairs)


def _assigned(config: Config, key: str) -> str:
    return f"{key.removesuffix('.name')}={_text(config, key)}"


def _text(config: Config, key: str) -> str:
    """Return a setting as it is written on the command line; a dash where there is none."""
    if key not in config:
        return NOTHING
    text: str = yaml.safe_dump(config[key], default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...").replace(", ", ",")
