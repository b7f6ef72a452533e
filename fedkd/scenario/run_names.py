"""Names of runs: what distinguishes a run from its scenario, in a few words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import yaml

from fedkd.scenario.registry import names
from fedkd.scenario.scenario import Scenario, meaning_of
from fedkd.settings.schema import flat
from fedkd.settings.validators import user_path

LONGEST = 100
"""Letters of a folder's name."""
ALWAYS = ("scenario", "strategy", "strategy.name", "seed", "start_from")
"""Settings that are not listed: the strategy and the seed stand in every name, and a folder is too
long for one."""


def run_name(scenario: Scenario, named_by: Sequence[str] | None = None) -> str:
    """Return the name of a run: what the user calls it, or its strategy, changes and seed.

    ``named_by`` lists other settings than the scenario does, as those that a sweep varies.

    >>> chosen = {"strategy": {"name": "knfu", "beta": 3.0}, "seed": 1}
    >>> named_by = ["strategy.beta", "partition.alpha"]
    >>> run_name(Scenario.parse({**chosen, "report": {"named_by": named_by}}))
    'knfu beta=3 partition.alpha=0.5 seed=1'
    """
    if scenario.report.name:
        return scenario.report.name
    listed = scenario.report.named_by if named_by is None else named_by
    settings = flat(scenario.to_dict())
    found: dict[str, str] = {}
    for key in listed:
        for name, value in settings.items():
            if (name == key or name.startswith(f"{key}.")) and name not in ALWAYS:
                found[name] = as_written(value)
    chosen = [key for key in found if key.endswith(".name")]
    for key in chosen:  # the settings of a component that is named as a whole are its defaults
        prefix = key.removesuffix("name")
        for name in [n for n in found if n.startswith(prefix) and n != key and n not in listed]:
            del found[name]
    strategy = scenario.strategy.name.rpartition(":")[2]
    words = [f"{_short(key)}={value}" for key, value in found.items()]
    return " ".join([strategy, *words, f"seed={scenario.federation.seed}"])


def folder_name(name: str) -> str:
    """Return a run's name as that of a folder.

    >>> folder_name("knfu beta=3 models=[mlp*7,a.b:c]")
    'knfu_beta=3_models=_mlp_7,a.b_c_'
    """
    return re.sub(r"[^\w.,=+-]", "_", name)[:LONGEST]


def naming(keys: Sequence[str]) -> tuple[str, ...]:
    """Return those of some settings that a run's name shows: they affect a figure.

    >>> naming(["strategy.beta", "seed", "report.console", "engine.workers", "strategy.beta"])
    ('strategy.beta',)
    """
    own = (k for k in keys if k not in ALWAYS and not k.startswith(("hydra.", "hydra/")))
    shown = (key for key in own if meaning_of(key).affects != "nothing")
    return tuple(dict.fromkeys(shown))


def parse_named(
    contents: Mapping[str, Any], given: Sequence[str], *, anew: bool = True
) -> Scenario:
    """Return the scenario of settings in a file's form, which knows what its run's name shows.

    Args:
        contents: The settings.
        given: The names of those that the user gave.
        anew: Whether a run begins; one that goes on has been named before.
    """
    data, name = contents.get("data"), str(contents.get("name", ""))
    if isinstance(data, Mapping):
        shown = named_by_data(name, data, names("data"))
        if shown != name and "description" not in given:  # that is of the scenario's own data
            contents = {**contents, "description": ""}
        name = shown
    scenario = Scenario.parse({**contents, "name": name})
    if not anew:
        return scenario
    report, federation = scenario.report, scenario.federation
    if federation.start_from is not None:  # the same folder wherever the run goes on
        whole = str(user_path(federation.start_from, "start_from").resolve())
        federation = replace(federation, start_from=whole)
    named_by = naming([*report.named_by, *given])
    return scenario.changed(report=replace(report, named_by=named_by), federation=federation)


def named_by_data(scenario: str, data: Mapping[str, object], known: Sequence[str]) -> str:
    """Return a scenario's name; that of its data, where it has the name of a data set it is not of.

    >>> named_by_data("digits", {"name": "images", "path": "~/cifar100"}, ["digits", "images"])
    'cifar100'
    >>> named_by_data("knfu_mnist", {"name": "images"}, ["digits", "mnist"])
    'knfu_mnist'

    Args:
        scenario: The scenario's name.
        data: The section of its data.
        known: The names of data sets.
    """
    name = str(data.get("name", scenario))
    if scenario == name or scenario not in known:
        return scenario
    path = data.get("path")
    if isinstance(path, str) and (last := PurePosixPath(path.replace("\\", "/")).name):
        return last
    return name.rpartition(":")[2]


def as_written(value: object) -> str:
    """Return a setting's value as it is written on the command line.

    >>> as_written(3.0), as_written(["mlp", "cnn"]), as_written(None), as_written(0.1)
    ('3', '[mlp,cnn]', 'null', '0.1')
    """
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...").replace(", ", ",")


def _short(key: str) -> str:
    """Return a setting's name without what its value or the strategy's name says already."""
    return key.removesuffix(".name").removeprefix("strategy.")
