"""Go on with a run from its last good checkpoint, to the figures it would have had anyway."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import Tensor

from fedkd.errors import RunError, SettingError
from fedkd.experiment.build import Experiment, build
from fedkd.experiment.more_rounds import (
    check_more_rounds,
    check_not_fewer,
    rewrite_scenario,
    stored_rounds,
    without_rounds,
)
from fedkd.experiment.run import Driver, conduct, driven, session, warned, with_facts
from fedkd.experiment.run_report import Onlookers, RunReport, transcript_recorder
from fedkd.experiment.summary import CODE, FILES, START, conditions_of
from fedkd.federation.round_records import RoundRecord
from fedkd.federation.server import ServerState
from fedkd.flower.node_states import NodeStates
from fedkd.report.comparison.run_reader import status
from fedkd.report.folder import RUNNING, RunFolder, claimed, recorded_rounds, stored_records
from fedkd.report.run_checksums import check_run
from fedkd.report.sinks import check as check_sinks
from fedkd.runtime.invocation import command_line
from fedkd.scenario.scenario import Scenario, deciding, resumable_in_words
from fedkd.storage.checkpoint import Checkpoint


def resume(
    scenario: Scenario,
    run_dir: Path,
    driver: Driver | None = None,
    onlookers: Onlookers | None = None,
) -> dict[str, object]:
    """Go on with the run in ``run_dir`` from its last good checkpoint and return its summary.

    Args:
        scenario: The run's own, of which only what affects no figure may differ, or more rounds
            (``fedkd.experiment.more_rounds``).
        run_dir: The run's folder.
        driver: Has nodes with the clients' states; None is an engine of fedkd's.
        onlookers: Callbacks and the console; None is no callback.

    Raises:
        SettingError: This is another scenario, or the states are elsewhere.
        RunError: There is no good checkpoint.
    """
    onlookers = onlookers or Onlookers()
    check_run(run_dir, "config.yaml")
    rounds, done = scenario.protocol.rounds, recorded_rounds(run_dir)
    check_not_fewer(rounds, stored_rounds(run_dir), done, run_dir)
    stop = threading.Event()
    experiment = build(scenario, stop, run_dir)
    checkpoints = experiment.checkpoints
    if checkpoints is None:
        raise SettingError(
            f"resume={run_dir}: this run has checkpoint.every=0 and so nothing to go on from"
        )
    check_sinks(scenario.report)
    if driver is not None:
        experiment = driven(experiment, driver)
    here = driver is None and experiment.scenario.engine.value.here
    ended_without_a_word = how_it_ended(run_dir, here=here)
    with session(experiment), claimed(run_dir):
        if driver is None:
            experiment = with_facts(experiment)
        folder = RunFolder(run_dir, None)
        checkpoint, complaints = checkpoints.load(lambda c: folder.check(c.extents))
        _check_scenario(experiment, checkpoint, run_dir)
        others = changed_conditions(experiment, checkpoint)
        complaints += [
            f"{name} was {checkpoint.versions[name]} when the run began and is {now} now; the last"
            " digits may differ"
            for name, now in others.items()
            if not name.startswith(CODE)
        ]
        experiment = _with_warnings(experiment, checkpoint, run_dir, tuple(others))
        server = dict(checkpoint.server)
        states = str(server.pop("nodes", ""))
        check_place(run_dir, states, driver)
        exposures = cast("Mapping[str, Mapping[str, Tensor]]", server.pop("exposures", {}))
        if experiment.exposures is not None:
            experiment.exposures.restore(exposures)
        experiment.server.restore(cast(ServerState, server))
        if stored_rounds(run_dir) != experiment.plan.rounds:
            rewrite_scenario(run_dir, experiment.scenario)
        folder.reopen(checkpoint.extents)
        records = stored_records(run_dir, checkpoint.round)
        if driver is not None:
            experiment = replace(experiment, nodes=_went_before(states, records))
        recorder = transcript_recorder(experiment, run_dir, resume_after=checkpoint.round)
        report = RunReport(experiment, folder, recorder, records, onlookers)
        complaints += ended_without_a_word
        report.begin(complaints)
        return conduct(report, stop, driver, onlookers.watchers)


def check_place(run_dir: Path, states: str, driver: Driver | None) -> None:
    """Raise SettingError where a run's clients are not where it is to go on.

    Args:
        run_dir: The run's folder.
        states: The name of its client states on Flower's nodes; empty where they are in the folder.
        driver: Flower on nodes of its own; None on an engine of fedkd's.
    """
    if bool(states) == (driver is not None):
        return
    if driver is None:
        where, go_on = "on Flower's nodes", f"flwr run . -c 'resume=\"{run_dir}\"'"
    else:
        where, go_on = "in its folder", command_line(["resume", str(run_dir)])
    raise SettingError(
        f"resume={run_dir}: the states of this run's clients are {where}; go on with: {go_on}"
    )


def _went_before(states: str, records: Sequence[RoundRecord]) -> NodeStates:
    """Return the client states that a run on Flower's nodes goes on with."""
    took_part = {c.client_id for record in records for c in record.clients if c.status == "ok"}
    return NodeStates(name=states, after=len(records), clients=tuple(sorted(took_part)))


def _check_scenario(experiment: Experiment, checkpoint: Checkpoint, run_dir: Path) -> None:
    """Raise SettingError where a checkpoint is another scenario's, save for fewer rounds."""
    before, now = dict(checkpoint.scenario), deciding(experiment.scenario)
    changed = changed_conditions(experiment, checkpoint)
    if START in changed:
        raise SettingError(
            f"resume={run_dir}: the models in start_from={now['start_from']} are no longer those"
            " that this run began with"
        )
    for name in changed:
        if name.startswith(FILES) and changed[name] is not None:
            raise SettingError(
                f"resume={run_dir}: the files or weights of {_made_of(name)} are no longer"
                " those that this run began with; put them back, or begin a run anew"
            )
    check_same(without_rounds(before), without_rounds(now), run_dir)
    if before.get("rounds") != now["rounds"]:
        check_more_rounds(experiment, cast(int, before["rounds"]), run_dir)


def how_it_ended(run_dir: Path, *, here: bool) -> list[str]:
    """Return what to say of an attempt whose process ended before it could say anything itself.

    ``here`` is whether clients run in the process of the run.
    """
    try:
        if status(run_dir) != RUNNING["status"]:
            return []
    except (RunError, KeyError, TypeError):  # it is damaged, and written anew when the run ends
        return []
    alone = "; add engine=ray, where such a client fails alone" if here else ""
    return [
        "the attempt before ended without a word: its process was killed, or a client ended it"
        f"{alone}"
    ]


def changed_conditions(experiment: Experiment, checkpoint: Checkpoint) -> dict[str, str | None]:
    """Return the versions, device and users' modules that have changed, as they are now."""
    now = conditions_of(experiment)
    return {
        name: now.get(name) for name, was in checkpoint.versions.items() if now.get(name) != was
    }


def _with_warnings(
    experiment: Experiment, checkpoint: Checkpoint, run_dir: Path, others: Sequence[str]
) -> Experiment:
    """Return an experiment that says what is not as it was, and which rounds are repeated."""
    for name in others:
        if name.startswith(CODE) and checkpoint.round < experiment.plan.rounds:
            experiment = warned(
                experiment,
                f"the {name} has changed: from round {checkpoint.round + 1} on this is another"
                " experiment",
            )
    recorded = recorded_rounds(run_dir)
    if recorded == checkpoint.round and _ended_between_rounds(run_dir):
        return experiment
    # A message to a node joins two rounds, of which the first is not recorded yet.
    recorded += experiment.nodes is not None
    warning = run_again(experiment, checkpoint.round, recorded, others)
    return experiment if warning is None else warned(experiment, warning)


def _ended_between_rounds(run_dir: Path) -> bool:
    """Return whether a run ended when it had begun no further round."""
    try:
        return status(run_dir) in ("completed", "stopped")
    except RunError:
        return False


def run_again(
    experiment: Experiment, after: int, recorded: int, others: Sequence[str] = ()
) -> str | None:
    """Return a warning about the rounds that a private run repeats; None where nothing is claimed.

    Noise is named by client and round, and so is drawn again as it was: where the replay differs,
    the difference of two messages is free of it.

    Args:
        experiment: What is run.
        after: The round of the checkpoint.
        recorded: How many rounds had been finished; the next may have begun.
        others: What the run is computed with that is not what it began with.
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
    line = (
        f"{rounds} run again: what the interrupted attempt sent there is no part of what the run"
        " claims"
    )
    if not causes:
        return line
    return (
        f"{line}; the replay may differ ({', '.join(causes)}) with the same noise, so that what"
        " both attempts sent in a round, shown together, would tell private values without any"
        " noise"
    )


def check_same(before: dict[str, object], now: dict[str, object], run_dir: Path) -> None:
    """Raise SettingError, which names the settings that differ, for another scenario's run."""
    shown = differences(before, now)
    if shown:
        raise SettingError(
            f"resume={run_dir}: a run goes on with the settings that it began with, except"
            f" {resumable_in_words()}; {shown}"
        )


def differences(before: dict[str, object], now: dict[str, object]) -> str:
    """Return the first settings that differ, in words; empty where none does."""
    different = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    return ", ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in different[:5])


def _made_of(name: str) -> str:
    """Return which setting names files, from the name of their hash."""
    what = name.removeprefix(FILES)
    return "heads.text_encoder" if what == "heads" else f"models={what}"
