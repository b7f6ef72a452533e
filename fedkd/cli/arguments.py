"""The command's arguments: settings apart from options, each name checked before anything runs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from fedkd.errors import SettingError, WrongSettings, unknown_name
from fedkd.models.model_names import split_arguments
from fedkd.report.run_checksums import check_run
from fedkd.scenario.registry import GROUPS, find
from fedkd.scenario.scenario import (
    SECTIONS,
    TOP,
    check_key,
    check_names,
    meaning_of,
    resumable_in_words,
)
from fedkd.scenario.trust import check_trust
from fedkd.settings.schema import defaults, unknown_setting
from fedkd.settings.validators import user_path

SWITCHES = ("-m", "--multirun", "--resolve", "--version", "--hydra-help")
"""Hydra's options without a value."""
OPTIONS = ("--cfg", "-c", "--package", "-p", "--info", "-i")
"""Hydra's options with a value."""
SHIPPED = Path(str(files("fedkd.scenarios")))
"""fedkd's own scenarios."""
HERE = Path("scenarios")
"""Where the working folder may have more of them."""
_SWEEP = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|extend_list)\(")
"""How a value begins that Hydra takes for several."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What a command asks for."""

    settings: list[str]
    """``key=value`` each."""
    flags: list[str]
    """Options that are Hydra's."""
    resumed: Path | None
    """The folder of a run that is to go on."""
    scenarios: dict[str, Path]
    """Scenario files by name."""
    foreign: str = ""
    """Where the arguments are from; empty where they are the user's own, or vouched for."""

    @property
    def sweeps(self) -> bool:
        """Whether all combinations of values are asked for."""
        return "-m" in self.flags or "--multirun" in self.flags

    @property
    def varied(self) -> set[str]:
        """The keys that have several values."""
        return {
            key
            for key, values in overrides(self.settings)
            if len(values) > 1 or _SWEEP.match(values[0])
        }

    @property
    def is_one_run(self) -> bool:
        """Whether nothing is asked for that Hydra's own main function must do."""
        of_hydra = any(setting.lstrip("+~").startswith("hydra") for setting in self.settings)
        return not (self.flags or self.varied or of_hydra)


def parse_arguments(given: Sequence[str], foreign: str = "") -> Arguments:
    """Return the checked arguments. Raises SettingError for an unknown option, scenario or name.

    ``foreign`` is the folder that the arguments were read from, if nobody vouches for it.
    """
    rest, trust = trusts(given)
    rest, folder = value_of(rest, "--config-dir")
    rest, config = value_of(rest, "--config")
    settings, flags = _flags(rest)
    settings, resumed = value_of(settings, "resume")
    run_dir = None if resumed is None else user_path(resumed, "resume")
    if run_dir is not None:
        config = _config_of(run_dir, settings, flags, config)
    scenarios = scenario_files(folder)
    if config is not None:
        if any(setting.startswith("scenario=") for setting in settings):
            raise SettingError("--config FILE is a scenario of its own; leave out scenario=")
        file = _existing(config)
        where = f"--config {config}" if run_dir is None else f"resume={run_dir}"
        check_trust(read_scenario(file), where, trust=trust)
        scenarios = {**scenarios, "config": file}
        settings = ["scenario=config", *settings]
    _check_names(settings, scenarios)
    arguments = Arguments(
        settings=settings, flags=flags, resumed=run_dir, scenarios=scenarios, foreign=foreign
    )
    if arguments.varied and not arguments.sweeps:
        raise _several_values(arguments)
    _check_folder_of_sweep(arguments)
    return arguments


def _check_folder_of_sweep(arguments: Arguments) -> None:
    """Raise SettingError where all runs of a sweep would have one folder."""
    given = [s for s in arguments.settings if s.lstrip("+~").startswith("run_dir=")]
    if arguments.varied and given and "run_dir" not in arguments.varied:
        raise SettingError(
            f"{given[-1]} would be the folder of every run of the sweep; leave it out, or name the"
            f" folder of all of them by hydra.sweep.dir={given[-1].partition('=')[2]}"
        )


def _several_values(arguments: Arguments) -> SettingError:
    """Return the error for a setting that lists several values where one run is asked for."""
    key = min(arguments.varied)
    written = next(s for s in arguments.settings if s.lstrip("+~").startswith(f"{key}="))
    values = written.partition("=")[2]
    as_list = "" if _SWEEP.match(values) else f", or write {key}=[{values}] if it is a list"
    return SettingError(
        f"{written} gives {key} several values: add -m to run each of them{as_list}"
    )


def scenario_files(folder: str | None = None) -> dict[str, Path]:
    """Return the scenario files by name: fedkd's, those of the working folder, the user's folder's.

    A file in ``scenarios/`` of the working folder never takes the place of one of fedkd's. Those of
    the folder that the user names win.
    """
    found = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
    for path in sorted(HERE.glob("*.yaml")):
        found.setdefault(path.stem, path)
    if folder is not None:
        users = user_path(folder, "--config-dir")
        if not users.is_dir():
            raise SettingError(
                f"--config-dir {folder}: no such folder; it must hold scenario files, NAME.yaml"
            )
        found |= {path.stem: path for path in sorted(users.glob("*.yaml"))}
    return found


def check_one_scenario(name: str, path: Path) -> None:
    """Raise SettingError where the working folder has another scenario of the name of fedkd's own.

    One that says the same is no second meaning, and neither is a file that is no scenario.
    """
    here = HERE / f"{name}.yaml"
    if path.parent != SHIPPED or not here.is_file() or here.read_bytes() == path.read_bytes():
        return
    try:
        body = read_scenario(here)
    except SettingError:
        return
    settings = [key for cls in TOP.values() for key in defaults(cls)]
    known = {*GROUPS, *SECTIONS, *settings, "name"}
    if 2 * len(known & body.keys()) >= len(body):
        raise SettingError(
            f"scenario={name} is one of fedkd's own, and {here} of this folder is another; rename"
            f" that file, or run it by --config {here}"
        )


def value_of(given: Sequence[str], option: str) -> tuple[list[str], str | None]:
    """Return the arguments without ``option VALUE`` or ``option=VALUE``, and the value.

    >>> value_of(["seed=1", "--config", "a.yaml"], "--config")
    (['seed=1'], 'a.yaml')
    """
    rest, value, waiting = [], None, False
    for argument in given:
        if waiting:
            value, waiting = argument, False
        elif argument == option:
            waiting = True
        elif argument.startswith(option + "="):
            value = argument.partition("=")[2]
        else:
            rest.append(argument)
    if waiting:
        raise SettingError(f"{option} needs a value")
    return rest, value


def trusts(given: Sequence[str]) -> tuple[list[str], bool]:
    """Return the arguments without ``trust=true``, and whether it was among them.

    It vouches for what is from elsewhere: what that names may be imported.
    """
    rest, word = value_of(given, "trust")
    if word not in (None, "true", "false"):
        raise SettingError(f"trust must be true or false, got {word!r}")
    return rest, word == "true"


def read_scenario(path: Path) -> dict[str, Any]:
    """Return the settings in a scenario file. Raises SettingError where it holds none."""
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SettingError(
            f"scenario file {path} cannot be read: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(body, dict):
        raise SettingError(f"scenario file {path} must hold settings, as in 'clients: 10'")
    for name in ("defaults", "hydra"):
        if name in body:
            raise SettingError(f"scenario file {path}: there is no setting {name!r}")
    return body


def overrides(given: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each ``key=value`` argument as its key and the values that it lists.

    >>> list(overrides(["seed=0,1", "models=[mlp,cnn]", "-m"]))
    [('seed', ['0', '1']), ('models', ['[mlp,cnn]'])]
    """
    for argument in given:
        key, equals, value = argument.partition("=")
        if equals and not key.startswith("-"):
            yield key.lstrip("+~"), split_values(value)


def given_twice(given: Sequence[str]) -> dict[str, list[str]]:
    """Return the settings that arguments give more than once, with how each is written.

    >>> given_twice(["seed=1", "rounds=2", "seed=3"])
    {'seed': ['seed=1', 'seed=3']}
    """
    written: dict[str, list[str]] = {}
    for argument in given:
        for key, _ in overrides([argument]):
            written.setdefault(key, []).append(argument)
    return {key: several for key, several in written.items() if len(several) > 1}


def split_values(text: str) -> list[str]:
    """Return the values between commas, except commas in brackets and quotes.

    >>> split_values("[mlp,cnn],zoo:Net(width=8,depth=2)"), split_values("'a,b'")
    (['[mlp,cnn]', 'zoo:Net(width=8,depth=2)'], ["'a,b'"])
    """
    parts, depth, quote, begin, escaped = [], 0, "", 0, False
    for i, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and not escaped else quote
        elif letter in "'\"" and text[:i].rstrip()[-1:] in ("", *"[{(,:="):
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in ")}]":
            depth -= 1
        elif letter == "," and depth <= 0:
            parts.append(text[begin:i])
            begin = i + 1
        escaped = letter == "\\" and not escaped
    return [*parts, text[begin:]]


def is_call(value: str) -> bool:
    """Return whether a component is named with settings, and the value is no function of Hydra's.

    >>> is_call("dirichlet(alpha=0.1)"), is_call("choice(iid,shard)"), is_call("iid")
    (True, False, False)
    """
    return "(" in value and value[:1] not in "[{'\"" and not _SWEEP.match(value)


def choice(group: str, value: str) -> dict[str, Any]:
    """Return the settings of the component that a value names, as in ``dirichlet(alpha=0.1)``.

    Raises SettingError for a component or a setting that does not exist.
    """
    name, given = split_arguments(value, group) if is_call(value) else (value, {})
    known = find(group, name)[1]
    for setting in given:
        if setting not in known:
            raise unknown_setting(f"{group}.{setting}", [f"{group}.{other}" for other in known])
    return {"name": name, **known, **given}


def names_given(given: Sequence[str]) -> Iterator[str]:
    """Yield the settings that arguments name, those of a component that is written as a call too.

    >>> list(names_given(["seed=1", "partition=dirichlet(alpha=0.1),iid"]))
    ['seed', 'partition', 'partition.alpha']
    """
    for key, values in overrides(given):
        yield key
        for value in (v for v in values if key in GROUPS and is_call(v)):
            yield from (f"{key}.{name}" for name in split_arguments(value, key)[1])


def check_changes(given: Sequence[str], what: str, cure: str = "") -> None:
    """Raise SettingError for an argument that would change the figures of what goes on.

    ``what`` goes on, in words; ``cure`` ends the message.
    """
    for argument in given:
        if not meaning_of(argument.partition("=")[0].lstrip("+~")).resumable:
            raise SettingError(
                f"{argument} cannot be changed in {what} that goes on; with resume only"
                f" {resumable_in_words()} can{cure}"
            )


def _flags(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the settings and, apart from them, the options that are Hydra's."""
    settings, flags, waiting = [], [], False
    for argument in given:
        if waiting or argument.partition("=")[0] in SWITCHES + OPTIONS:
            flags.append(argument)
            waiting = argument in OPTIONS
        elif argument.startswith("-"):
            known = ("--help", "--config", "--config-dir", *SWITCHES, *OPTIONS)
            raise unknown_name("option", argument, known)
        elif "=" not in argument and not argument.startswith("~"):
            raise SettingError(f"{argument!r} is no setting; write key=value, as in strategy=fedmd")
        else:
            settings.append(argument)
    if waiting:
        raise SettingError(f"{flags[-1]} needs a value, as in --cfg job")
    return settings, flags


def _config_of(
    run_dir: Path, settings: Sequence[str], flags: Sequence[str], config: str | None
) -> str:
    """Return the scenario file of a run that is to go on. Raises SettingError where it cannot."""
    if config is not None or "-m" in flags or "--multirun" in flags:
        raise SettingError(
            "resume=RUN_DIR goes on with one run and its own scenario; leave out --config and -m"
        )
    own = run_dir / "config.yaml"
    fixed = [setting for setting in settings if not setting.startswith("rounds=")]
    check_changes(fixed, "a run", f". For another experiment use --config {own}")
    if not own.is_file():
        raise SettingError(
            f"resume={run_dir}: no run's folder (it has no config.yaml) and no sweep's (it has no"
            " sweep.json); give that of one"
        )
    check_run(run_dir, "config.yaml")
    check_names(read_scenario(own), f"resume={run_dir}: this run")
    return str(own)


def _existing(config: str) -> Path:
    file = user_path(config, "--config")
    if not file.is_file():
        raise SettingError(f"--config {config}: no such file; give the config.yaml of a run")
    return file


def _check_names(settings: Sequence[str], scenarios: Mapping[str, Path]) -> None:
    """Raise SettingError for scenarios, components and settings that do not exist."""
    wrong = WrongSettings()
    for key, values in overrides(settings):
        for value in (v.strip().strip("'\"") for v in values):
            with wrong.collected():
                if key == "scenario" and value not in scenarios:
                    raise unknown_name("scenario", value, scenarios)
                if key in GROUPS and not _SWEEP.match(value):
                    choice(key, value)
        with wrong.collected():
            if key not in ("scenario", "name") and not key.startswith(("hydra.", "hydra/")):
                check_key(key)
    wrong.raise_any()
