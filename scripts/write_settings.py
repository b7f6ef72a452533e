"""Write ``docs/settings.md`` from the settings classes.

python scripts/write_settings.py
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from fedkd.models.zoo import BUILT_IN, GROUPS_OF_MODELS, about, about_group
from fedkd.scenario.registry import GROUPS, find, names
from fedkd.scenario.scenario import SECTIONS, TOP
from fedkd.settings.schema import REQUIRED, defaults, documentation
from fedkd.tasks.text.language_models import LANGUAGE_ZOO
from fedkd.tasks.text.text_classifiers import TEXT_ZOO

ROOT = Path(__file__).parent.parent

HEAD = """\
# Settings

Every setting of a run, with its default. On the command line a setting is `key=value`, in a
scenario file YAML, in Python an argument of `fedkd.run`:

```
fedkd run digits partition.alpha=0.1 strategy=knfu strategy.beta=3
```

`python scripts/write_settings.py` writes this page from the classes that the program itself reads.
A group (`strategy`, `data`, `privacy`, ...) is chosen by name and then has the settings of that
choice; a class of your own stands in its place by its import path ([extending.md](extending.md)).
"""

COLUMNS = "| setting | default | is |\n|---|---|---|\n"


def document() -> str:
    """Return the text of ``docs/settings.md``."""
    top = [row for cls in TOP.values() for row in rows(cls, "", defaults(cls))]
    parts = [HEAD, "\n## Scenarios\n\n", scenarios(), "\n## Of the run\n\n", COLUMNS, *top]
    for section, cls in SECTIONS.items():
        parts += [f"\n## {section}\n\n{first_line(cls)}\n\n", COLUMNS]
        parts += rows(cls, section, defaults(cls))
    for group in GROUPS:
        parts += group_of(group)
    parts.append("\n## models\n\n| `models=[NAME,...]` | is |\n|---|---|\n")
    parts += [f"| `{name}` | {cell(about(name))} |\n" for name in BUILT_IN]
    parts += [f"| `{name}` | {cell(about_group(name))} |\n" for name in GROUPS_OF_MODELS]
    of_texts = ", ".join(f"`{name}`" for name in TEXT_ZOO)
    parts.append(f"\nClassifiers of texts, with data of texts with classes: {of_texts}.\n")
    language = ", ".join(f"`{name}`" for name in LANGUAGE_ZOO)
    parts.append(f"\nLanguage models, with data of texts: {language}.\n")
    return "".join(parts)


def group_of(group: str) -> list[str]:
    """Return the part on a group: its components, and then the settings of each that has any."""
    found = {name: find(group, name) for name in names(group)}
    seam = GROUPS[group].seam
    own = f"derived from `{seam.__module__}.{seam.__name__}`" if seam else ""
    own = own or "with " + " and ".join(f"`{method}`" for method in GROUPS[group].methods)
    parts = [f"\n## {group}\n\nThe default is `{GROUPS[group].default}`. One of your own:"]
    parts.append(f" `{group}=package.module:Class`, {own}.\n\n| `{group}=NAME` | is |\n|---|---|\n")
    for name, (cls, fields) in found.items():
        label = f"[`{name}`](#{group}{slug(name)})" if fields else f"`{name}`"
        parts.append(f"| {label} | {cell(first_line(cls))} |\n")
    for name, (cls, fields) in found.items():
        if fields:
            parts += [f"\n### {group}={name}\n\n", COLUMNS, *rows(cls, group, fields)]
    return parts


def rows(cls: Callable[..., object], section: str, values: Mapping[str, object]) -> list[str]:
    """Return a table's row for each setting of a class.

    Args:
        cls: The class of the settings.
        section: Their section, empty at the top.
        values: Their defaults by name.
    """
    documented = documentation(cls) if isinstance(cls, type) else {}
    allowed = choices(cls)
    found = []
    for name, value in values.items():
        full = f"{section}.{name}" if section else name
        about = cell(documented.get(name, ""))
        if name in allowed:
            about += f" One of {', '.join(f'`{choice}`' for choice in allowed[name])}."
        found.append(f"| `{full}` | {shown(value)} | {about} |\n")
    return found


def choices(cls: Callable[..., object]) -> dict[str, list[str]]:
    """Return the words that a setting may be, of those that take words from a list."""
    hints = typing.get_type_hints(cls if dataclasses.is_dataclass(cls) else cls.__init__)
    found = {}
    for name, hint in hints.items():
        parts = typing.get_args(hint) if typing.get_origin(hint) is not typing.Literal else (hint,)
        words = [
            str(word)
            for part in parts
            if typing.get_origin(part) is typing.Literal
            for word in typing.get_args(part)
        ]
        if len(words) > 1:
            found[name] = words
    return found


def scenarios() -> str:
    """Return the table of the scenarios that fedkd has."""
    lines = ["| `scenario=NAME` | is |\n|---|---|\n"]
    for path in sorted((ROOT / "scenarios").glob("*.yaml")):
        about = yaml.safe_load(path.read_text()).get("description", "")
        lines.append(f"| `{path.stem}` | {cell(about)} |\n")
    return "".join(lines)


def shown(value: object) -> str:
    """Return a default as it is written on the command line."""
    if value == REQUIRED:
        return "must be given"
    text = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return f"`{text.removesuffix(chr(10)).removesuffix(chr(10) + '...')}`"


def cell(text: str) -> str:
    """Return a text as a cell of a table has it."""
    return " ".join(text.split()).replace("|", r"\|").replace("``", "`")


def first_line(thing: object) -> str:
    """Return the first line of what a class says of itself."""
    return (thing.__doc__ or "").strip().partition("\n")[0].replace("``", "`")


def slug(name: str) -> str:
    """Return a name as it is in the address of a heading."""
    return name.lower()


if __name__ == "__main__":
    (ROOT / "docs" / "settings.md").write_text(document())
