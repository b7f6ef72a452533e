"""Completion of words in the shell: commands, options, names, and settings with their values.

``argcomplete`` talks to bash, zsh and fish. What it completes from is a parser of what may follow
each command, and the words of a run's settings. Those need every component to be imported, which
takes seconds: they are in the cache, made when a command has imported them anyway, and until then
only scenarios and strategies are completed in a run. Nothing heavy is imported here.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import argcomplete
from argcomplete.completers import DirectoriesCompleter, FilesCompleter
from argcomplete.shell_integration import shellcode

from fedkd.cli.commands import SUBCOMMANDS
from fedkd.cli.names_on_disk import scenario_names, strategy_names
from fedkd.cli.options import KINDS, add_compare, add_export, add_privacy_report, add_reproduce
from fedkd.cli.words import Words, stored_words

SHELLS = {
    "bash": ('eval "$(fedkd completion bash)"', "~/.bashrc"),
    "zsh": ('eval "$(fedkd completion zsh)"', "~/.zshrc, below compinit"),
    "fish": ("fedkd completion fish | source", "~/.config/fish/config.fish"),
}
"""The line that switches completion on, and the file for it."""


def main(given: Sequence[str]) -> int:
    """Print the code that makes a shell complete words, and return the exit status."""
    lines = [f"  {line:<36} in {file}" for line, file in SHELLS.values()]
    parser = argparse.ArgumentParser(
        prog="fedkd completion",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Print what makes the shell complete words after fedkd.",
        epilog="\n".join(["Switch it on by a line:", *lines]),
    )
    parser.add_argument("shell", choices=tuple(SHELLS))
    print(shellcode(["fedkd"], shell=parser.parse_args(given).shell))
    return 0


def complete(_: Sequence[str]) -> int:
    """Answer the shell, which has asked by the environment, and end the process."""
    argcomplete.autocomplete(parser_of_all(), always_complete_options="long")
    return 0


def parser_of_all() -> argparse.ArgumentParser:
    """Return a parser of what may follow each command. It completes, and parses nothing."""
    whole = argparse.ArgumentParser(prog="fedkd", add_help=False)
    whole.add_argument("--help", action="store_true", help="what there is")
    whole.add_argument("--version", action="store_true", help="the version")
    commands = whole.add_subparsers()
    for each in SUBCOMMANDS.values():
        parser = commands.add_parser(each.name, help=each.summary, add_help=False)
        parser.add_argument("--help", action="store_true", help="more on it")
        ADD.get(each.name, _add_folder)(parser)
        for action in parser._actions:
            completer = COMPLETERS.get(action.dest)
            if completer is not None:
                vars(action)["completer"] = completer
    return whole


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="a scenario file")
    parser.add_argument("--config-dir", help="a folder of scenario files")
    parser.add_argument("--cfg", choices=("job",), help="print the scenario, run nothing")
    parser.add_argument("settings", nargs="*")


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="*")


def _add_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="*")


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="*", choices=tuple(KINDS))


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clear-cache", action="store_true", help="delete all its entries")


def _add_completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=tuple(SHELLS))


ADD: Mapping[str, Callable[[argparse.ArgumentParser], None]] = {
    "run": _add_settings,
    "sweep": _add_settings,
    "compare": add_compare,
    "privacy-report": add_privacy_report,
    "reproduce": add_reproduce,
    "export": add_export,
    "list": _add_list,
    "show": _add_names,
    "help": _add_names,
    "doctor": _add_doctor,
    "completion": _add_completion,
}
"""What adds the options of each command; the others take folders."""


def complete_setting(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Return the settings, or the values of one, that begin as a word does.

    The first word may also be a scenario. Of values with commas the last is completed.
    """
    words = known_words()
    key, equals, value = prefix.partition("=")
    if not equals:
        is_first = not getattr(parsed_args, "settings", None)
        return [*(scenario_names() if is_first else ()), *(f"{name}=" for name in words)]
    given, comma, _last = value.rpartition(",")
    return [f"{key}={given}{comma}{one}" for one in words.get(key, ())]


def complete_name(prefix: str, **_: Any) -> list[str]:
    """Return what ``fedkd show`` may be asked for."""
    words = known_words()
    groups = {name for name, of in words.items() if of and "." not in name}
    components = {one for group in groups for one in words[group]}
    return sorted({*strategy_names(), *scenario_names(), *words, *components})


def complete_method(prefix: str, **_: Any) -> list[str]:
    """Return the strategies that may come next in a list with commas."""
    given, comma, _last = prefix.rpartition(",")
    return [f"{given}{comma}{name}" for name in strategy_names()]


def known_words() -> Words:
    """Return the settings with their values: those kept, and names as they are on the disk now."""
    return {**stored_words(), "scenario": scenario_names(), "strategy": strategy_names()}


COMPLETERS: Mapping[str, Any] = {
    "settings": complete_setting,
    "grid": complete_setting,
    "methods": complete_method,
    "name": complete_name,
    "config": FilesCompleter(("yaml", "yml")),
    **dict.fromkeys(
        ("config_dir", "folder", "run_dir", "runs", "out", "data", "stored"), DirectoriesCompleter()
    ),
}
"""What completes the value of an argument, by its name."""
