"""One run, from a scenario to its folder: build, the local-only baseline, the rounds, the report.

Not for: going on with a run (``resume``), and who hears of its rounds (``run_report``).
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from fedkd.errors import FedkdError, RunError, SettingError, StoppedEarly
from fedkd.experiment.baseline import is_computed, local_only_baseline
from fedkd.experiment.build import Experiment, build
from fedkd.experiment.client_worker import create_clients
from fedkd.experiment.make_context import named_batching
from fedkd.experiment.round_costs import round_costs
from fedkd.experiment.round_watchers import RoundWatchers
from fedkd.experiment.run_report import Onlookers, RunReport, transcript_recorder
from fedkd.experiment.worker_facts import choose_batches, facts
from fedkd.federation.batched_clients import fixed_batches
from fedkd.federation.round_records import RoundRecord
from fedkd.flower.engine_run import (
    RUN_ID,
    Engine,
    EngineRun,
    OnReply,
    WorkerSpec,
    ask_worker,
    on_device,
)
from fedkd.flower.node_states import NodeStates
from fedkd.flower.process_clients import client_pool
from fedkd.flower.server_app import make_server_app
from fedkd.flower.strategy_adapter import FederatedDistillation
from fedkd.report.folder import RunFolder
from fedkd.report.record_rows import Baseline
from fedkd.report.sinks import check as check_sinks
from fedkd.runtime.interrupts import asked_to_end, end_if_asked, interruptible
from fedkd.runtime.left_behind import Surroundings
from fedkd.scenario.repeatability import header
from fedkd.scenario.run_names import folder_name, run_name
from fedkd.scenario.scenario import BATCHING, Scenario
from fedkd.settings.validators import user_path
from fedkd.storage.transcript_recorder import TranscriptRecorder
from fedkd.training.precision import set_precision

BASELINE = "local-only baseline"
SEED_IS_SENT = (
    "every message carries the scenario with its seed, from which whoever reads it can draw all"
    " noise again; among real parties nothing is protected, and the epsilon is that of a simulation"
)


@dataclass(frozen=True)
class Driver:
    """Flower on nodes of its own, which runs the rounds in place of the scenario's engine."""

    name: str
    """What the report calls it."""
    start: Callable[[FederatedDistillation], object]
    """Runs a strategy from its first round to its last."""
    states: str = str(RUN_ID)
    """Flower's id of its run, by which nodes name their clients' states."""


def run(
    scenario: Scenario,
    run_dir: Path | None = None,
    driver: Driver | None = None,
    onlookers: Onlookers | None = None,
) -> dict[str, object]:
    """Run a scenario to its end and return its summary; every result is in the run folder.

    On an interruption what is finished is on disk, and the summary says so.

    Args:
        scenario: What is run.
        run_dir: The folder, where the scenario names none.
        driver: Takes the place of the scenario's engine, which then computes the local-only
            baseline alone.
        onlookers: Callbacks and the console; None is no callback.

    Raises:
        SettingError: It cannot work; nothing was trained.
        RunError: It cannot go on.
    """
    onlookers = onlookers or Onlookers()
    path, stop = choose_run_dir(scenario, run_dir), threading.Event()
    experiment = build(scenario, stop, path)
    if driver is not None:
        experiment = driven(experiment, driver)
    check_sinks(scenario.report)
    with session(experiment):
        if driver is None:
            experiment = with_facts(experiment)
        config = header(experiment.scenario) + repeatable(experiment.scenario).text()
        folder = RunFolder.create(path, config)
        recorder = transcript_recorder(experiment, path)
        report = RunReport(experiment, folder, recorder, onlookers=onlookers)
        report.begin()
        return conduct(report, stop, driver, onlookers.watchers)


def driven(experiment: Experiment, driver: Driver) -> Experiment:
    """Return an experiment as a driver runs it. Raises SettingError for what it cannot do."""
    experiment = replace(
        experiment,
        plan=replace(experiment.plan, engine=driver.name),
        nodes=NodeStates(name=driver.states),
    )
    if experiment.scenario.audit.value.asks_models:
        raise SettingError(
            f"audit.adversaries=[lab]: the models of {driver.name} are on other machines; leave it"
            " out"
        )
    enforcer = experiment.context.enforcer
    if not enforcer.claims:
        return experiment
    return warned(experiment, f"privacy={enforcer.name}: {SEED_IS_SENT}")


def warned(experiment: Experiment, warning: str) -> Experiment:
    """Return an experiment that prints one warning more before it runs."""
    return replace(
        experiment, plan=replace(experiment.plan, warnings=(*experiment.plan.warnings, warning))
    )


def with_facts(experiment: Experiment) -> Experiment:
    """Return an experiment whose choices and records are about the device that works.

    That is in other processes where the engine is; within its session one of them is asked. Raises
    SettingError where a model cannot be trained as the scenario says.
    """
    scenario, context = experiment.scenario, experiment.context
    federation = scenario.federation
    if scenario.engine.value.here or federation.device == "cpu":
        return experiment
    spec = WorkerSpec(scenario=scenario.text(), states=experiment.states, history=False)
    names = experiment.plan.architectures
    found = ask_worker(scenario.engine.value, facts, spec, names, federation.device)
    if found is None:
        set_precision(federation.precision, context.device)
        scenario, device = choose_batches(scenario, context), experiment.plan.device
    else:
        chosen = {name: getattr(found.scenario.federation, name) for name in BATCHING}
        scenario = scenario.changed(federation=replace(federation, **chosen))
        device = found.device
    batching = named_batching(scenario, fixed=found is not None)
    return replace(
        experiment,
        scenario=scenario,
        context=replace(context, batching=batching),
        plan=replace(experiment.plan, scenario=scenario.to_dict(), device=device),
        facts=found,
    )


def session(experiment: Experiment) -> AbstractContextManager[None]:
    """Return the span of time in which the engine's processes live."""
    engine: Engine = experiment.scenario.engine.value
    return engine.session(experiment.plan.architectures, experiment.scenario.federation.device)


def conduct(
    report: RunReport,
    stop: threading.Event,
    driver: Driver | None = None,
    watchers: RoundWatchers | None = None,
) -> dict[str, object]:
    """Run what is left of an experiment after the report's records, and return its summary.

    Args:
        report: Writes and shows the rounds.
        stop: Set when the run is interrupted.
        driver: Takes the place of the scenario's engine.
        watchers: The user's callbacks.
    """
    experiment, status, surroundings = report.experiment, "failed", Surroundings()
    why: str | None = None
    try:
        with interruptible(stop):
            if experiment.scenario.federation.baseline != "none" and experiment.plan.exchanges:
                report.baseline = _baseline(report, stop)
            _run_rounds(report, stop, driver, watchers or RoundWatchers())
            if experiment.checkpoints is not None:
                experiment.checkpoints.keep_last()
            if experiment.plan.exchanges:
                check_alive(report.records)
        status = "completed"
    except StoppedEarly as stopped:
        status, why = "stopped", str(stopped)
    except (KeyboardInterrupt, SystemExit) as interruption:  # the latter by `flwr stop`
        status = "interrupted"
        interruption.add_note(report.what_is_left())
        raise
    except FedkdError as error:
        report.console.output.log(str(error))
        raise
    finally:
        if driver is None:  # else clients are elsewhere, and Flower's threads are its own
            surroundings.tell_what_is_new()
        summary = report.finish(status, None if driver is None else driver.name, why)
    return summary


def _run_rounds(
    report: RunReport, stop: threading.Event, driver: Driver | None, watchers: RoundWatchers
) -> None:
    """Run the rounds that the report has no record of."""
    experiment, console, done = report.experiment, report.console, len(report.records)

    def add(record: RoundRecord) -> None:
        seen = watchers.see(experiment, record, report.baseline)
        ends = asked_to_end() or seen.stopped is not None or seen.error is not None
        is_last = ends and record.round < experiment.plan.rounds
        report.add(seen.record, is_last=is_last)
        if seen.error is not None:
            raise RunError(f"{seen.error}; {report.what_is_left()}") from seen.error.__cause__
        if is_last:
            end_if_asked()
            raise StoppedEarly(seen.stopped)

    if done == experiment.plan.rounds:
        return
    if driver is not None:
        text = experiment.scenario.text()
        driver.start(
            FederatedDistillation(
                experiment.server,
                text,
                add,
                first_round=done + 1,
                joined=True,
                recorder=report.recorder,
                nodes=experiment.nodes,
            )
        )
    else:
        console.start(experiment.plan.strategy, experiment.messages(done))
        execute(
            experiment,
            add,
            stop,
            lambda _: console.advance(),
            first_round=done + 1,
            recorder=report.recorder,
        )


def execute(
    experiment: Experiment,
    on_round: Callable[[RoundRecord], None],
    stop: threading.Event,
    on_reply: OnReply = lambda _: None,
    *,
    first_round: int = 1,
    recorder: TranscriptRecorder | None = None,
) -> None:
    """Run an experiment's Flower apps on its engine.

    Args:
        experiment: What is run.
        on_round: Called with the record of each finished round.
        stop: Ends the run once it is set.
        on_reply: Called with each client that has answered.
        first_round: The round to begin with.
        recorder: Stores what travels, where the run is audited.
    """
    context, text = experiment.context, experiment.scenario.text()
    strategy = FederatedDistillation(
        experiment.server, text, on_round, first_round=first_round, recorder=recorder
    )
    engine = on_device(experiment.scenario.engine.value, context.device)
    history, found = experiment.checkpoints is not None, experiment.facts
    public = None if engine.here or context.kind is None else context.task.sendable
    engine_run = EngineRun(
        server_app=make_server_app(strategy),
        client_pool=client_pool(context),
        create_clients=create_clients,
        spec=WorkerSpec(
            scenario=text,
            states=experiment.states.absolute(),
            history=history,
            public_inputs=public,
            fixed_batches=context.batching.fixed,
        ),
        architectures=experiment.plan.architectures,
        cost=lambda: round_costs(context) if found is None else found.costs,
        together=tuple(map(tuple, fixed_batches(context))) if context.batching.fixed else (),
        device=experiment.scenario.federation.device,
        deadline=experiment.scenario.protocol.deadline,
        stop=stop,
        on_reply=on_reply,
    )
    with interruptible(stop):  # engines tell a real Ctrl-C from a client's exception by ``stop``
        engine.run(engine_run)


def _baseline(report: RunReport, stop: threading.Event) -> Baseline:
    """Return the local-only baseline, from the cache or by running it."""
    experiment, console, rounds = report.experiment, report.console, report.experiment.plan.rounds
    started, done, cached = time.perf_counter(), 0, is_computed(experiment)
    if cached:
        console.say(f"{BASELINE}: cached")
    else:
        console.start(BASELINE, (rounds + 1) * experiment.plan.clients)
        console.progress(f"{BASELINE}: {rounds} rounds, once for all runs it serves", now=True)

    def run_alone(alone: Experiment, on_round: Callable[[RoundRecord], None]) -> None:
        def add(record: RoundRecord) -> None:
            nonlocal done
            end_if_asked()  # at once: what there is of a baseline is not kept
            on_round(record)
            done = record.round
            console.progress(f"{BASELINE}: round {done}/{rounds}")

        execute(alone, add, stop, lambda _: console.advance())

    try:
        baseline = local_only_baseline(experiment, stop, run_alone)
    except (KeyboardInterrupt, SystemExit) as interruption:
        interruption.add_note(
            f"the time went into the {BASELINE}, of which {done} of {rounds} rounds are lost;"
            " baseline=none leaves it out"
        )
        raise
    finally:
        console.stop()
    if not cached:
        console.progress(f"{BASELINE}: done in {time.perf_counter() - started:.0f} s", now=True)
    return baseline


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
        f" says nothing of its strategy{'; ' if reasons else ''}{'; '.join(reasons[:1])}"
    )


def repeatable(scenario: Scenario) -> Scenario:
    """Return the scenario without its folder, so that its file runs again into a new one.

    What a sweep chooses runs by is left out too: it says nothing to a run alone.
    """
    federation = replace(scenario.federation, run_dir=None, objective=None)
    return scenario.changed(federation=federation)


def choose_run_dir(scenario: Scenario, run_dir: Path | None) -> Path:
    """Return the folder of a run: the scenario's, or ``run_dir``, or a new one in ``runs``."""
    if scenario.federation.run_dir is not None:
        return user_path(scenario.federation.run_dir, "run_dir")
    if run_dir is not None:
        return run_dir
    name = folder_name(f"{scenario.name} {run_name(scenario)}")
    stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{name}"
    candidate, copies = Path("runs") / stem, 1
    while candidate.exists():
        copies += 1
        candidate = Path("runs") / f"{stem}_{copies}"
    return candidate
