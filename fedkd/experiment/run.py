"""One run, from a scenario to its folder: build, the local-only twin, the rounds, the report."""

import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from fedkd.errors import FedkdError, RunError, SettingError
from fedkd.experiment.baseline import is_cached, local_only_baseline
from fedkd.experiment.build import Experiment, build
from fedkd.experiment.client_worker import create_clients
from fedkd.experiment.round_costs import round_costs
from fedkd.experiment.summary import CODE, conditions_of, summarize
from fedkd.federation.round_records import RoundRecord
from fedkd.flower.engine_run import Engine, EngineRun, OnReply, WorkerSpec
from fedkd.flower.process_clients import client_pool
from fedkd.flower.server_app import make_server_app
from fedkd.flower.strategy_adapter import FederatedDistillation
from fedkd.report.console import ConsoleReport
from fedkd.report.folder import RunFolder, claimed, recorded_rounds, stored_records
from fedkd.report.record_rows import (
    Baseline,
    client_rows,
    epsilon_rows,
    round_row,
    teacher_rows,
)
from fedkd.report.report_settings import Report
from fedkd.scenario.scenario import Scenario, deciding, resumable
from fedkd.storage.transcript_recorder import TranscriptRecorder

SEED_IS_SENT = (
    "every message carries the scenario with its seed, from which whoever reads it can draw all"
    " noise again; among real"
    " parties nothing is protected, and the epsilon is that of a simulation"
)


@dataclass(frozen=True)
class Driver:
    """Who runs the rounds in place of the scenario's engine: Flower, on nodes that it has connected
    itself.
    """

    name: str
    """What the report calls it."""
    start: Callable[[FederatedDistillation], object]
    """Runs a strategy from its first round to its last."""


def run(
    scenario: Scenario, run_dir: Path | None = None, driver: Driver | None = None
) -> dict[str, Any]:
    """Run a scenario to its end and return its summary; every result is in the run folder.

    ``run_dir`` is used where the scenario names none. ``driver`` takes the place of the scenario's
    engine, which then computes the local-only twin alone. On an interruption what is finished is on
    disk, and the summary says so. Raises SettingError before any training, RunError afterwards.
    """
    path, stop = choose_run_dir(scenario, run_dir), threading.Event()
    experiment = build(scenario, stop, path)
    if driver is not None:
        experiment = replace(experiment, plan=replace(experiment.plan, engine=driver.name))
        if experiment.scenario.audit.value.asks_models:
            raise SettingError(
                f"audit.adversaries=[lab]: the models of {driver.name} are on other machines;"
                " leave it out"
            )
        if experiment.context.enforcer.claims:
            experiment = warned(
                experiment, f"privacy={experiment.context.enforcer.name}: {SEED_IS_SENT}"
            )
    _check_account(scenario.report)
    with _session(experiment):
        folder = RunFolder(path, repeatable(experiment.scenario).text())
        recorder = _witness(experiment, path)
        return _conduct(experiment, folder, stop, [], driver=driver, recorder=recorder)


def resume(scenario: Scenario, run_dir: Path) -> dict[str, Any]:
    """Go on with the run in ``run_dir`` from its last good checkpoint and return its summary.

    ``scenario`` is the run's own, of which only engine and report may differ. The figures are those
    that the run would have had if nothing had happened to it. Raises SettingError where this is
    another scenario, RunError where there is no good checkpoint.
    """
    stop = threading.Event()
    experiment = build(scenario, stop, run_dir)
    if experiment.checkpoints is None:
        raise SettingError(
            f"resume={run_dir}: this run has checkpoint.every=0 and so nothing to go on from"
        )
    _check_account(scenario.report)
    with _session(experiment), claimed(run_dir):
        checkpoint, complaints = experiment.checkpoints.load()
        check_same(dict(checkpoint.scenario), deciding(experiment.scenario), run_dir)
        now = conditions_of(experiment)
        others = [name for name, was in checkpoint.versions.items() if now.get(name) != was]
        complaints += [
            f"{name} was {checkpoint.versions[name]} when the run began and is {now.get(name)}"
            " now; the last digits may"
            " differ"
            for name in others
            if not name.startswith(CODE)
        ]
        for name in others:
            if name.startswith(CODE) and checkpoint.round < experiment.plan.rounds:
                experiment = warned(experiment, f"the {name} has changed: from round"
                                                f" {checkpoint.round + 1} on this is"
                                                " another experiment")  # fmt: skip
        warning = run_again(experiment, checkpoint.round, recorded_rounds(run_dir), others)
        if warning is not None:
            experiment = warned(experiment, warning)
        server = dict(checkpoint.server)
        if experiment.exposures is not None:
            experiment.exposures.restore(server.pop("exposures", {}))
        experiment.server.restore(server)
        folder = RunFolder.reopen(run_dir, checkpoint.sizes, checkpoint.round)
        records = stored_records(run_dir, checkpoint.round)
        recorder = _witness(experiment, run_dir, resume_after=checkpoint.round)
        return _conduct(experiment, folder, stop, records, complaints, recorder=recorder)


def warned(experiment: Experiment, warning: str) -> Experiment:
    """Return an experiment that prints one warning more before it runs."""
    return replace(
        experiment, plan=replace(experiment.plan, warnings=(*experiment.plan.warnings, warning))
    )


def run_again(
    experiment: Experiment, after: int, recorded: int, others: Sequence[str] = ()
) -> str | None:
    """Return what must be said of the rounds that a resumed run does again; None where nothing is
    claimed of them.

    The run goes on ``after`` a round; ``recorded`` rounds had been finished, and the next may have
    begun. ``others`` names what the run is computed with that is not what it began with. Noise is
    named by client and round, and so is drawn again as it was: where the replay differs, the
    difference of two messages is free of it.
    """
    plan, scenario = experiment.plan, experiment.scenario
    last = min(recorded + 1, plan.rounds)
    if not experiment.context.enforcer.claims or last <= after:
        return None
    rounds = f"round {last} is" if last == after + 1 else f"rounds {after + 1} to {last} are"
    causes = (
        [f"deadline={scenario.protocol.deadline:g}"]
        if scenario.protocol.deadline is not None
        else []
    )
    causes += [f"engine={scenario.engine.name}"] if not scenario.engine.value.here else []
    causes += [f"device {plan.device}"] if plan.device != "CPU" else []
    causes += [f"another {name}" for name in others]
    line = f"{rounds} run again: what the interrupted attempt sent there is no part of what the run claims"
    if not causes:
        return line
    return (
        f"{line}; the replay may differ ({', '.join(causes)}) with the same noise, so that what"
        " both attempts sent in a"
        " round, shown together, would tell private values without any noise"
    )


def _conduct(
    experiment: Experiment,
    folder: RunFolder,
    stop: threading.Event,
    records: list[RoundRecord],
    complaints: Sequence[str] = (),
    driver: Driver | None = None,
    recorder: TranscriptRecorder | None = None,
) -> dict[str, Any]:
    """Run what is left of an experiment after ``records``, and report all of it."""
    started, options, earlier = (
        time.perf_counter(),
        experiment.scenario.report,
        sum(r.seconds for r in records),
    )
    console = ConsoleReport(quiet=not options.console)
    console.plan(experiment.plan, str(folder.path))
    for complaint in complaints:
        console.say(complaint)
    if records:
        console.say(f"resumed after round {len(records)} of {experiment.plan.rounds}")
    wandb = None
    if options.wandb != "disabled":
        from fedkd.report.wandb_run import WandbReport

        wandb = WandbReport(
            options, experiment.plan.name, experiment.scenario.to_dict(), folder.path
        )

    baseline: Baseline | None = None
    changed: set[int] = set()
    conditions = conditions_of(
        experiment
    )  # of now: what is edited while the run goes on has been imported before

    def on_round(record: RoundRecord) -> None:
        if experiment.exposures is not None and record.round == experiment.plan.rounds:
            console.say("measuring the exposure of secrets")
            record = replace(record, exposure=experiment.exposures.result())
        records.append(record)
        row = round_row(record, baseline)
        weights = None if record.weights is None else record.weights.numpy()
        teachers = teacher_rows(record, experiment.plan.class_names)
        folder.add_round(row, client_rows(record, baseline), weights, teachers)
        changed.update(experiment.server.recorder.participants)
        if recorder is not None:
            recorder.save()
        _checkpoint(experiment, record.round, changed, folder, conditions)
        console.round(row, experiment.plan.rounds)
        if wandb is not None:
            wandb.round(row)

    status = "failed"
    try:
        if experiment.scenario.federation.baseline != "none" and experiment.plan.exchanges:
            baseline = _baseline(experiment, stop, console)
        if driver is not None:
            text = experiment.scenario.text()
            driver.start(
                FederatedDistillation(
                    experiment.server, text, on_round, joined=True, recorder=recorder
                )
            )
        elif len(records) < experiment.plan.rounds:
            console.start(experiment.plan.strategy, experiment.messages(len(records)))
            first = len(records) + 1
            execute(
                experiment,
                on_round,
                stop,
                lambda _: console.advance(),
                first_round=first,
                recorder=recorder,
            )
        if experiment.checkpoints is not None:
            experiment.checkpoints.keep_last()
        if experiment.plan.exchanges:
            check_alive(records)
        status = "completed"
    except (KeyboardInterrupt, SystemExit) as interruption:  # the latter by `flwr stop`
        status = "interrupted"
        interruption.add_note(_left(experiment, folder.path, len(records)))
        raise
    finally:
        console.stop()
        summary = summarize(
            experiment, records, baseline, status, earlier + time.perf_counter() - started
        )
        if driver is not None:
            summary["engine"] = {"name": driver.name}
        folder.finish(summary, quietly=status == "failed")
        pictures: list[Path] = []
        if status == "completed":
            pictures = _pictures(experiment, records, baseline, folder.path, options.plots)
            console.summary(
                experiment.plan, summary, records[-1], baseline, str(folder.path), bool(pictures)
            )
            pictures += _audit(experiment, folder.path, summary)
        if wandb is not None:
            last = client_rows(records[-1], baseline) if records else []
            wandb.finish(
                summary,
                last,
                epsilon_rows(records),
                pictures,
                status=0 if status == "completed" else 1,
            )
    return summary


def _left(experiment: Experiment, path: Path, rounds: int) -> str:
    """Return where the finished rounds of an interrupted run are, and how it goes on where it
    can.
    """
    found = experiment.checkpoints is not None and any(
        experiment.checkpoints.folder.glob("*.checkpoint")
    )
    go_on = f"; to go on: python -m fedkd.simulate {shlex.quote(f'resume={path}')}" if found else ""
    return f"finished rounds: {rounds}, in {path}{go_on}"


def _session(experiment: Experiment) -> AbstractContextManager[None]:
    engine: Engine = experiment.scenario.engine.value
    return engine.session(experiment.plan.architectures, experiment.scenario.federation.device)


def _check_account(options: Report) -> None:
    if options.wandb != "disabled":
        from fedkd.report.wandb_run import check_account

        check_account(options)


def _checkpoint(
    experiment: Experiment,
    round_number: int,
    changed: set[int],
    folder: RunFolder,
    conditions: Mapping[str, str],
) -> None:
    """Write the checkpoint of a round where one is due; ``changed`` is emptied then."""
    due = experiment.scenario.checkpoint.every
    if experiment.checkpoints is None or (
        round_number % due and round_number != experiment.plan.rounds
    ):
        return
    experiment.checkpoints.save(
        round_number,
        changed,
        server={**experiment.server.state(), **_observed(experiment)},
        sizes=folder.sizes(),
        scenario=deciding(experiment.scenario),
        versions=conditions,
    )
    changed.clear()


def _observed(experiment: Experiment) -> dict[str, Any]:
    """Return what the observer of a run remembers of its rounds; nothing without one."""
    state = {} if experiment.exposures is None else experiment.exposures.state()
    return {"exposures": state} if state else {}


def execute(
    experiment: Experiment,
    on_round: Callable[[RoundRecord], None],
    stop: threading.Event,
    on_reply: OnReply = lambda _: None,
    *,
    first_round: int = 1,
    recorder: TranscriptRecorder | None = None,
) -> None:
    """Run an experiment's Flower apps on its engine, from ``first_round`` on."""
    context, text = experiment.context, experiment.scenario.text()
    strategy = FederatedDistillation(
        experiment.server, text, on_round, first_round=first_round, recorder=recorder
    )
    engine: Engine = experiment.scenario.engine.value
    history = experiment.checkpoints is not None
    public = None if engine.here or context.kind is None else context.task.sendable
    engine.run(
        EngineRun(
            server_app=make_server_app(strategy),
            client_pool=client_pool(context),
            create_clients=create_clients,
            spec=WorkerSpec(
                scenario=text,
                states=experiment.states.absolute(),
                history=history,
                public_inputs=public,
            ),
            architectures=experiment.plan.architectures,
            cost=lambda: round_costs(context),
            device=experiment.scenario.federation.device,
            deadline=experiment.scenario.protocol.deadline,
            stop=stop,
            on_reply=on_reply,
        )
    )


def check_same(before: dict[str, Any], now: dict[str, Any], run_dir: Path) -> None:
    """Raise SettingError, which names the settings that differ, unless a run would go on as it
    began.
    """
    shown = differences(before, now)
    if shown:
        raise SettingError(
            f"resume={run_dir}: a run goes on with the settings that it began with, except"
            f" {', '.join(resumable())}; {shown}"
        )


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return the first settings that differ, in words; empty where none does."""
    different = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    return ", ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in different[:5])


def check_alive(records: Sequence[RoundRecord]) -> None:
    """Raise RunError, with the first reason, where no upload was accepted in any round."""
    clients = [client for record in records for client in record.clients]
    if any(client.status == "ok" for client in clients):
        return
    reasons = [
        f"client {client.client_id} {client.status}: {client.reason}"
        for client in clients
        if client.reason
    ]
    raise RunError(
        f"no upload was accepted in any of {len(records)} rounds: nothing was shared, and the run"
        " says nothing of its"
        f" strategy{'; ' if reasons else ''}{'; '.join(reasons[:1])}"
    )


def repeatable(scenario: Scenario) -> Scenario:
    """Return the scenario without its folder: what ``--config`` of its file runs again, into a new
    one.
    """
    return scenario.changed(federation=replace(scenario.federation, run_dir=None))


def choose_run_dir(scenario: Scenario, run_dir: Path | None) -> Path:
    """Return the folder of a run: the scenario's, or else ``run_dir``, or else a new one in
    ``runs``.
    """
    if scenario.federation.run_dir is not None:
        return Path(scenario.federation.run_dir).expanduser()
    if run_dir is not None:
        return run_dir
    stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{scenario.name}"
    candidate, round_number = Path("runs") / stem, 2
    while candidate.exists():
        candidate, round_number = Path("runs") / f"{stem}_{round_number}", round_number + 1
    return candidate


def _baseline(experiment: Experiment, stop: threading.Event, console: ConsoleReport) -> Baseline:
    if is_cached(experiment):
        console.say("local-only twin: cached")
    else:
        console.start(
            "local-only twin",
            experiment.plan.rounds * experiment.plan.clients + experiment.plan.clients,
        )
    try:
        return local_only_baseline(
            experiment,
            stop,
            lambda twin, on_round: execute(twin, on_round, stop, lambda _: console.advance()),
        )
    finally:
        console.stop()


def _witness(
    experiment: Experiment, run_dir: Path, resume_after: int | None = None
) -> TranscriptRecorder | None:
    """Return who stores what travels, where the run is audited: the statistics of audits are loaded
    for those alone.
    """
    if not experiment.scenario.audit.value.stores:
        return None
    from fedkd.experiment import auditing

    return auditing.begin(experiment, run_dir, resume_after)


def _audit(experiment: Experiment, run_dir: Path, summary: dict[str, Any]) -> list[Path]:
    """Audit a run that has ended, say what was found, and enter it in the summary. Returns the
    pictures.
    """
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
    if options.console:
        show(studies)
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
