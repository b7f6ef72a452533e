"""An audit's power: what the same attacks show on the same run without its noise.

The run is made once more with all noise of its mechanism left out (``fedkd.privacy.noise_streams``)
and everything else as it was: clipping, sampling, seeds, canaries and their coins. What it sends is
stored in ``power/``. A claim above the bound that the attacks show there would have passed with no
noise at all. One run: the bound is what was drawn, no expectation.
"""

import shutil
import threading
from dataclasses import replace
from pathlib import Path

from fedkd.audit.attack_scores import AuditorModels
from fedkd.audit.audit_run import shown_bound
from fedkd.errors import SettingError
from fedkd.experiment import auditing
from fedkd.experiment.build import build
from fedkd.experiment.run import execute
from fedkd.scenario.registry import create
from fedkd.scenario.scenario import Scenario

FOLDER = "power"
"""In a run's folder: what it would have sent without noise."""


def run_without_noise(scenario: Scenario, run_dir: Path) -> None:
    """Run a scenario on this machine with all noise left out, and store what travels in ``power/``.

    Raises SettingError where there is no noise to leave out, or it cannot be.
    """
    if not scenario.privacy.value.protects_from:
        raise SettingError(
            f"audit.power=true would do nothing: privacy={scenario.privacy.name} claims nothing"
        )
    folder, stop = run_dir / FOLDER, threading.Event()
    shutil.rmtree(folder, ignore_errors=True)
    engine = scenario.engine if scenario.engine.value.here else create("engine", {"name": "local"})
    without = scenario.changed(
        engine=engine,
        checkpoint=replace(scenario.checkpoint, every=0),
        federation=replace(scenario.federation, run_dir=None, client_store="memory"),
    )
    experiment = build(without, stop, folder, noise_factor=0.0)
    recorder = auditing.begin(experiment, folder)
    assert recorder is not None, "an audit that has power stores what travels"
    execute(experiment, lambda _: recorder.save(), stop, recorder=recorder)
    auditing.store_lab(experiment, folder)


def power_of(
    run_dir: Path, adversary: str, *, confidence: float, seed: int, models: AuditorModels
) -> float | None:
    """Return the largest bound that an adversary shows without noise; None where nothing is stored.

    Args:
        run_dir: The run's folder.
        adversary: Who attacks.
        confidence: Of all bounds jointly, as in the audit of the run.
        seed: Of surrogates and hold-outs.
        models: The auditor's.
    """
    folder = run_dir / FOLDER
    if not (folder / "view").is_dir():
        return None
    return shown_bound(folder, run_dir, adversary, confidence, seed, models)
