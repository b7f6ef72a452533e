"""Runs carried out for a command, and the exit status of a command that stores them."""

import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from fedkd.errors import FedkdError, SettingError
from fedkd.experiment.jobs import Outcome, RunTask, is_done, run_all
from fedkd.runtime.interrupts import described, exit_status


def run_tasks(tasks: Sequence[RunTask], jobs: int, console: Console) -> list[Outcome]:
    """Carry out the runs that are not complete, print their progress, and return the failures."""
    to_do = [task for task in tasks if not is_done(task)]
    console.print(f"{len(tasks)} runs, {len(tasks) - len(to_do)} of them done before")
    ended: list[Outcome] = []

    def on_end(outcome: Outcome) -> None:
        ended.append(outcome)
        end = f"FAILED: {outcome.error}" if outcome.error else "done"
        console.print(f"[{len(ended)}/{len(to_do)}] {outcome.task.name}: {end}", markup=False)

    return [outcome for outcome in run_all(to_do, jobs, on_end) if outcome.error]


def exit_status_of(command: str, work: Callable[[], int]) -> int:
    """Return what ``work`` returns, or print in a line why it ended, and return its exit status."""
    try:
        return work()
    except SettingError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    except (FedkdError, OSError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        said = described(interruption)
        print(f"{command}: {said}; the same command continues from here", file=sys.stderr)
        return exit_status(interruption)
