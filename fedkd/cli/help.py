"""Write the text of ``--help``: every setting with its default, and every name.

Written from the settings classes, so that it cannot say less or more than the program does.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from fedkd.errors import SettingError
from fedkd.models.factory import ZOO
from fedkd.scenario.registry import GROUPS, find, names
from fedkd.scenario.scenario import SECTIONS, TOP
from fedkd.settings.schema import REQUIRED, defaults, documentation
from fedkd.tasks.text.language_models import LANGUAGE_ZOO

USAGE = """\
fedkd: a simulator for federated distillation

  python -m fedkd.simulate                                     the default scenario, digits
  python -m fedkd.simulate scenario=NAME key=value ...         another one, with settings changed
  python -m fedkd.simulate strategy=my_package.my_module:MyFusion
  python -m fedkd.simulate -m seed=0,1,2 strategy=knfu,fedmd   a sweep over all combinations
  python -m fedkd.simulate --config runs/RUN/config.yaml       repeat a run

options
  --config-dir DIR   a folder of your own scenarios, NAME.yaml
  --config FILE      run a scenario file, such as the config.yaml of a run
  -m                 sweep over values given as a,b,c
  --cfg job          print the scenario and stop
  --help             this text; with strategy=knfu before it, that on this strategy alone

Exit status: 0 done, 1 the run failed, 2 bad input (nothing was run), 3 an audit refutes what the
run claims, 130 interrupted by Ctrl-C, 143 by SIGTERM, 138 by SIGUSR1, which lets the round at work
end (finished rounds are on disk, and the line to go on is printed)."""


def manual(scenarios: Mapping[str, Path]) -> str:
    """Return the whole text."""
    parts = [
        USAGE,
        "scenarios (scenario=NAME)\n" + "\n".join(_scenario(*item) for item in scenarios.items()),
    ]
    top = [line for cls in TOP.values() for line in _settings(cls, "", defaults(cls))]
    parts.append("\n".join(["settings", *top]))
    for section, cls in SECTIONS.items():
        parts.append("\n".join([_first_line(cls), *_settings(cls, section, defaults(cls))]))
    parts += [_choices(group, names(group)) for group in GROUPS]
    models = [f"  {name:<10} {_first_line(factory)}" for name, factory in ZOO.items()]
    parts.append(
        "\n".join(
            [
                "models (models=[NAME,...]), or package.module:factory(input_shape, classes):"
                " docs/extending.md",
                *models,
            ]
        )
    )
    parts.append(
        "language models (with data of texts), or package.module:factory(vocabulary_size,"
        " context)\n"
        f"  {', '.join(LANGUAGE_ZOO)}"
    )
    return "\n\n".join(parts)


def manual_of(chosen: Mapping[str, Sequence[str]]) -> str:
    """Return the text on some components alone, by group.

    Raises SettingError for one that does not exist.
    """
    parts = [_choices(group, of_group) for group, of_group in chosen.items()]
    return "\n\n".join([*parts, "Everything else: python -m fedkd.simulate --help"])


def _choices(group: str, of_group: Sequence[str]) -> str:
    methods = " and ".join(GROUPS[group].methods)
    needs = f" with {methods}: docs/extending.md" if methods else ""
    lines = [f"{group}=NAME, with its own settings; or {group}=package.module:Class{needs}"]
    for name in of_group:
        try:
            cls, fields = find(group, name)
        except SettingError as error:
            if len(of_group) == 1:
                raise
            lines += [f"  {group}={name}", f"      ({error})"]
            continue
        lines += [
            f"  {group}={name}",
            f"      {_first_line(cls)}",
            *_settings(cls, group, fields, indent=4),
        ]
    return "\n".join(lines)


def _settings(
    cls: object, section: str, values: Mapping[str, object], indent: int = 2
) -> list[str]:
    documented = documentation(cls) if isinstance(cls, type) else {}
    lines = []
    for name, value in values.items():
        full = f"{section}.{name}" if section else name
        lines.append(f"{' ' * indent}{full}={_shown(value)}")
        if name in documented:
            lines.append(f"{' ' * (indent + 4)}{documented[name]}")
    return lines


def _shown(value: object) -> str:
    if value == REQUIRED:
        return "(required)"
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


def _scenario(name: str, path: Path) -> str:
    try:
        about = (yaml.safe_load(path.read_text()) or {}).get("description", "")
    except (OSError, ValueError, yaml.YAMLError, AttributeError):
        about = "(cannot be read)"
    return f"  {name:<18} {about}"
