"""Report a run: its folder and checkpoints, the console, W&B, pictures and audits."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedkd.errors import FedkdError
from fedkd.experiment.build import Experiment
from fedkd.experiment.round_watchers import RoundWatchers
from fedkd.experiment.summary import conditions_of, summarize
from fedkd.federation.round_records import RoundRecord
from fedkd.report.console import ConsoleReport, RunConsole
from fedkd.report.folder import RunFolder
from fedkd.report.record_rows import (
    Baseline,
    client_rows,
    epsilon_rows,
    local_only_figures,
    round_row,
    teacher_rows,
)
from fedkd.report.run_output import Brief
from fedkd.report.sinks import Ending, SinkRound, SinkRun, Sinks
from fedkd.report.sinks import begin as begin_sinks
from fedkd.report.stored_plan import write_plan
from fedkd.runtime.invocation import command_line
from fedkd.runtime.resources import Resources
from fedkd.scenario.scenario import deciding
from fedkd.scenario.trust import foreign_imports
from fedkd.storage.transcript_recorder import TranscriptRecorder


@dataclass(frozen=True, kw_only=True)
class Onlookers:
    """Who hears of a run's rounds besides its folder."""

    watchers: RoundWatchers = field(default_factory=RoundWatchers)
    """The user's callbacks."""
    console: RunConsole | None = None
    """Shows the run in place of the standard output; None is what the scenario's report says."""
    brief: Brief | None = None
    """What the runs of a sweep share on the console; None is a run alone."""


class RunReport:
    """The records of a run, and what is made of each: rows, a checkpoint, a line on the console."""

    def __init__(
        self,
        experiment: Experiment,
        folder: RunFolder,
        recorder: TranscriptRecorder | None = None,
        records: Sequence[RoundRecord] = (),
        onlookers: Onlookers | None = None,
    ) -> None:
        """Make the report of a run.

        Args:
            experiment: What is run.
            folder: The run's folder.
            recorder: Stores what travels, where the run is audited.
            records: The rounds that a resumed run has finished before.
            onlookers: Callbacks and the console; None is no callback.
        """
        self.experiment, self.folder, self.recorder = experiment, folder, recorder
        self.records, onlookers = list(records), onlookers or Onlookers()
        verbosity = experiment.scenario.report.verbosity
        self.console = ConsoleReport(verbosity, folder.path, onlookers.brief, onlookers.console)
        self.baseline: Baseline | None = None
        self._sinks = Sinks([])
        self._changed: set[int] = set()
        # Those of now: what is edited while the run goes on has been imported before.
        self._conditions = conditions_of(experiment)
        self._deciding = deciding(experiment.scenario)
        self._resources = Resources(sum(record.seconds for record in self.records))

    def begin(self, complaints: Sequence[str] = ()) -> None:
        """Print the plan and what is wrong with earlier checkpoints; begin W&B and the like."""
        plan, scenario = self.experiment.plan, self.experiment.scenario
        write_plan(plan, self.folder.path)
        self.console.plan(plan, str(self.folder.path))
        for complaint in complaints:
            self.console.warn(complaint)
        if self.records:
            self.console.warn(f"resumed after round {len(self.records)} of {plan.rounds}")
        self._sinks = begin_sinks(
            scenario.report,
            SinkRun(
                name=plan.title,
                scenario=plan.name,
                strategy=plan.strategy,
                description=scenario.federation.description,
                settings=scenario.to_dict(),
                folder=self.folder.path,
                rounds_before=len(self.records),
            ),
        )

    def add(self, record: RoundRecord, *, is_last: bool = False) -> None:
        """Write and show a finished round, with a checkpoint where it is the last for now."""
        plan, exposures = self.experiment.plan, self.experiment.exposures
        if exposures is not None and record.round == plan.rounds:
            self.console.say("measuring the exposure of secrets")
            record = replace(record, exposure=exposures.result())
        if self.records and record.weights is not None:  # K x K of each round are in the folder
            self.records[-1] = replace(self.records[-1], weights=None)
        self.records.append(record)
        row = round_row(record, self.baseline)
        weights = None if record.weights is None else record.weights.numpy()
        teachers = teacher_rows(record, plan.class_names)
        self.folder.add_round(row, client_rows(record, self.baseline), weights, teachers)
        self._changed.update(self.experiment.server.recorder.participants)
        if self.recorder is not None:
            self.recorder.save()
        self._checkpoint(record.round, is_last=is_last)
        self.console.round(row, plan.rounds)
        self.console.clients(record, plan.reported)
        self._sinks.round(SinkRound(row=row, alone=local_only_figures(record, self.baseline)))

    def _checkpoint(self, round_number: int, *, is_last: bool) -> None:
        """Write the checkpoint of a round where one is due."""
        experiment, every = self.experiment, self.experiment.scenario.checkpoint.every
        if experiment.checkpoints is None or (
            round_number % every and round_number != experiment.plan.rounds and not is_last
        ):
            return
        experiment.checkpoints.save(
            round_number,
            self._changed,
            server={**experiment.server.state(), **_observed(experiment), **_nodes(experiment)},
            extents=self.folder.extents(),
            scenario=self._deciding,
            versions=self._conditions,
        )
        self._changed.clear()

    def what_is_left(self) -> str:
        """Return where an interrupted run's finished rounds are, and how it goes on if it can."""
        checkpoints, path = self.experiment.checkpoints, self.folder.path
        found = checkpoints is not None and any(checkpoints.folder.glob("*.checkpoint"))
        trust = bool(foreign_imports(self.experiment.scenario.to_dict()))
        if self.experiment.nodes is None:
            command = command_line(["resume", str(path), *(["trust=true"] if trust else [])])
        else:
            choice = f'resume="{path}"' + (' overrides="trust=true"' if trust else "")
            command = f"flwr run . -c {shlex.quote(choice)}"
        go_on = f"; to go on: {command}" if found else ""
        return f"finished rounds: {len(self.records)}, in {path}{go_on}"

    def finish(
        self, status: str, engine: str | None = None, stopped: str | None = None
    ) -> dict[str, Any]:
        """Write and show what the run came to, and return its summary.

        ``engine`` names what ran the rounds in place of the scenario's, ``stopped`` why a callback
        ended the run early.
        """
        self.console.stop()
        summary = summarize(self.experiment, self.records, self.baseline, status, self._resources)
        summary["folder"] = str(self.folder.path.absolute())
        if engine is not None:
            summary["engine"] = {"name": engine}
        if stopped is not None:
            summary["stopped"] = stopped
        if status != "completed":
            self.console.output.log(f"{status} after {len(self.records)} rounds")
        self.folder.finish(summary, quietly=status == "failed")
        pictures = self._show(summary) if status in ("completed", "stopped") else []
        if self._sinks:
            self._sinks.finish(self._ending(summary, pictures))
        for line in self._sinks.lines():
            self.console.say(line)
        return summary

    def _ending(self, summary: dict[str, Any], pictures: list[Path]) -> Ending:
        """Return what the sinks are told at the end of the run."""
        return Ending(
            summary=summary,
            rounds=[
                SinkRound(
                    row=round_row(record, self.baseline),
                    alone=local_only_figures(record, self.baseline),
                )
                for record in self.records
            ],
            clients=[row for record in self.records for row in client_rows(record, self.baseline)],
            spent=epsilon_rows(self.records),
            pictures=pictures,
        )

    def _show(self, summary: dict[str, Any]) -> list[Path]:
        """Draw and print the figures of a completed run, audit it, and return the pictures."""
        plan, path = self.experiment.plan, self.folder.path
        wanted = self.experiment.scenario.report.plots
        pictures = _pictures(self.experiment, self.records, self.baseline, path, wanted)
        last = self.records[-1]
        self.console.summary(plan, summary, last, self.baseline, str(path), bool(pictures))
        if summary["status"] != "completed":  # an audit is of a whole run
            return pictures
        return [*pictures, *_audit(self.experiment, path, summary, self.console)]


def transcript_recorder(
    experiment: Experiment, run_dir: Path, resume_after: int | None = None
) -> TranscriptRecorder | None:
    """Return what stores the messages of an audited run; None where nothing is stored.

    The statistics of audits are loaded for audited runs alone.
    """
    if not experiment.scenario.audit.value.stores:
        return None
    from fedkd.experiment import auditing

    return auditing.begin(experiment, run_dir, resume_after)


def _observed(experiment: Experiment) -> dict[str, Any]:
    """Return what the observer of a run remembers of its rounds; nothing without one."""
    state = {} if experiment.exposures is None else experiment.exposures.state()
    return {"exposures": state} if state else {}


def _nodes(experiment: Experiment) -> dict[str, Any]:
    """Return where client states are that are not in the run's folder."""
    return {} if experiment.nodes is None else {"nodes": experiment.nodes.name}


def _audit(
    experiment: Experiment, run_dir: Path, summary: dict[str, Any], console: ConsoleReport
) -> list[Path]:
    """Audit a run that has ended, enter what was found in the summary, and return the pictures."""
    if not experiment.scenario.audit.value.stores:
        return []
    from fedkd.audit.report import amend_summary, show
    from fedkd.experiment import auditing

    options = experiment.scenario.report
    studies, entry = auditing.finish(experiment, run_dir, options.plots)
    if entry is None:
        return []
    summary["audit"] = entry
    amend_summary(run_dir, entry)
    show(studies, console.output.print)
    if console.output.is_brief():
        console.output.console.print(f"  audit: {entry['verdict']}", markup=False)
    return sorted((run_dir / "plots").glob("audit_roc_*.png")) if options.plots else []


def _pictures(
    experiment: Experiment,
    records: Sequence[RoundRecord],
    baseline: Baseline | None,
    folder: Path,
    wanted: bool,
) -> list[Path]:
    if not wanted or not records:
        return []
    from fedkd.report.plots import draw_run

    try:
        return draw_run(experiment.plan, records, baseline, folder / "plots")
    except OSError as error:
        raise FedkdError(
            f"the plots cannot be written to {folder / 'plots'}: {error.strerror}"
        ) from error
