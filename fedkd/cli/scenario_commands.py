"""``fedkd run``, ``sweep`` and ``resume``: the words of a user as arguments of the command.

What ``python -m fedkd.simulate`` takes, these take too. A word of its own is a scenario: its name,
or its file.
"""

from collections.abc import Sequence
from pathlib import Path

from fedkd.cli.arguments import parse_arguments, scenario_files, value_of
from fedkd.cli.command import carry_out, reported
from fedkd.cli.help import manual
from fedkd.cli.help_topics import bare_words, text_of, usual
from fedkd.cli.names_on_disk import strategy_names
from fedkd.errors import SettingError
from fedkd.runtime.invocation import command_line
from fedkd.settings.validators import user_path

HELP = ("-h", "--help")
ALL = ("--help=all", "--help-all")
SWEEPING = ("-m", "--multirun")
SWEEP_HELP = """\
fedkd sweep [SCENARIO] KEY=A,B ...: run all combinations of several values, one after the other

  fedkd sweep digits strategy=knfu,fedmd seed=0,1,2
  fedkd sweep privacy_budget privacy.epsilon=1,4,inf
  fedkd sweep digits 'strategy.beta=range(1,4)'

Runs lie in one folder below runs/, with sweep.csv, which says what varies. The end of a sweep
prints how to compare its runs, and how to go on with those that are left. Everything else is as in
fedkd run --help."""
RESUME_HELP = """\
fedkd resume RUN_OR_SWEEP [KEY=VALUE ...]: go on with a run or a sweep that was interrupted

  fedkd resume runs/2026-11-25_09-30-00_digits
  fedkd resume runs/2026-11-25_09-30-00_sweep engine.workers=2

  fedkd resume runs/2026-11-25_09-30-00_digits rounds=20     for more rounds

A run goes on from its last checkpoint to the same figures, to the bit. Only engine, device, report
and the like may change. trust=true lets it import what is not fedkd's."""


def run(given: Sequence[str]) -> int:
    """Run a scenario, or print the help that is asked for, and return the exit status."""
    if asks_for_help(given):
        return reported(lambda: _help(given))
    return reported(lambda: carry_out(as_settings(given)))


def sweep(given: Sequence[str]) -> int:
    """Run all combinations of several values, and return the exit status."""
    if asks_for_help(given):
        return reported(lambda: _help(given, SWEEP_HELP))
    return reported(lambda: carry_out(_of_a_sweep(given)))


def resume(given: Sequence[str]) -> int:
    """Go on with a run or a sweep, and return the exit status."""
    if asks_for_help(given):
        print(RESUME_HELP)
        return 0
    return reported(lambda: carry_out(_of_what_goes_on(given)))


def asks_for_help(given: Sequence[str]) -> bool:
    """Return whether arguments ask for help instead of a run."""
    return any(word in given for word in (*HELP, *ALL))


def _help(given: Sequence[str], text: str = "") -> int:
    """Print the whole text, that on the topics given, or the command's own."""
    if any(word in given for word in ALL):
        print(manual(scenario_files(value_of(given, "--config-dir")[1])))
    else:
        print(text_of(given, "fedkd run --help=all") or text or usual())
    return 0


def as_settings(given: Sequence[str]) -> list[str]:
    """Return arguments with a word of its own as the scenario that it names.

    Raises SettingError for a run's folder, and for a strategy's name.

    >>> as_settings(["digits", "seed=1"]), as_settings(["mine.yaml"])
    (['scenario=digits', 'seed=1'], ['--config', 'mine.yaml'])
    """
    word = next(iter(bare_words(given)), None)
    if word is None:
        return list(given)
    at = list(given).index(word)
    if word.endswith((".yaml", ".yml")):
        meant = ["--config", word]
    elif (user_path(word, "SCENARIO") / "config.yaml").is_file():
        again = command_line(["run", str(Path(word) / "config.yaml")])
        raise SettingError(
            f"{word} is a run's folder: go on with it by {command_line(['resume', word])}, or"
            f" repeat it by {again}"
        )
    elif word in strategy_names() and word not in scenario_files(_folder(given)):
        right = command_line(["run", f"strategy={word}"])
        raise SettingError(f"{word!r} is a strategy and no scenario; write {right}")
    else:
        meant = [f"scenario={word}"]
    return [*given[:at], *meant, *given[at + 1 :]]


def _folder(given: Sequence[str]) -> str | None:
    return value_of(given, "--config-dir")[1]


def _of_a_sweep(given: Sequence[str]) -> list[str]:
    """Return the arguments of a sweep. Raises SettingError where nothing varies."""
    settings = as_settings(given)
    if any(word.startswith("resume=") for word in settings):
        raise SettingError(f"a sweep goes on by {command_line(['resume', 'FOLDER'])}")
    rest = [word for word in settings if word not in SWEEPING]
    parsed = parse_arguments(["-m", *rest])
    if not parsed.varied and not any("hydra" in word for word in rest):
        raise SettingError(
            "a sweep needs a setting with several values, as in"
            f" {command_line(['sweep', *given, 'seed=0,1,2'])}"
        )
    return ["-m", *rest]


def _of_what_goes_on(given: Sequence[str]) -> list[str]:
    """Return the arguments of what goes on. Raises SettingError where no folder is named."""
    words = bare_words(given)
    folder = words[0] if words else value_of(given, "resume")[1]
    if folder is None or len(words) > 1:
        raise SettingError("name one folder, of a run or a sweep, as in fedkd resume runs/RUN")
    if not user_path(folder, "resume").is_dir():
        raise SettingError(f"{folder}: no such folder; give that of a run or of a sweep")
    rest = [word for word in value_of(given, "resume")[0] if word != folder]
    return [f"resume={folder}", *rest]
