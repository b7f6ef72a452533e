"""A sweep: the runs of all combinations of several values, in one folder, which can go on later.

The folder holds ``sweep.json``, the arguments that it was begun with, and ``sweep.csv``, what
varies from run to run, with results. Which combinations there are is Hydra's business
(``hydra_compose``).
"""

import contextlib
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedkd.cli.arguments import check_changes, trusts, value_of
from fedkd.cli.sweep_table import SweepProgress, SweepTable, results_of
from fedkd.errors import Damaged, SettingError
from fedkd.report.run_output import Brief
from fedkd.report.sinks import offline_runs
from fedkd.runtime.interrupts import end_if_asked
from fedkd.runtime.invocation import command_line
from fedkd.scenario.scenario import Scenario
from fedkd.scenario.trust import NAMING, distrusted, foreign_imports, names_strategy_here
from fedkd.settings.import_paths import import_paths_within, is_allowed
from fedkd.settings.validators import user_path
from fedkd.storage.checked_json import read_json, write_json

if TYPE_CHECKING:
    from fedkd.cli.hydra_compose import SweepJob

LONGEST_TAG = 64
"""Letters that W&B takes."""
SWEEP_FILE = "sweep.json"
"""Holds, in a sweep's folder, the arguments that it was begun with."""
_SWEEP_DIR = "hydra.sweep.dir="


def continued(given: Sequence[str]) -> tuple[list[str], str]:
    """Return the arguments, those of a sweep that goes on where ``resume`` names its folder.

    The second value is that folder, where nobody vouches for it; it is empty for the user's own
    arguments. Raises SettingError for a sweep from elsewhere that would run code.
    """
    rest, resumed = value_of(given, "resume")
    if resumed is None:
        return list(given), ""
    folder = user_path(resumed, "resume")
    if not (folder / SWEEP_FILE).is_file():
        return list(given), ""
    rest, trust = trusts(rest)
    check_changes(rest, "a sweep")
    try:
        stored = read_json(folder / SWEEP_FILE)["arguments"]
        begun, _ = trusts([str(argument) for argument in stored])  # no folder vouches for itself
    except (Damaged, TypeError, KeyError) as error:
        raise SettingError(f"resume={folder}: {error}") from error
    if not trust and (foreign := [one for one in begun if _runs_code(one)]):
        raise distrusted(f"resume={folder}", foreign)
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    vouched = ["trust=true"] if trust else []
    others = [a for a in begun if not a.startswith(_SWEEP_DIR)]
    return [*others, *rest, *vouched, f"{_SWEEP_DIR}'{quoted}'"], "" if trust else str(folder)


def _runs_code(argument: str) -> bool:
    """Return whether a stored argument imports what is not fedkd's, as far as its text shows.

    What Hydra makes of the text is looked at again once it is composed. Hydra's own settings are
    objects of any class, and an ``@`` puts others there.
    """
    key = argument.partition("=")[0].lstrip("+~")
    of_hydra = "@" in key or ("hydra" in key and not argument.startswith(_SWEEP_DIR))
    named = import_paths_within(argument) if key.partition(".")[0] in NAMING else []
    is_strategy = key.partition(".")[0] == "strategy"
    here = is_strategy and any(map(names_strategy_here, re.findall(r"\w+", argument)))
    return of_hydra or here or any(not is_allowed(path) for path in named)


class Sweep:
    """The runs of a sweep, one after the other."""

    def __init__(self, command: Sequence[str], *, goes_on: bool) -> None:
        """Begin a sweep, or go on with one.

        A sweep that goes on leaves alone what is complete; another refuses a folder with a run.
        """
        self.command, self.goes_on = list(command), goes_on
        self.folders: list[Path] = []
        self.needs_trust = any(_runs_code(argument) for argument in command)
        """Whether any of the runs, begun or not, imports what is not fedkd's."""
        self.violated = False
        """Whether an audit refuted the claim of any run."""
        self._brief, self._progress = Brief(), SweepProgress()

    def run(self, job: "SweepJob") -> float | None:
        """Run one job into its folder, and return its objective if it has one."""
        from fedkd.experiment.run import choose_run_dir, run
        from fedkd.experiment.run_or_resume import ensure, is_complete
        from fedkd.experiment.run_report import Onlookers
        from fedkd.experiment.summary import check_objective, objective_of

        end_if_asked()
        objective = job.scenario.federation.objective
        if objective is not None:
            check_objective(objective)
        self.folders.append(job.folder)
        self.needs_trust |= bool(foreign_imports(job.scenario.to_dict()))
        table = _begin(job.folder.parent, self.command)
        scenario = _tagged(job.scenario, job.varied)
        folder = choose_run_dir(scenario, job.folder)
        table.enter(job.folder.name, job.varied)
        complete = self.goes_on and is_complete(scenario, folder)
        if complete:
            print(f"{folder}: complete")
        self._brief.heading = self._progress.heading(job)
        started, onlookers = time.monotonic(), Onlookers(brief=self._brief)
        try:
            if self.goes_on:
                summary = ensure(scenario, folder, onlookers)
            else:
                summary = run(scenario, folder, onlookers=onlookers)
        except SettingError:  # what was there before is left alone
            raise
        except BaseException as error:
            status = "failed" if isinstance(error, Exception) else "interrupted"
            table.enter(job.folder.name, job.varied, {"status": status})
            raise
        table.enter(job.folder.name, job.varied, results_of(summary))
        if not complete:
            self._progress.took(time.monotonic() - started)
        self.violated |= is_violation(summary)
        return None if objective is None else objective_of(summary, objective)

    @contextlib.contextmanager
    def said(self) -> Iterator[None]:
        """Print at the end how to compare the runs, and how to go on with those that are left."""
        ended = False
        try:
            yield
            ended = True
        finally:
            if self.folders:
                self._say(ended)

    def _say(self, ended: bool) -> None:
        sweep, here = self.folders[0].parent, Path.cwd()
        sweep = sweep.relative_to(here) if sweep.is_relative_to(here) else sweep
        if offline := offline_runs(sweep):
            count = "run" if len(offline) == 1 else "runs"
            upload = f"wandb sync {shlex.quote(str(sweep / 'wandb'))}/offline-run-*"
            print(f"W&B, to upload {len(offline)} {count}: {upload}")
        if len(self.folders) > 1:
            comparison = str(sweep / "comparison")
            compare = ["compare", "--runs", str(sweep), "--out", comparison]
            print(f"Compare the runs: {command_line(compare)}")
        if not ended:
            go_on = ["resume", str(sweep), *(["trust=true"] if self.needs_trust else [])]
            print(f"Go on with the sweep: {command_line(go_on)}")


def is_violation(summary: Mapping[str, Any]) -> bool:
    """Return whether an audit refuted what a run claims."""
    return (summary.get("audit") or {}).get("verdict") == "VIOLATION"


def _begin(sweep: Path, command: Sequence[str]) -> SweepTable:
    """Return the table of a sweep, of whose runs the first also writes ``sweep.json``."""
    sweep.mkdir(parents=True, exist_ok=True)
    if not (sweep / SWEEP_FILE).exists():
        write_json(sweep / SWEEP_FILE, {"arguments": _with_whole_paths(command)})
    return SweepTable(sweep, SWEEP_FILE)


def _with_whole_paths(command: Sequence[str]) -> list[str]:
    """Return arguments whose options mean the same in every working directory."""
    rest = list(command)
    for option in ("--config-dir", "--config"):
        rest, value = value_of(rest, option)
        if value is not None:
            rest.append(f"{option}={user_path(value, option).resolve()}")
    return rest


def _tagged(scenario: Scenario, varied: Mapping[str, str]) -> Scenario:
    """Return a job's scenario with what varies as tags, as in ``privacy.epsilon=4``."""
    tags = [f"{key}={value}"[:LONGEST_TAG] for key, value in varied.items()]
    return scenario.changed(report=replace(scenario.report, tags=(*scenario.report.tags, *tags)))
