"""The command: ``python -m fedkd.simulate scenario=NAME key=value ...`` and its exit status.

Its arguments are ``arguments``', their composition into scenarios is ``hydra_compose``'s, and the
runs of ``-m`` are ``sweeps``'.
"""

import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedkd.cli.arguments import (
    Arguments,
    given_twice,
    parse_arguments,
    scenario_files,
    value_of,
)
from fedkd.cli.sweeps import Sweep, continued, is_violation
from fedkd.errors import FedkdError, SettingError, messages, notes
from fedkd.runtime.interrupts import described, exit_status, interruptible
from fedkd.runtime.standard_streams import (
    FULL,
    flush_output,
    give_up_output,
    notice,
    replace_unwritable,
)
from fedkd.scenario.scenario import Scenario


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0, 1 (the run failed), 2 (bad input), 3 (an audit found a claim violated), 130 (Ctrl-C), 143
    (SIGTERM), 138 (SIGUSR1, after the round). An error is one line; its traceback comes before it
    where the environment has FEDKD_TRACEBACK.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    return reported(lambda: carry_out(given))


def reported(act: Callable[[], int]) -> int:
    """Return the exit status of what a command does, and write its error as one line."""
    replace_unwritable()
    try:
        with interruptible(threading.Event()):
            return act()
    except FedkdError as error:
        hidden = notes(error)
        if os.environ.get("FEDKD_TRACEBACK"):
            traceback.print_exc()
            hidden = ()
        for message in messages(error):
            notice("; ".join([message, *hidden]))
        return 2 if isinstance(error, SettingError) else 1
    except OSError as error:
        if error.errno not in FULL:
            raise
        notice(f"{error.filename or 'the standard output'} cannot be written: {error.strerror}")
        give_up_output()
        return 1
    except KeyboardInterrupt as interruption:
        left = getattr(interruption, "__notes__", ())
        notice("; ".join([described(interruption), *left]))
        return exit_status(interruption)
    finally:
        flush_output()


def compose(arguments: Sequence[str], resumed: str = "") -> Scenario:
    """Return the scenario that the command would run with these arguments. Raises SettingError.

    Takes all of the command's settings, ``--config`` and ``--config-dir``, but no sweep and none of
    Hydra's flags. ``resumed`` is the folder of a run that goes on, with what may change on resume.
    """
    from fedkd.cli.hydra_compose import compose_scenario

    parsed = parse_arguments([f"resume={resumed}", *arguments] if resumed else arguments)
    if parsed.flags or (parsed.resumed and not resumed):
        raise SettingError(
            f"{parsed.flags[0] if parsed.flags else 'resume'} is for the command alone"
        )
    return compose_scenario(parsed)


def carry_out(given: Sequence[str]) -> int:
    """Do what arguments ask for, and return 0, or 3 where an audit refuted a claim.

    Raises FedkdError.
    """
    if "-h" in given or "--help" in given:
        from fedkd.cli.help import manual
        from fedkd.cli.help_topics import text_of

        scenarios = scenario_files(value_of(given, "--config-dir")[1])
        print(text_of(given) or manual(scenarios))
        return 0
    for key, written in given_twice(given).items():
        notice(f"{' and '.join(written)} set {key} more than once; the last one counts")
    command, foreign = continued(given)
    goes_on = command != list(given)
    if _run(parse_arguments(command, foreign), Sweep(command, goes_on=goes_on)):
        print(
            "fedkd: VIOLATION: the audit refutes what the run claims; its table says which",
            file=sys.stderr,
        )
        return 3
    return 0


def _run(arguments: Arguments, sweep: Sweep) -> bool:
    """Run what is asked for, and return whether an audit refuted the claim of any run."""
    from fedkd.cli.hydra_compose import compose_scenario, run_jobs

    for name in ("flwr", "alembic"):
        logging.getLogger(name).propagate = False
        logging.getLogger(name).setLevel(logging.ERROR)
    if arguments.is_one_run:
        # Hydra's own main function would compose the scenario twice, to see that it is no sweep.
        return is_violation(_one_run(compose_scenario(arguments), arguments.resumed))
    summaries: list[dict[str, Any]] = []
    with sweep.said():
        run_jobs(
            arguments,
            lambda scenario: summaries.append(_one_run(scenario, arguments.resumed)),
            sweep.run,
        )
    return sweep.violated or any(map(is_violation, summaries))


def _one_run(scenario: Scenario, resumed: Path | None) -> dict[str, Any]:
    """Run a scenario, or go on with its run, and return the summary."""
    from fedkd.experiment.resume import resume
    from fedkd.experiment.run import run

    return run(scenario) if resumed is None else resume(scenario, resumed)
