"""Which names there are, by kind: ``fedkd list``, and ``fedkd show`` for all about one of them."""

import argparse
import ast
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedkd.cli.arguments import scenario_files
from fedkd.cli.command import reported
from fedkd.cli.help import description_of, first_line, shown
from fedkd.cli.help_topics import describe
from fedkd.cli.options import KINDS
from fedkd.errors import SettingError, unknown_name
from fedkd.models.zoo import BUILT_IN, GROUPS_OF_MODELS, about, about_group
from fedkd.scenario.registry import find, names
from fedkd.scenario.strategy_files import FOLDER, strategy_here
from fedkd.settings.schema import defaults
from fedkd.tasks.text.language_models import LANGUAGE_ZOO, LanguageFactory
from fedkd.tasks.text.text_classifiers import TEXT_ZOO

CHOSEN_BY = {
    "models": "models=[NAME,...]; sizes are for 10 classes, images 3 x 32 x 32 or series 8 x 8",
    "text-models": "models=[NAME,...], data of texts with classes",
    "language-models": "models=[NAME,...], data of texts",
}
"""How kinds are chosen that are no choice of one."""

BYTES, CONTEXT = 257, 64
"""Tokens of a vocabulary of bytes, and of a window, as the defaults have them."""


def list_names(given: Sequence[str]) -> int:
    """Print the names of each kind that is asked for, a line each, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="fedkd list", description="Print names by kind, of all kinds or of those given."
    )
    parser.add_argument("kind", nargs="*", help=", ".join(KINDS))
    parser.add_argument("--config-dir", help="a folder of your own scenarios")
    asked = parser.parse_args(given)
    return reported(lambda: _list(asked.kind, scenario_files(asked.config_dir)))


def show(given: Sequence[str]) -> int:
    """Print all about each name that is given, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="fedkd show",
        description="Print what a strategy, scenario or other component is and which settings it"
        " has.",
    )
    parser.add_argument("name", nargs="+", help="as in knfu, privacy=dp_sgd, train, my_rule:MyRule")
    parser.add_argument("--config-dir", help="a folder of your own scenarios")
    asked = parser.parse_args(given)

    def described() -> int:
        scenarios = scenario_files(asked.config_dir)
        print("\n\n".join(describe(name, scenarios) for name in asked.name))
        return 0

    return reported(described)


def _list(asked: Sequence[str], scenarios: Mapping[str, Path]) -> int:
    kinds = [_kind(word) for word in asked] or list(KINDS)
    for at, kind in enumerate(kinds):
        lines = lines_of(kind, scenarios)
        width = max(map(len, lines), default=0)
        if at:
            print()
        print(f"{kind} ({CHOSEN_BY.get(kind, KINDS[kind] + '=NAME')})")
        for name, text in lines.items():
            print(f"  {name:<{width}}  {text}".rstrip())
    return 0


def _kind(word: str) -> str:
    """Return the kind that a word means: its name, or the setting that chooses one."""
    wanted = word.lower().replace("_", "-")
    for kind, setting in KINDS.items():
        if wanted in (kind, kind.removesuffix("s"), setting.replace("_", "-")):
            return kind
    raise unknown_name("kind", word, KINDS)


def lines_of(kind: str, scenarios: Mapping[str, Path]) -> dict[str, str]:
    """Return the names of a kind, each with a line on it."""
    if kind == "scenarios":
        return {name: description_of(path) for name, path in scenarios.items()}
    if kind == "models":
        groups = {name: about_group(name) for name in GROUPS_OF_MODELS}
        return {**{name: about(name) for name in BUILT_IN}, **groups}
    if kind == "text-models":
        return {name: first_line(make) for name, make in TEXT_ZOO.items()}
    if kind == "language-models":
        return {name: _language_model(make) for name, make in LANGUAGE_ZOO.items()}
    return {name: _line(KINDS[kind], name) for name in names(KINDS[kind])}


def _language_model(make: LanguageFactory) -> str:
    """Return what a language model is, with its size for a small vocabulary."""
    model = make(BYTES, CONTEXT)
    size = sum(parameter.numel() for parameter in model.parameters())
    return f"{first_line(model)} {size:,} parameters, {BYTES} tokens, context {CONTEXT}"


def _first_line_of_file(path: Path) -> str:
    """Return the first line of what a module says of itself, read off its text."""
    try:
        module = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ""
    return (ast.get_docstring(module) or "").partition("\n")[0]


def _line(group: str, name: str) -> str:
    """Return what a component says of itself in a line; a strategy says it in its file's first."""
    here = strategy_here(name) if group == "strategy" else None
    if here is not None:  # what is only listed is not imported
        return f"{_first_line_of_file(here)} ({FOLDER}/{here.name} of this folder)".lstrip()
    try:
        cls, fields = find(group, name)
    except SettingError as error:
        return f"({error})"
    if group == "strategy":
        return first_line(sys.modules[cls.__module__])
    own = defaults(cls)
    given = [f"{group}.{key}={shown(v)}" for key, v in fields.items() if v != own[key]]
    return " ".join([first_line(cls), *given])
