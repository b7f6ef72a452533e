"""Write the text of ``--help``: every setting with its default, and every name.

Written from the settings classes, so that it cannot say less or more than the program does.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from fedkd.errors import SettingError
from fedkd.models.zoo import BUILT_IN, GROUPS_OF_MODELS, about, about_group
from fedkd.scenario.registry import GROUPS, find, names
from fedkd.scenario.scenario import SECTIONS, TOP
from fedkd.settings.model_prefixes import LIBRARIES
from fedkd.settings.schema import REQUIRED, defaults, documentation, dotted
from fedkd.tasks.text.language_models import LANGUAGE_ZOO
from fedkd.tasks.text.text_classifiers import TEXT_ZOO

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
  --help             this text; with a topic before it, such as train, privacy, strategy=knfu or
                     scenario=knfu_mnist, that on the topic alone; fedkd run --help is one screen

Exit status: 0 done, 1 the run failed, 2 bad input (nothing was run), 3 an audit refutes what the
run claims, 130 interrupted by Ctrl-C, 143 by SIGTERM, 138 by SIGUSR1, which lets the round at work
end (finished rounds are on disk, and the line to go on is printed)."""


CHAPTERS = ("scenarios", "settings", *SECTIONS, *GROUPS, "models")
"""What the whole text consists of; each is a topic of its own."""


def manual(scenarios: Mapping[str, Path]) -> str:
    """Return the whole text."""
    contents = textwrap.fill(
        f"contents (each alone: python -m fedkd.simulate NAME --help): {', '.join(CHAPTERS)}",
        100,
        subsequent_indent="  ",
    )
    return "\n\n".join([USAGE, contents, *(chapter(name, scenarios) for name in CHAPTERS)])


def chapter(name: str, scenarios: Mapping[str, Path]) -> str:
    """Return one of ``CHAPTERS``: all of a kind of name, or the settings of a section."""
    if name == "scenarios":
        listed = "\n".join(_scenario(*item) for item in scenarios.items())
        return f"scenarios (scenario=NAME)\n{listed}"
    if name == "settings":
        top = [line for cls in TOP.values() for line in settings_of(cls, "", defaults(cls))]
        return "\n".join(["settings", *top])
    if name in SECTIONS:
        cls = SECTIONS[name]
        return "\n".join([first_line(cls), *settings_of(cls, name, defaults(cls))])
    return _models() if name == "models" else choices(name, names(name))


def _models() -> str:
    lines = [
        "models (models=[NAME,...]), or package.module:factory(input_shape, classes):"
        " docs/extending.md",
        *(f"  {name:<15} {about(name)}" for name in BUILT_IN),
        "  (parameters for 10 classes, of images 3 x 32 x 32 or series 8 x 8)",
        *(f"  {name:<15} {about_group(name)}" for name in GROUPS_OF_MODELS),
        f"  {' and '.join(f'{prefix}:NAME' for prefix in LIBRARIES)} are models of those libraries",
        "",
        "classifiers of texts (with data of texts with classes)",
        f"  {', '.join(TEXT_ZOO)}",
        "",
        "language models (with data of texts), or package.module:factory(vocabulary_size, context)",
        f"  {', '.join(LANGUAGE_ZOO)}",
    ]
    return "\n".join(lines)


def choices(group: str, of_group: Sequence[str]) -> str:
    """Return what a group's components are, with their settings.

    Raises SettingError for one that does not exist.
    """
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
            f"      {first_line(cls)}",
            *settings_of(cls, group, fields, indent=4),
        ]
    return "\n".join(lines)


def settings_of(
    cls: object, section: str, values: Mapping[str, object], indent: int = 2
) -> list[str]:
    """Return a line for each setting with its value, and one with what it means.

    Args:
        cls: The settings' class.
        section: The section that they are in; empty for those at the top.
        values: Their values by name.
        indent: Spaces before each line.
    """
    documented = documentation(cls) if isinstance(cls, type) else {}
    lines = []
    for name, value in values.items():
        full = dotted(section, name)
        lines.append(f"{' ' * indent}{full}={shown(value)}")
        if name in documented:
            lines.append(f"{' ' * (indent + 4)}{documented[name]}")
    return lines


def shown(value: object) -> str:
    """Return a value as it is written on the command line."""
    if value == REQUIRED:
        return "(required)"
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def first_line(thing: object) -> str:
    """Return the first line of what a class or function says of itself."""
    return (thing.__doc__ or "").strip().partition("\n")[0]


def _scenario(name: str, path: Path) -> str:
    return f"  {name:<18} {description_of(path)}"


def first_sentence(text: str) -> str:
    """Return a text up to its first full stop, colon or semicolon.

    >>> first_sentence("Folder of the run; null is new. More.")
    'Folder of the run'
    """
    return re.split(r"(?<=[\w`])[.;:](?: |$)", text, maxsplit=1)[0]


def description_of(path: Path) -> str:
    """Return what a scenario file says of itself."""
    try:
        return str((yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("description", ""))
    except (OSError, ValueError, yaml.YAMLError, AttributeError):
        return "(cannot be read)"
