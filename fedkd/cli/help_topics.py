"""Help in layers: the usual settings on a screen, and all about one topic.

A topic is a chapter of the whole text (``fedkd.cli.help``), a setting, or the name of a component
or scenario, with its kind before it or without (``privacy=dp_sgd``, ``dp_sgd``). Not for: which
names there are (``fedkd.cli.catalog``).
"""

import difflib
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedkd.cli.arguments import (
    OPTIONS,
    overrides,
    read_scenario,
    scenario_files,
    value_of,
)
from fedkd.cli.command import reported
from fedkd.cli.commands import SUBCOMMANDS, call, overview
from fedkd.cli.help import (
    CHAPTERS,
    chapter,
    choices,
    description_of,
    first_sentence,
    manual,
    settings_of,
    shown,
)
from fedkd.cli.strategy_card import card
from fedkd.errors import SettingError, unknown_name
from fedkd.scenario.registry import GROUPS, find, names
from fedkd.scenario.scenario import SECTIONS, TOP
from fedkd.settings.import_paths import is_import_path
from fedkd.settings.schema import defaults, documentation, dotted, flat

USUAL = (
    *("clients", "samples_per_client", "models", "rounds", "seed", "baseline", "device", "run_dir"),
    *("public.size", "train.epochs", "train.learning_rate", "distill.epochs", "report.wandb"),
)
"""Settings that most runs change."""
USUAL_GROUPS = ("strategy", "data", "partition", "privacy", "attacks", "codec", "audit", "engine")
"""Groups of components that most runs choose from."""
WIDTH = 100
HEAD = """\
fedkd run [SCENARIO] [KEY=VALUE ...]: run a scenario into a new folder below runs/

  fedkd run                                     the default scenario, digits: under a minute
  fedkd run digits strategy=fedmd seed=1        with settings of your own
  fedkd run knfu_mnist data.path=FOLDER         images in the hub's layout
  fedkd run runs/RUN/config.yaml                repeat a run
  fedkd sweep digits strategy=knfu,fedmd seed=0,1,2

the usual settings, with what they are where a scenario says nothing (fedkd show digits)"""
INDENT = 34
"""Where words begin in the tail."""
TAIL = """\
options
  --config FILE      a scenario file, such as the config.yaml of a run
  --config-dir DIR   a folder of your own scenarios, NAME.yaml
  --cfg job          print the scenario, run nothing

more
  fedkd list                      all names, by kind
  fedkd show knfu                 a strategy with its settings; likewise a scenario, attack ...
  fedkd help train                all about a section; others are
                                  {sections}
  fedkd run --help=all            everything

Exit status: 0 done, 1 the run failed, 2 bad input (nothing was run), 3 an audit refutes what the
run claims, 130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1, which lets the round at work end."""


def main(given: Sequence[str]) -> int:
    """Print the text on each topic and return the exit status."""
    if not given:
        print(overview())
        return 0
    if given[0] in SUBCOMMANDS and given[0] != "help":
        return call(SUBCOMMANDS[given[0]].function, ["--help"])
    return reported(lambda: _print(given))


def _print(topics: Sequence[str]) -> int:
    rest, folder = value_of(topics, "--config-dir")
    scenarios = scenario_files(folder)
    for topic in rest:
        print(manual(scenarios) if topic == "all" else describe(topic, scenarios))
    return 0


def text_of(given: Sequence[str], whole: str = "python -m fedkd.simulate --help") -> str:
    """Return the text on the topics among arguments that ask for help; "" where there are none.

    ``whole`` is the command that prints everything. Raises SettingError for an unknown topic.
    """
    rest, folder = value_of(given, "--config-dir")
    scenarios = scenario_files(folder)
    parts = []
    for key, values in overrides(rest):
        if key in GROUPS:
            parts.append(choices(key, values))
        elif key == "scenario":
            parts += [_scenario(value, scenarios) for value in values]
    parts += [describe(word, scenarios) for word in bare_words(rest)]
    if parts:
        parts.append(f"Everything else: {whole}")
    return "\n\n".join(parts)


def bare_words(given: Sequence[str]) -> list[str]:
    """Return the arguments that are neither settings nor options nor an option's value."""
    found, waiting = [], False
    for argument in given:
        is_option = argument.startswith("-")
        if not (waiting or is_option or "=" in argument or argument.startswith("~")):
            found.append(argument)
        waiting = argument in (*OPTIONS, "--config", "--config-dir")
    return found


def usual() -> str:
    """Return the help of ``fedkd run``: the usual settings, examples, and where the rest is."""
    texts = {
        dotted(where, name): (value, documentation(cls).get(name, ""))
        for where, cls in _sections()
        for name, value in defaults(cls).items()
    }
    lines = [
        _fitted(f"  {name}={shown(texts[name][0])}", first_sentence(texts[name][1]))
        for name in USUAL
    ]
    lines += [
        _fitted(f"  {group}={GROUPS[group].default}", "or " + ", ".join(_others(group)))
        for group in USUAL_GROUPS
    ]
    others = ", ".join(section for section in SECTIONS if section != "train")
    said = f"\n{' ' * INDENT}".join(textwrap.wrap(others, 100 - INDENT))
    return "\n".join([HEAD, *lines, "", TAIL.format(sections=said)])


def _others(group: str) -> list[str]:
    return [name for name in names(group) if name != GROUPS[group].default]


def _sections() -> list[tuple[str, type]]:
    """Return the classes of settings that are no component's, with their section."""
    return [*(("", cls) for cls in TOP.values()), *SECTIONS.items()]


def _fitted(setting: str, text: str) -> str:
    """Return a setting and what it means on one line, cut where it is too long."""
    line = f"{setting:<31} {text}"
    return line if len(line) <= WIDTH else line[: WIDTH - 4].rpartition(" ")[0].rstrip(",") + " ..."


def describe(topic: str, scenarios: dict[str, Path]) -> str:
    """Return all about a topic. Raises SettingError for one that nobody knows."""
    kind, equals, name = topic.partition("=")
    if equals and kind == "scenario":
        return _scenario(name, scenarios)
    if equals and kind in GROUPS:
        return card(name) if kind == "strategy" else choices(kind, [name])
    if equals:
        return describe(kind, scenarios)
    if topic in CHAPTERS:
        return chapter(topic, scenarios)
    if is_import_path(topic):
        return card(topic)
    found = [*_named(topic, scenarios), *_settings_called(topic)]
    if not found:
        raise _unknown(topic, scenarios)
    return "\n\n".join(found)


def _named(name: str, scenarios: dict[str, Path]) -> Iterator[str]:
    """Yield the texts on the scenario and the components of a name."""
    if name in names("strategy"):
        yield card(name)
    if name in scenarios:
        yield _scenario(name, scenarios)
    for group in GROUPS:
        if group != "strategy" and name in names(group) and name not in ("none", "own"):
            yield choices(group, [name])


def _settings_called(name: str) -> Iterator[str]:
    """Yield the texts on a setting, wherever it is."""
    for where, cls in _sections():
        for key, value in defaults(cls).items():
            if dotted(where, key) == name:
                yield "\n".join(settings_of(cls, where, {key: value}, indent=0))
    group, _, key = name.partition(".")
    for component in names(group) if group in GROUPS and key else ():
        component_class, fields = find(group, component)
        if key in fields:
            text = settings_of(component_class, group, {key: fields[key]})
            yield "\n".join([f"{group}={component}", *text])


def _scenario(name: str, scenarios: dict[str, Path]) -> str:
    """Return what a scenario is for and which settings it has."""
    if name not in scenarios:
        raise unknown_name("scenario", name, scenarios)
    path = scenarios[name]
    body = {key: value for key, value in read_scenario(path).items() if key != "description"}
    settings = [f"  {key}={shown(value)}" for key, value in _written(body).items()]
    run = f"  fedkd run {name}"
    return "\n".join([f"scenario={name}: {description_of(path)}", run, str(path), *settings])


def _written(body: dict[str, object]) -> dict[str, object]:
    """Return a scenario's settings as they are written on the command line."""
    return {key.removesuffix(".name"): value for key, value in flat(body).items()}


def _unknown(topic: str, scenarios: dict[str, Path]) -> SettingError:
    known = {*CHAPTERS, *SUBCOMMANDS, *scenarios}
    known |= {name for group in GROUPS for name in names(group)}
    known |= {dotted(where, key) for where, cls in _sections() for key in defaults(cls)}
    near = difflib.get_close_matches(topic, sorted(known), n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return SettingError(f"nothing is called {topic!r}; {hint}fedkd list prints all names")
