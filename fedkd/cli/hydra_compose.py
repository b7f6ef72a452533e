"""Scenarios composed by Hydra: the only module that imports it.

Hydra gives three things: the grammar of ``key=value`` (lists, quotes, nested names), the
composition of a scenario file with what replaces parts of it, and ``-m``, all combinations of
several values. It checks nothing: every setting is forced, and ``Scenario.parse`` says what exists
and what fits.

Each group of components is a group of Hydra's. A scenario file becomes one option of every group
that it chooses in, so that ``strategy=fedmd`` on top of a scenario replaces its strategy whole and
leaves none of its settings.
"""

import contextlib
import functools
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedkd.cli.arguments import (
    Arguments,
    check_one_scenario,
    choice,
    is_call,
    names_given,
    overrides,
    read_scenario,
    split_values,
)
from fedkd.errors import FedkdError, SettingError
from fedkd.scenario.registry import GROUPS, find, names
from fedkd.scenario.run_names import folder_name, naming, parse_named, run_name
from fedkd.scenario.scenario import SECTIONS, TOP, Scenario
from fedkd.scenario.trust import check_trust, names_strategy_here
from fedkd.settings.import_paths import is_import_path
from fedkd.settings.schema import defaults

DEFAULT_SCENARIO = "digits"
ROOT = str(files("fedkd.scenarios"))
"""Hydra's folder of configurations. It has no subfolders, which Hydra would take for groups."""
OWN = {
    "run": {"dir": "."},
    "sweep": {
        "dir": "runs/${now:%Y-%m-%d}_${now:%H-%M-%S}_sweep",
        "subdir": "${hydra.job.num}",
    },
    "output_subdir": None,
    "job": {"chdir": False},
}
"""Hydra's own settings: a run's files are fedkd's business."""


@dataclass(frozen=True)
class SweepJob:
    """One combination of a sweep's values."""

    scenario: Scenario
    varied: Mapping[str, str]
    """What distinguishes it from the others, as it was written."""
    name: str
    """The same in words, for its folder and the console."""
    folder: Path
    position: int
    """Which of the jobs it is, from 1."""
    jobs: int | None
    """How many there are; None where another sweeper than Hydra's own finds out on the way."""
    in_turn: bool
    """Whether one job runs after the other."""


def compose_scenario(arguments: Arguments) -> Scenario:
    """Return the scenario of one run. Raises SettingError."""
    scenario = _scenario_of(composed(arguments), arguments)
    objective = scenario.federation.objective
    if objective is not None:
        raise SettingError(
            f"objective={objective} would do nothing: it is what a run of a sweep returns; leave it"
            " out, or sweep with -m"
        )
    return scenario


def composed(arguments: Arguments) -> dict[str, Any]:
    """Return the settings of one run, whole, as a file has them. Raises SettingError."""
    _register(arguments)
    forced = [_forced(setting) for setting in arguments.settings]
    with _one_line(), hydra.initialize_config_dir(ROOT, version_base="1.3"):
        return _contents(hydra.compose("fedkd", overrides=forced), arguments)


def run_jobs(
    arguments: Arguments,
    run_one: Callable[[Scenario], None],
    run_job: Callable[[SweepJob], float | None],
) -> None:
    """Let Hydra do what its options ask for. Raises SettingError, or what a run raises.

    Args:
        arguments: What the command asks for.
        run_one: Runs a scenario, where there is no sweep.
        run_job: Runs one job of a sweep, and returns its objective if it has one.
    """
    failures: list[FedkdError] = []

    def task(config: DictConfig) -> float | None:
        job = ""
        try:
            if not arguments.sweeps:
                run_one(_parsed(config, arguments))
                return None
            varied = _varied(arguments.varied)
            job = " ".join(f"{key}={value}" for key, value in varied.items())
            names = names_given(arguments.settings)
            named_by = [name for name in names if {name, name.split(".")[0]} & varied.keys()]
            return run_job(_sweep_job(_parsed(config, arguments), varied, named_by, forced))
        except FedkdError as error:
            failures.append(type(error)(f"{job}: {error}") if job else error)
            failures[0].__cause__ = error
            if not arguments.sweeps or _chooses():  # the other jobs of a sweep go on
                raise _Failed from error
            return None

    _register(arguments)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors reach us as they are
    forced = [_forced(setting) for setting in arguments.settings]
    shown = ["python -m fedkd.simulate", *forced, *arguments.flags]
    with _one_line(), _command_line(shown), contextlib.suppress(_Failed):
        hydra.main(version_base="1.3", config_path=ROOT, config_name="fedkd")(task)()
    if failures:
        raise failures[0]


def _sweep_job(
    scenario: Scenario, varied: Mapping[str, str], named_by: Sequence[str], forced: Sequence[str]
) -> SweepJob:
    """Return the job that Hydra is about to run. Raises SettingError where it can be of no use.

    Args:
        scenario: The job's.
        varied: What distinguishes it from the others, as it was written.
        named_by: The settings that its name shows.
        forced: The arguments as Hydra reads them.
    """
    config = HydraConfig.get()
    if _chooses() and scenario.federation.objective is None:
        sweeper = config.runtime.choices.get("hydra/sweeper")
        raise SettingError(
            f"hydra/sweeper={sweeper} chooses runs by a figure; say which, as in"
            " objective=global_accuracy"
        )
    position = int(config.job.num) + 1
    folder, name = Path(config.runtime.output_dir), run_name(scenario, naming(named_by))
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    if folder.name == str(config.job.num):  # nobody has named it otherwise
        with contextlib.suppress(OSError):  # there is a run in it
            folder.rmdir()
        begun = [path.parent for path in folder.parent.glob(f"{folder.name}_*/config.yaml")]
        older = [folder] if (folder / "config.yaml").exists() else []
        folder = next(
            iter([*begun, *older]), folder.with_name(f"{folder.name}_{folder_name(name)}")
        )
    return SweepJob(
        scenario=scenario,
        varied=varied,
        name=name,
        folder=folder,
        position=position,
        jobs=None if _chooses() else _count_jobs(forced),
        in_turn=str(config.launcher["_target_"]).endswith("BasicLauncher"),
    )


def _chooses() -> bool:
    """Return whether a sweeper such as Optuna's chooses runs by what the last ones gave."""
    return not str(HydraConfig.get().sweeper["_target_"]).endswith("BasicSweeper")


def _count_jobs(given: Sequence[str]) -> int:
    """Return how many combinations of values Hydra makes of these settings."""
    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(given))
    varied = (override for override in parsed if override.is_sweep_override())
    return math.prod(len(list(override.sweep_string_iterator())) for override in varied)


class _Failed(BaseException):
    """What ends Hydra's main function after an error of ours. Of an Exception it prints a line."""


def _varied(keys: set[str]) -> dict[str, str]:
    """Return what distinguishes the job that Hydra is about to run, as it was written."""
    overridden = HydraConfig.get().overrides.task
    pairs = (override.lstrip("+~").partition("=") for override in overridden)
    written = {key: value for key, _, value in pairs if key in keys}
    read = {key: re.sub(r"\\(.)", r"\1", value) for key, value in written.items()}
    return {
        key: value.strip("'") if key in GROUPS and is_call(value.strip("'")) else value
        for key, value in read.items()
    }


def _parsed(config: DictConfig, arguments: Arguments) -> Scenario:
    return _scenario_of(_contents(config, arguments), arguments)


def _contents(config: DictConfig, arguments: Arguments) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(config, resolve=True)
    check_trust(found, f"resume={arguments.foreign}", trust=not arguments.foreign)
    contents: dict[str, Any] = found
    return contents


def _scenario_of(contents: dict[str, Any], arguments: Arguments) -> Scenario:
    """Return the scenario of composed settings; a run that goes on has been named before."""
    given = [*names_given(arguments.settings)]
    return parse_named(contents, given, anew=arguments.resumed is None)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Make a SettingError of one line of what Hydra raises."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise SettingError(" ".join(str(error).split())) from error


@contextlib.contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """Show Hydra's main function other arguments: it reads ``sys.argv``."""
    before = sys.argv
    sys.argv = arguments
    try:
        yield
    finally:
        sys.argv = before


def _register(arguments: Arguments) -> None:
    """Tell Hydra the schema, every component of every group, and the scenarios."""
    settings, scenarios = arguments.settings, arguments.scenarios
    top = {key: value for cls in TOP.values() for key, value in defaults(cls).items()}
    sections = {key: defaults(cls) for key, cls in SECTIONS.items()}
    listed: list[Any] = [
        "_self_",
        *({name: group.default} for name, group in GROUPS.items()),
        {"scenario": DEFAULT_SCENARIO},
        {"override hydra/job_logging": "none"},
        {"override hydra/hydra_logging": "none"},
    ]
    _store({"defaults": listed, "name": "", **top, **sections, "hydra": OWN}, name="fedkd")
    wanted = [(group, name) for group in GROUPS for name in names(group)]
    for key, values in overrides(settings):
        of_ones_own = [value for value in values if is_import_path(value) or is_call(value)]
        wanted += [(key, value) for value in of_ones_own if key in GROUPS]
    for group, name in wanted:
        is_here = group == "strategy" and names_strategy_here(name)
        if is_here and not _may_be_chosen(group, name, settings):
            continue
        _store(choice(group, name), group=group, name=name)
    for name, path in scenarios.items():
        if name in _chosen(settings, scenarios):
            check_one_scenario(name, path)
            body = read_scenario(path)
            check_trust(body, str(path), trust=not arguments.foreign)
            _register_scenario(name, path, body)


_FUNCTION = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|extend_list)\((.*)\)")
"""A function of Hydra's, and what it is given."""


def _quoted(value: str) -> str:
    """Return a value in quotes, or with its members in quotes, where Hydra's grammar has no words.

    Such are an umlaut, a home as in ``~/data``, a model with arguments. What begins with a quote
    stays as it is.
    """
    if _is_readable(value) or value[:1] in ("'", '"'):
        return value
    if value[:1] + value[-1:] == "[]":
        return f"[{_members(value[1:-1])}]"
    if value[:1] + value[-1:] == "{}":
        return f"{{{_members(value[1:-1], behind=':')}}}"
    function = _FUNCTION.fullmatch(value)
    if function is not None:
        return f"{function[1]}({_members(function[2], behind='=')})"
    return value if value[:1] in ("[", "{") else _in_quotes(value)


def _globbed(group: str, value: str) -> list[str]:
    """Return the components of a group that a ``glob`` names; another value as it is.

    Hydra would name the options that scenarios are made of as well.
    """
    pattern = _grammar().parse_override(f"k={value}").value()
    if not isinstance(pattern, Glob):
        return [value]
    found: list[str] = pattern.filter(names(group))
    if not found:
        raise SettingError(f"{group}={value} names none of {', '.join(names(group))}")
    return found


def _members(text: str, behind: str = "") -> str:
    """Return the members of a list with quotes where needed, of each what is behind its name."""
    written = []
    for member in split_values(text):
        name = re.match(rf"\s*\w+\s*{behind}", member) if behind else None
        begin = name.end() if name is not None else 0
        written.append(member[:begin] + _quoted(member[begin:].strip()))
    return ",".join(written)


def _in_quotes(text: str) -> str:
    """Return a text as Hydra reads it: backslashes are doubled only before a quote."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    trailing = escaped[len(escaped.rstrip("\\")) :]
    return f"'{escaped}{trailing}'"


def _is_readable(value: str) -> bool:
    """Return whether Hydra's grammar reads a value, as one or as several."""
    try:
        read = _grammar().parse_override(f"k={value}")
    except (HydraException, RecursionError):
        return False
    return read is not None


@functools.cache
def _grammar() -> OverridesParser:
    return OverridesParser.create()


def _chosen(settings: Sequence[str], scenarios: Mapping[str, Path]) -> Collection[str]:
    """Return the scenarios that may be asked for. Of others nothing is looked up or imported."""
    asked = [v for key, values in overrides(settings) if key == "scenario" for v in values]
    if any("(" in value for value in asked):  # which ones, Hydra works out
        return scenarios
    return [value.strip().strip("'\"") for value in asked] or [DEFAULT_SCENARIO]


def _may_be_chosen(group: str, name: str, settings: Sequence[str]) -> bool:
    """Return whether settings may choose a component; a function of Hydra's may choose any."""
    values = [v for key, values in overrides(settings) if key == group for v in values]
    return any("(" in value or value.strip().strip("'\"") == name for value in values)


_stored: dict[tuple[str, str], str] = {}
"""What Hydra has been told under a group and a name, so that it is told each node once."""


def _store(node: dict[str, Any], *, group: str = "", name: str, package: str | None = None) -> None:
    text = repr(node)  # tells 1 from 1.0 and from true, which are equal
    if _stored.get((group, name)) != text:
        ConfigStore.instance().store(name=name, node=node, group=group or None, package=package)
        _stored[group, name] = text


def _register_scenario(name: str, path: Path, body: dict[str, Any]) -> None:
    """Tell Hydra a scenario: its own settings, and an option of each group that it chooses in."""
    chosen: list[Any] = []
    for group in GROUPS:
        section = body.pop(group, None)
        if section is None:
            continue
        section = {"name": section} if isinstance(section, str) else section
        if not isinstance(section, dict) or not isinstance(section.get("name"), str):
            raise SettingError(f"{path}: {group} must be a name, or a section with a name")
        option = f"{section['name']} of scenario {name}"
        try:
            known = find(group, section["name"])[1]
        except SettingError as error:
            raise SettingError(f"{path}: {error}") from error
        _store({**known, **section}, group=group, name=option)
        chosen.append({f"override /{group}": option})
    body["name"] = body.get("name") or name
    node = {"defaults": [*chosen, "_self_"], **body}
    _store(node, group="scenario", name=name, package="_global_")


def _forced(argument: str) -> str:
    """Return an override that Hydra sets without asking whether it exists.

    Components (``strategy=fedmd``), Hydra's own settings and arguments with a sign of their own
    stay as they are.
    """
    key, equals, value = argument.partition("=")
    if equals:
        calls = key in GROUPS
        values = [
            _in_quotes(one) if calls and is_call(one) else _quoted(one)
            for one in split_values(value)
        ]
        if not all(map(_is_readable, values)):
            raise SettingError(
                f"{argument} cannot be read: quotes or brackets are open, or stand where none can;"
                f" a list is {key}=[a,b], and text with such signs has quotes of its own,"
                f" '{key}=\"...\"'"
            )
        if key == "models":  # one model alone stands for a list of one
            values = [f"[{one}]" if one.startswith("{") else one for one in values]
        if key in GROUPS:
            values = [name for one in values for name in _globbed(key, one)]
        argument = f"{key}={','.join(values)}"
    composed = "=" in argument and key[:1] not in "+~-" and not key.startswith("hydra")
    return f"++{argument}" if composed and key not in (*GROUPS, "scenario") else argument
