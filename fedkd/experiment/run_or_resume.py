"""Run a scenario into a folder: start it, resume it, or return what is complete.

A complete run is left alone, another goes on from its checkpoint or begins again.

What a sweep or a comparison needs to go on, whatever ended it and wherever it then was.
"""

import json
import shutil
from pathlib import Path

import yaml

from fedkd.errors import SettingError
from fedkd.experiment.resume import differences, resume
from fedkd.experiment.run import run
from fedkd.experiment.run_report import Onlookers
from fedkd.report.comparison.run_reader import status
from fedkd.report.folder import claimed
from fedkd.report.run_checksums import check_run
from fedkd.scenario.scenario import (
    Scenario,
    check_names,
    deciding,
    left_open,
    with_resumable,
)
from fedkd.scenario.trust import foreign_imports


def is_complete(scenario: Scenario, folder: Path) -> bool:
    """Return whether the run of a scenario is complete.

    Raises SettingError where its folder holds another run.
    """
    if not (folder / "config.yaml").is_file():
        return False
    stored = _stored(folder, scenario)
    if stored is None:
        return False
    open_now = left_open(scenario)
    was, now = (
        {name: value for name, value in deciding(found).items() if name not in open_now}
        for found in (stored, scenario)
    )
    shown = differences(was, now)
    if shown:
        raise SettingError(
            f"{folder} holds a run with other settings; name another folder, or move that one:"
            f" {shown}"
        )
    return status(folder) == "completed"


def ensure(
    scenario: Scenario, folder: Path, onlookers: Onlookers | None = None
) -> dict[str, object]:
    """Return the summary of a scenario's run, which is run as far as it is not complete.

    Raises FedkdError.

    It goes on from its last checkpoint, with what may change on resume as the scenario has it.
    ``onlookers`` hear of its rounds.
    """
    if is_complete(scenario, folder):
        found: dict[str, object] = json.loads((folder / "summary.json").read_bytes())
        return found
    if (folder / "config.yaml").is_file():
        stored = _stored(folder, scenario)
        if stored is not None and any((folder / "checkpoints").glob("*.checkpoint")):
            return resume(with_resumable(stored, scenario), folder, onlookers=onlookers)
        with claimed(folder):  # or another process is running it
            shutil.rmtree(folder)  # it was ended before its first checkpoint
    return run(scenario, folder, onlookers=onlookers)


def _stored(folder: Path, scenario: Scenario) -> Scenario | None:
    """Return the scenario of the run in a folder; None where it was ended before it was written.

    It may import what ``scenario`` does, which is the user's own, and no more.
    """
    path = folder / "config.yaml"
    check_run(folder, path.name)
    try:
        text = path.read_text(encoding="utf-8")
        stored = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SettingError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not text:
        return None
    if not isinstance(stored, dict):
        raise SettingError(f"{path} must hold settings, as in 'clients: 10'")
    own = foreign_imports(scenario.to_dict())
    others = [named for named in foreign_imports(stored) if named not in own]
    if others:
        raise SettingError(
            f"{folder} holds a run with other settings, {', '.join(others)}; name another folder,"
            " or move that one"
        )
    check_names(stored, f"the run in {folder}")
    return Scenario.parse(stored)
