"""Go on with a run from its last good checkpoint, to the figures it would have had anyway."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from torch import Tensor

from fedkd.errors import RunError, SettingError
from fedkd.experiment.build import Experiment, build
from fedkd.experiment.run import conduct, session, warned
from fedkd.experiment.run_report import RunReport, check_account, transcript_recorder
from fedkd.experiment.summary import CODE, conditions_of
from fedkd.federation.server import ServerState
from fedkd.report.comparison.run_reader import status
from fedkd.report.folder import RUNNING, RunFolder, claimed, recorded_rounds, stored_records
from fedkd.report.run_checksums import check_run
from fedkd.scenario.scenario import Scenario, deciding, resumable_in_words
from fedkd.storage.checkpoint import Checkpoint


def resume(scenario: Scenario, run_dir: Path) -> dict[str, object]:
    """Go on with the run in ``run_dir`` from its last good checkpoint and return its summary.

    ``scenario`` is the run's own, of which only what affects no figure may differ. Raises
    SettingError where this is another scenario, RunError where there is no good checkpoint.
    """
    check_run(run_dir, "config.yaml")
    stop = threading.Event()
    experiment = build(scenario, stop, run_dir)
    if experiment.checkpoints is None:
        raise SettingError(
            f"resume={run_dir}: this run has checkpoint.every=0 and so nothing to go on from"
        )
    check_account(scenario.report)
    ended_without_a_word = how_it_ended(run_dir, here=experiment.scenario.engine.value.here)
    with session(experiment), claimed(run_dir):
        folder = RunFolder(run_dir, None)
        checkpoint, complaints = experiment.checkpoints.load(lambda c: folder.check(c.extents))
        check_same(dict(checkpoint.scenario), deciding(experiment.scenario), run_dir)
        others = changed_conditions(experiment, checkpoint)
        complaints += [
            f"{name} was {checkpoint.versions[name]} when the run began and is {now} now; the last"
            " digits may differ"
            for name, now in others.items()
            if not name.startswith(CODE)
        ]
        experiment = _with_warnings(experiment, checkpoint, run_dir, tuple(others))
        server = dict(checkpoint.server)
        exposures = cast("Mapping[str, Mapping[str, Tensor]]", server.pop("exposures", {}))
        if experiment.exposures is not None:
            experiment.exposures.restore(exposures)
        experiment.server.restore(cast(ServerState, server))
        folder.reopen(checkpoint.extents)
        records = stored_records(run_dir, checkpoint.round)
        recorder = transcript_recorder(experiment, run_dir, resume_after=checkpoint.round)
        report = RunReport(experiment, folder, recorder, records)
        complaints += ended_without_a_word
        report.begin(complaints)
        return conduct(report, stop)


def how_it_ended(run_dir: Path, *, here: bool) -> list[str]:
    """Return what to say of an attempt whose process ended before it could say anything itself.

    ``here`` is whether clients run in the process of the run.
    """
    try:
        if status(run_dir) != RUNNING["status"]:
            return []
    except (RunError, KeyError, TypeError):  # it is damaged, and written anew when the run ends
        return []
    alone = "; with engine=ray a client that ends its process fails alone" if here else ""
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
    warning = run_again(experiment, checkpoint.round, recorded_rounds(run_dir), others)
    return experiment if warning is None else warned(experiment, warning)


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
