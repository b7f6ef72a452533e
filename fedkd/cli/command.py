"""The command: ``python -m fedkd.simulate scenario=NAME key=value ...``. Hydra in, a run folder
out.

The only module that knows Hydra. Each part of a scenario that can be chosen (strategy, data,
partition, privacy, engine) is a Hydra group; a scenario file becomes one option of each of these
groups, so that ``strategy=fedmd`` on top of a scenario replaces its strategy whole and keeps none
of its fields.
"""

import csv
import json
import logging
import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from fedkd.errors import FedkdError, SettingError, unknown_name
from fedkd.scenario.registry import GROUPS, find, names
from fedkd.scenario.scenario import SECTIONS, TOP, Scenario, meaning_of, resumable
from fedkd.settings.import_paths import is_import_path
from fedkd.settings.schema import defaults

DEFAULT_SCENARIO = "digits"
FLAGS = ("-m", "--multirun", "--resolve", "--version", "--hydra-help")
FLAGS_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--info", "-i")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0, 1 (the run failed), 2 (bad input), 3 (an audit found a claim violated), 130 (Ctrl-C). An
    error is one line; its traceback comes before it where the environment has FEDKD_TRACEBACK.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _main(given)
    except FedkdError as error:
        if os.environ.get("FEDKD_TRACEBACK"):
            traceback.print_exc()
        print(f"fedkd: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingError) else 1
    except KeyboardInterrupt as interruption:
        print(
            "; ".join(["fedkd: interrupted", *getattr(interruption, "__notes__", ())]),
            file=sys.stderr,
        )
        return 130


def _main(given: list[str]) -> int:
    if "-h" in given or "--help" in given:
        from fedkd.cli.help import manual, manual_of

        chosen = {key: values for key, values in _overrides(given) if key in GROUPS}
        scenarios = scenario_files(_value_of(given, "--config-dir")[1])
        print(manual_of(chosen) if chosen else manual(scenarios))
        return 0
    asked, command = given, _again(given)
    given, flags, resumed = _prepare(command)
    if _run_hydra(given, flags, resumed, command, goes_on=command != asked):
        print(
            "fedkd: VIOLATION: the audit refutes what the run claims; its table says which",
            file=sys.stderr,
        )
        return 3
    return 0


def compose(arguments: Sequence[str]) -> Scenario:
    """Return the scenario that the command would run with these arguments. Raises SettingError.

    Takes all of the command's settings, ``--config`` and ``--config-dir``, but no sweep and none of
    Hydra's flags.
    """
    given, flags, resumed = _prepare(list(arguments))
    if flags or resumed:
        raise SettingError(f"{flags[0] if flags else 'resume'} is for the command alone")
    return _composed(given)


def _composed(given: Sequence[str]) -> Scenario:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(files("scenarios")), version_base="1.3"):
            config = hydra_compose("fedkd", overrides=[_forced(argument) for argument in given])
        composed: Any = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise SettingError(" ".join(str(error).split())) from error
    return Scenario.parse(composed)


def _prepare(given: list[str]) -> tuple[list[str], list[str], Path | None]:
    """Check the arguments and tell Hydra the schema and all choices.

    Returns the settings, Hydra's flags, and the folder of a run that is to go on.
    """
    given, folder = _value_of(given, "--config-dir")
    given, config = _value_of(given, "--config")
    given, flags = _flags(given)
    given, resumed = _value_of(given, "resume")
    if resumed is not None:
        config = _resumed(Path(resumed).expanduser(), given, flags, config)
    scenarios = scenario_files(folder)
    if config is not None:
        if any(argument.startswith("scenario=") for argument in given):
            raise SettingError("--config FILE is a scenario of its own; leave out scenario=")
        scenarios = {**scenarios, "config": _existing(config, "--config")}
        given = ["scenario=config", *given]
    _check_names(given, scenarios)
    _register(given, scenarios)
    return given, flags, None if resumed is None else Path(resumed).expanduser()


def scenario_files(folder: str | None = None) -> dict[str, Path]:
    """Return the scenario files by name: those that fedkd carries, and the user's, which go before
    them.
    """
    own = Path(str(files("scenarios")))
    found = {path.stem: path for path in sorted(own.glob("*.yaml"))}
    if folder is not None:
        users = Path(folder).expanduser()
        if not users.is_dir():
            raise SettingError(
                f"--config-dir {folder}: no such folder; it must hold scenario files, NAME.yaml"
            )
        found |= {path.stem: path for path in sorted(users.glob("*.yaml"))}
    return found


def _value_of(given: list[str], option: str) -> tuple[list[str], str | None]:
    """Return the arguments without ``option VALUE`` or ``option=VALUE``, and the value."""
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


def _flags(given: list[str]) -> tuple[list[str], list[str]]:
    """Return the settings and, apart from them, the flags that are Hydra's, wherever they stood."""
    settings, flags, waiting = [], [], False
    for argument in given:
        if waiting or argument.partition("=")[0] in FLAGS + FLAGS_WITH_VALUE:
            flags.append(argument)
            waiting = argument in FLAGS_WITH_VALUE
        elif argument.startswith("-"):
            raise unknown_name(
                "option",
                argument,
                ("--help", "--config", "--config-dir", *FLAGS, *FLAGS_WITH_VALUE),
            )
        elif "=" not in argument and not argument.startswith("~"):
            raise SettingError(f"{argument!r} is no setting; write key=value, as in strategy=fedmd")
        else:
            settings.append(argument)
    if waiting:
        raise SettingError(f"{flags[-1]} needs a value, as in --cfg job")
    return settings, flags


SWEEP_FILE = "sweep.json"
"""Holds, in a sweep's folder, the arguments that it was begun with."""
_SWEEP_DIR = "hydra.sweep.dir="


def _again(given: list[str]) -> list[str]:
    """Return the arguments; those of a sweep that is to go on where ``resume`` names its folder."""
    rest, resumed = _value_of(given, "resume")
    if resumed is None or not (Path(resumed).expanduser() / SWEEP_FILE).is_file():
        return given
    folder = Path(resumed).expanduser()
    _check_changes(rest, "a sweep")
    try:
        begun: list[str] = [
            str(argument) for argument in json.loads((folder / SWEEP_FILE).read_text())["arguments"]
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SettingError(f"resume={folder}: {SWEEP_FILE} cannot be read: {error}") from error
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    return [*(a for a in begun if not a.startswith(_SWEEP_DIR)), *rest, f"{_SWEEP_DIR}'{quoted}'"]


def _resumed(run_dir: Path, given: Sequence[str], flags: Sequence[str], config: str | None) -> str:
    """Return the scenario file of a run that is to go on; SettingError where that cannot be."""
    if config is not None or "-m" in flags or "--multirun" in flags:
        raise SettingError(
            "resume=RUN_DIR goes on with one run and its own scenario; leave out --config and -m"
        )
    _check_changes(
        given,
        "a run",
        f". For another experiment use --config {run_dir / 'config.yaml'}",
    )
    if not (run_dir / "config.yaml").is_file():
        raise SettingError(
            f"resume={run_dir}: no run's folder (it has no config.yaml) and no sweep's (it has no"
            f" {SWEEP_FILE});"
            " give that of one"
        )
    return str(run_dir / "config.yaml")


def _check_changes(given: Sequence[str], what: str, cure: str = "") -> None:
    """Raise SettingError for an argument that would change what goes on."""
    for argument in given:
        if not meaning_of(argument.partition("=")[0].lstrip("+~")).resumable:
            raise SettingError(
                f"{argument} cannot be changed in {what} that goes on; with resume only"
                f" {', '.join(resumable())} can{cure}"
            )


def _existing(path: str, option: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise SettingError(f"{option} {path}: no such file; give the config.yaml of a run")
    return file


def _overrides(given: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each ``key=value`` argument as its key and the values of its sweep."""
    for argument in given:
        key, equals, value = argument.partition("=")
        if equals and not key.startswith("-"):
            yield key.lstrip("+~"), re.split(r",(?![^\[{(]*[\]})])", value)


def _check_names(given: Sequence[str], scenarios: dict[str, Path]) -> None:
    """Raise SettingError for a scenario or a choice that does not exist, before Hydra looks for
    it.
    """
    for key, values in _overrides(given):
        for value in (v.strip().strip("'\"") for v in values):
            if key == "scenario" and value not in scenarios:
                raise unknown_name("scenario", value, scenarios)
            if key in GROUPS and "(" not in value:
                find(key, value)


def _register(given: Sequence[str], scenarios: dict[str, Path]) -> None:
    """Tell Hydra the schema, every choice of every group, and the scenarios."""
    top = {key: value for cls in TOP.values() for key, value in defaults(cls).items()}
    sections = {key: defaults(cls) for key, cls in SECTIONS.items()}
    hydra = {
        "run": {"dir": "."},
        "sweep": {
            "dir": "runs/${now:%Y-%m-%d}_${now:%H-%M-%S}_sweep",
            "subdir": "${hydra.job.num}",
        },
        "output_subdir": None,
        "job": {"chdir": False},
    }
    order: list[Any] = [
        "_self_",
        *({group: declared.default} for group, declared in GROUPS.items()),
        {"scenario": DEFAULT_SCENARIO},
        {"override hydra/job_logging": "none"},
        {"override hydra/hydra_logging": "none"},
    ]
    _store({"defaults": order, "name": "", **top, **sections, "hydra": hydra}, name="fedkd")
    wanted = [(group, name) for group in GROUPS for name in names(group)]
    for key, values in _overrides(given):
        wanted += [(key, value) for value in values if key in GROUPS and is_import_path(value)]
    for group, name in wanted:
        _store({"name": name, **find(group, name)[1]}, group=group, name=name)
    for name, path in scenarios.items():
        _register_scenario(name, path)


_stored: dict[tuple[str, str], str] = {}
"""What Hydra has been told under a group and a name: whoever composes many scenarios tells it each
node once."""


def _store(node: dict[str, Any], *, group: str = "", name: str, package: str | None = None) -> None:
    from hydra.core.config_store import ConfigStore

    text = repr(node)  # tells 1 from 1.0 and from true, which are equal
    if _stored.get((group, name)) != text:
        ConfigStore.instance().store(name=name, node=node, group=group or None, package=package)
        _stored[group, name] = text


def _register_scenario(name: str, path: Path) -> None:
    body = _read(path)
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
            fields = find(group, section["name"])[1]
        except SettingError as error:
            raise SettingError(f"{path}: {error}") from error
        _store({**fields, **section}, group=group, name=option)
        chosen.append({f"override /{group}": option})
    body["name"] = body.get("name") or name
    _store(
        {"defaults": [*chosen, "_self_"], **body}, group="scenario", name=name, package="_global_"
    )


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        body = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(
            f"scenario file {path} cannot be read: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(body, dict):
        raise SettingError(f"scenario file {path} must hold settings, as in 'clients: 10'")
    return body


def _run_hydra(
    given: list[str],
    flags: list[str],
    resumed: Path | None,
    command: Sequence[str],
    *,
    goes_on: bool,
) -> bool:
    """Let Hydra compose the scenario (each of a sweep's) and run it; its own errors become one
    line.

    A sweep keeps the ``command``, by which it can go on. One that ``goes_on`` leaves alone what is
    complete in its folder; any other refuses a folder that holds a run. Returns whether an audit
    found a claim violated, in any of a sweep's runs.
    """
    for name in ("flwr", "alembic"):
        logging.getLogger(name).propagate = False
        logging.getLogger(name).setLevel(logging.WARNING)

    swept = {key for key, values in _overrides(given) if len(values) > 1 or _SWEEP.match(values[0])}
    if not (flags or swept or any(argument.lstrip("+~").startswith("hydra") for argument in given)):
        from fedkd.experiment.resume import resume
        from fedkd.experiment.run import run

        # One run: Hydra's own way there composes the scenario once more, only to see that it is no
        # sweep.
        scenario = _composed(given)
        summary = run(scenario) if resumed is None else resume(scenario, resumed)
        return _is_violation(summary)

    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors reach us as they are
    sweeping = "-m" in flags or "--multirun" in flags
    failures: list[FedkdError] = []
    violations: list[bool] = []
    jobs: list[Path] = []

    def task(config: DictConfig) -> dict[str, Any] | None:
        from fedkd.experiment.resume import resume
        from fedkd.experiment.run import choose_run_dir, run
        from fedkd.experiment.run_or_resume import ensure, is_complete

        composed: Any = OmegaConf.to_container(config, resolve=True)
        scenario = Scenario.parse(composed)
        if sweeping:
            own = (
                override.lstrip("+~").partition("=")
                for override in HydraConfig.get().overrides.task
            )
            varied = {
                key: re.sub(r"\\(.)", r"\1", value) for key, _, value in own if key in swept
            }  # Hydra escapes colons
            jobs.append(Path(HydraConfig.get().runtime.output_dir))
            _list_in_sweep(jobs[-1], varied, command)
            scenario, folder = _tagged(scenario, varied), choose_run_dir(scenario, jobs[-1])
            if not goes_on:
                return run(scenario, folder)
            if is_complete(scenario, folder):
                print(f"{folder}: complete")
            return ensure(scenario, folder)
        return run(scenario) if resumed is None else resume(scenario, resumed)

    def privacy_memory(config: DictConfig) -> dict[str, Any] | None:
        try:
            summary = task(config)
            violations.append(_is_violation(summary))
            return summary
        except FedkdError as error:
            if sweeping:  # Hydra says which job it was
                raise
            failures.append(error)
            return None

    before, ended = sys.argv, False
    sys.argv = ["python -m fedkd.simulate", *map(_forced, given), *flags]
    try:
        # A folder without subfolders: beside this file, Hydra would take fedkd/models for a group.
        folder = str(files("scenarios"))
        hydra.main(version_base="1.3", config_path=folder, config_name="fedkd")(privacy_memory)()
        ended = True
    except (HydraException, OmegaConfBaseException) as error:
        raise SettingError(" ".join(str(error).split())) from error
    finally:
        sys.argv = before
        if jobs:
            sweep, here = jobs[0].parent, Path.cwd()
            sweep = sweep.relative_to(here) if sweep.is_relative_to(here) else sweep
            comparing = [
                "python",
                "scripts/compare.py",
                "--runs",
                str(sweep),
                "--out",
                str(sweep / "comparison"),
            ]
            if len(jobs) > 1:
                print(f"Compare the runs: {shlex.join(comparing)}")
            if not ended:
                going_on = ["python", "-m", "fedkd.simulate", f"resume={sweep}"]
                print(f"Go on with the sweep: {shlex.join(going_on)}")
    if failures:
        raise failures[0]
    return any(violations)


def _is_violation(summary: dict[str, Any] | None) -> bool:
    return ((summary or {}).get("audit") or {}).get("verdict") == "VIOLATION"


_SWEEP = re.compile(r"(choice|range|interval|glob)\(")
"""How a value begins that Hydra takes for several."""


def _list_in_sweep(folder: Path, varied: Mapping[str, str], command: Sequence[str]) -> None:
    """Add one job of a sweep to ``sweep.csv``, which says what varies from folder to folder, and
    keep the command.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    kept, listed = folder.parent / SWEEP_FILE, folder.parent / "sweep.csv"
    if not kept.exists():
        kept.write_text(json.dumps({"arguments": _with_whole_paths(command)}, indent=2) + "\n")
    with listed.open("a+", newline="") as file:
        file.seek(0)
        if folder.name in [row[0] for row in csv.reader(file) if row]:
            return
        table = csv.writer(file)
        if file.tell() == 0:
            table.writerow(["folder", *varied])
        table.writerow([folder.name, *varied.values()])


def _with_whole_paths(command: Sequence[str]) -> list[str]:
    """Return arguments that mean the same in every working directory, as far as fedkd's own options
    go.
    """
    rest = list(command)
    for option in ("--config-dir", "--config"):
        rest, value = _value_of(rest, option)
        if value is not None:
            rest.append(f"{option}={Path(value).expanduser().resolve()}")
    return rest


def _tagged(scenario: Scenario, varied: Mapping[str, str]) -> Scenario:
    """Return one job of a sweep with what distinguishes it from the others as tags, as in
    ``privacy.epsilon=4``.
    """
    tags = [f"{key}={value}" for key, value in varied.items()]
    return scenario.changed(report=replace(scenario.report, tags=(*scenario.report.tags, *tags)))


def _forced(argument: str) -> str:
    """Return an override that Hydra sets without asking whether it exists: ``Scenario.parse`` asks,
    and knows better.

    Choices (``strategy=fedmd``), Hydra's own settings and arguments with a sign of their own stay
    as they are.
    """
    key = argument.partition("=")[0]
    composed = "=" in argument and key[:1] not in "+~-" and not key.startswith("hydra")
    return f"++{argument}" if composed and key not in (*GROUPS, "scenario") else argument
