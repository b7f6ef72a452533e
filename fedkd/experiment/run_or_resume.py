"""A run that should be in a folder: left alone where it is complete, gone on with where it was
ended, begun otherwise.

What a sweep or a comparison needs to go on, whatever ended it and wherever it then was.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from fedkd.errors import SettingError
from fedkd.experiment.run import fixed, resume, run
from fedkd.report.comparison.run_reader import status
from fedkd.report.folder import claimed
from fedkd.scenario.scenario import Scenario
from fedkd.settings.schema import flat


def is_complete(scenario: Scenario, folder: Path) -> bool:
    """Return whether the run of a scenario is complete. Raises SettingError where its folder holds
    another run.
    """
    if not (folder / "config.yaml").is_file():
        return False
    stored = _stored(folder)
    if stored is None:
        return False
    was, now = (flat(_decided(found, scenario)) for found in (stored, scenario))
    different = [key for key in sorted(was | now) if was.get(key) != now.get(key)]
    if different:
        shown = ", ".join(
            f"{key} was {was.get(key)!r}, is {now.get(key)!r}" for key in different[:5]
        )
        raise SettingError(
            f"{folder} holds a run with other settings; name another folder, or move that one:"
            f" {shown}"
        )
    return status(folder) == "completed"


def ensure(scenario: Scenario, folder: Path) -> dict[str, Any]:
    """Return the summary of a scenario's run in a folder, run now as far as it is not complete.
    Raises FedkdError.

    It goes on from its last checkpoint, with ``report`` and ``engine`` as the scenario has them.
    """
    if is_complete(scenario, folder):
        found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
        return found
    if (folder / "config.yaml").is_file():
        stored = _stored(folder)
        if stored is not None and any((folder / "checkpoints").glob("*.checkpoint")):
            return resume(stored.changed(report=scenario.report, engine=scenario.engine), folder)
        with claimed(folder):  # whoever else may be running it
            shutil.rmtree(folder)  # it was ended before its first checkpoint
    return run(scenario, folder)


def _stored(folder: Path) -> Scenario | None:
    """Return the scenario of the run in a folder; None where it was ended before that was
    written.
    """
    text = (folder / "config.yaml").read_text()
    return Scenario.parse(yaml.safe_load(text)) if text else None


def _decided(scenario: Scenario, asked: Scenario) -> dict[str, Any]:
    """Return what decides a run's figures, without what ``asked`` leaves to be chosen when the run
    begins.
    """
    whole = fixed(scenario)
    if asked.distill.loss is None:
        del whole["distill"]["loss"]
    if asked.protocol.round_order is None:
        del whole["round_order"]
    if asked.federation.batch_clients == "auto":
        del whole["batch_clients"]
    return whole
