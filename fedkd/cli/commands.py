"""The command ``fedkd``: its subcommands by name, each imported once it is asked for.

Not for: what a subcommand does, which is its module's. Nothing heavy is imported here: ``fedkd
--help``, ``--version`` and shell completion must answer at once.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from fedkd import __version__
from fedkd.cli.names_on_disk import scenario_names, strategy_names
from fedkd.errors import unknown_name
from fedkd.runtime.interrupts import described, exit_status
from fedkd.runtime.standard_streams import give_up_output, notice
from fedkd.runtime.working_folder import search_here


@dataclass(frozen=True)
class Subcommand:
    """One word after ``fedkd``, and the function that takes what follows it."""

    name: str
    arguments: str
    summary: str
    function: str
    """``module:function`` of arguments, which returns the exit status."""


RUNNING = (
    Subcommand(
        "run",
        "[SCENARIO] [KEY=VALUE ...]",
        "run a scenario; fedkd run --help for the usual settings",
        "fedkd.cli.scenario_commands:run",
    ),
    Subcommand(
        "sweep",
        "[SCENARIO] KEY=A,B ...",
        "run all combinations of several values",
        "fedkd.cli.scenario_commands:sweep",
    ),
    Subcommand(
        "resume",
        "RUN_OR_SWEEP",
        "go on with what was interrupted",
        "fedkd.cli.scenario_commands:resume",
    ),
)
READING = (
    Subcommand(
        "compare",
        "--runs FOLDER --out FOLDER",
        "tables, tests and pictures of methods over seeds",
        "fedkd.cli.compare:main",
    ),
    Subcommand(
        "report",
        "FOLDER",
        "a page for a browser, of a run, a sweep or a comparison",
        "fedkd.cli.html_report:main",
    ),
    Subcommand(
        "privacy-report",
        "--runs FOLDER --out FOLDER",
        "accuracy and attacks by privacy budget",
        "fedkd.cli.privacy_report:main",
    ),
    Subcommand("audit", "RUN", "attack what a run has sent", "fedkd.cli.audit:main"),
    Subcommand("export", "RUN --client N", "a client's model, as it was", "fedkd.cli.export:main"),
    Subcommand(
        "reproduce",
        "STUDY --out FOLDER",
        "repeat a published comparison",
        "fedkd.cli.reproduce:main",
    ),
)
LOOKING_UP = (
    Subcommand(
        "list",
        "[KIND]",
        "strategies, scenarios, data sets, attacks ... by name",
        "fedkd.cli.catalog:list_names",
    ),
    Subcommand(
        "show",
        "NAME",
        "what a strategy, scenario ... is, and its settings",
        "fedkd.cli.catalog:show",
    ),
    Subcommand(
        "help",
        "[TOPIC]",
        "this text, or all about train, dp_sgd, compare ...",
        "fedkd.cli.help_topics:main",
    ),
    Subcommand(
        "doctor",
        "[--clear-cache]",
        "what is installed and where; mend the cache",
        "fedkd.cli.doctor:main",
    ),
    Subcommand(
        "completion",
        "bash|zsh|fish",
        "print what makes the shell complete words",
        "fedkd.cli.completion:main",
    ),
)
SUBCOMMANDS = {each.name: each for each in (*RUNNING, *READING, *LOOKING_UP)}

LOADING = ("run", "sweep", "list", "show", "help")
"""Subcommands that import every component."""


def start() -> NoReturn:
    """Run the command of this process and end it with its exit status."""
    status = main()
    if "torch" in sys.modules:  # clients may have left threads behind
        from fedkd.runtime.left_behind import end

        end(status)
    sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    That of ``run`` is ``fedkd.cli.command``'s; of others 0, 1 (it failed), 2 (bad input), and what
    their help says.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if "_ARGCOMPLETE" in os.environ:
            return call("fedkd.cli.completion:complete", given)
        return _main(given)
    except BrokenPipeError:  # whoever reads has seen enough, as in fedkd list | head
        give_up_output()
        return 0
    except KeyboardInterrupt as interruption:
        notice(described(interruption))
        return exit_status(interruption)


def _main(given: Sequence[str]) -> int:
    name, *rest = given or ["help"]
    if name in ("-h", "--help"):
        name = "help"
    if name in ("-V", "--version"):
        print(f"fedkd {__version__}")
        return 0
    if name == "help" and not rest:
        print(overview())
        return 0
    if name not in SUBCOMMANDS:
        notice(unknown_command(given))
        return 2
    search_here()
    status = call(SUBCOMMANDS[name].function, rest)
    if status == 0 and name in LOADING:  # completion in the shell is quick, and takes from these
        call("fedkd.cli.words:keep_words", ())
    return status


def call(function: str, arguments: Sequence[str]) -> int:
    """Import ``module:function``, call it with arguments, and return its exit status."""
    module, _, name = function.partition(":")
    called: Callable[[Sequence[str]], int] = getattr(importlib.import_module(module), name)
    return called(arguments)


def overview() -> str:
    """Return what the command is and which subcommands it has."""
    lines = [
        "fedkd: a simulator for federated distillation",
        "",
        "  fedkd run                               the default scenario: under a minute",
        "  fedkd run digits strategy=fedmd seed=1  another strategy",
        "  fedkd sweep digits seed=0,1,2           and over seeds",
        "  fedkd show knfu                         what a strategy does",
    ]
    for title, commands in (
        ("run", RUNNING),
        ("read what was run", READING),
        ("look up", LOOKING_UP),
    ):
        lines += ["", title]
        for each in commands:
            usage = f"{each.name} {each.arguments}"
            lines.append(f"  {usage:<41} {each.summary}")
    return "\n".join([
        *lines,
        "",
        "fedkd COMMAND --help says more of each, fedkd --version the version.",
    ])  # fmt: skip


def unknown_command(given: Sequence[str]) -> str:
    """Return what to say of arguments that begin with no subcommand, and what may be meant."""
    name = given[0]
    if name.startswith("-") or "=" in name:
        said = "settings" if "=" in name else "options"
        return f"{name!r} is no command; {said} come after one, as in fedkd run {name}"
    if name in scenario_names():
        return f"{name!r} is a scenario; run it by fedkd run {name}"
    if name in strategy_names():
        return f"{name!r} is a strategy: fedkd show {name}, or fedkd run strategy={name}"
    return str(unknown_name("command", name, SUBCOMMANDS))
