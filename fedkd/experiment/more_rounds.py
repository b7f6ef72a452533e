"""Go on with a run for more rounds than it was begun with, to the figures of a longer run.

Ten rounds and then ten more are twenty rounds, to the bit, where nothing in the run knows how many
there will be. What does is refused here, with the reason. Not for: the rounds that a run was begun
with (``fedkd.experiment.resume``).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import yaml

from fedkd.errors import SettingError
from fedkd.experiment.build import Experiment
from fedkd.report.run_checksums import amended_scenario
from fedkd.scenario.scenario import Scenario
from fedkd.settings.yaml_text import to_yaml
from fedkd.storage.atomic_files import write_whole

SETTING = "rounds"


def without_rounds(settings: Mapping[str, object]) -> dict[str, object]:
    """Return settings by dotted name without the number of rounds."""
    return {name: value for name, value in settings.items() if name != SETTING}


def check_not_fewer(rounds: int, begun_with: int, done: int, run_dir: Path) -> None:
    """Raise SettingError where a run is to have fewer rounds than it was begun with.

    Args:
        rounds: All rounds, with those that are finished.
        begun_with: The number that it was begun with.
        done: How many are finished.
        run_dir: Its folder, for the error.
    """
    if rounds < begun_with:
        raise SettingError(
            f"rounds={rounds}: {run_dir} was begun with {begun_with} rounds and has finished"
            f" {done}; a run goes on for more rounds, never for fewer"
        )


def check_more_rounds(experiment: Experiment, before: int, run_dir: Path) -> None:
    """Raise SettingError where some figure of a run depends on how many rounds it has.

    Args:
        experiment: The run with its new number of rounds.
        before: The number that it was begun with.
        run_dir: Its folder, for the error.
    """
    reason = reason_against(experiment, before)
    if reason is not None:
        now = experiment.plan.rounds
        raise SettingError(
            f"rounds={now}: {run_dir} cannot go on beyond the {before} rounds that it was begun"
            f" with: {reason}; begin a run with rounds={now}"
        )


def reason_against(experiment: Experiment, before: int) -> str | None:
    """Return why a run of ``before`` rounds is not the beginning of this longer one, or None."""
    context, task = experiment.context, experiment.context.task
    if task.planted is not None:
        return "the exposure of its secrets is measured in the last round"
    mechanism, plan = context.enforcer.mechanism, context.enforcer.plan
    if task.has_reference and mechanism.detector is not None:
        return "its reference model was trained as long as a client in the whole run"
    train, distill = experiment.scenario.train, experiment.scenario.distill
    if {train.schedule, distill.schedule} & {"cosine", "warmup_cosine"}:
        return "its learning rate follows a schedule over all its rounds"
    if experiment.scenario.audit.value.stores:
        return "its audit is of all messages of a whole run"
    return mechanism.reason_against_rounds(replace(plan, rounds=before), plan)


def stored_rounds(run_dir: Path) -> int:
    """Return the number of rounds that a run's ``config.yaml`` says. Raises SettingError."""
    try:
        return int(yaml.safe_load((run_dir / "config.yaml").read_bytes())[SETTING])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise SettingError(
            f"resume={run_dir}: its config.yaml says no number of rounds: {error}"
        ) from error


def rewrite_scenario(run_dir: Path, scenario: Scenario) -> None:
    """Write the new number of rounds into a run's ``config.yaml``. Raises StorageError."""
    path = run_dir / "config.yaml"
    text = path.read_text(encoding="utf-8")
    stored = yaml.safe_load(text)
    stored[SETTING] = scenario.protocol.rounds
    comments = [line for line in text.splitlines() if line.startswith("#")]
    body = to_yaml(stored)
    with amended_scenario(run_dir):
        write_whole(path, ["".join([*(f"{line}\n" for line in comments), body]).encode()])
