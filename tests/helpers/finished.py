"""Finished tiny runs that several tests look at, each computed once for a whole session."""

import fcntl
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny import records, scenario

from fedkd.experiment.run import run
from fedkd.federation.round_records import RoundRecord

SHARED = "FEDKD_TEST_RUNS"
"""The variable that names the folder of finished runs; conftest sets it."""


def finished_records(**changes: Any) -> list[RoundRecord]:
    """Return the records of the tiny scenario with changes, as ``tiny.records`` does.

    Not for the second run of a test that compares a run with itself.
    """

    def make(folder: Path) -> None:
        (folder / "records").write_bytes(pickle.dumps(records(**changes)))

    found: list[RoundRecord] = pickle.loads(
        (_made("records", make, changes) / "records").read_bytes()
    )
    return found


def finished_run(**changes: Any) -> Path:
    """Return the folder of the tiny scenario with changes, run to its end. Copy it to change it."""

    def make(folder: Path) -> None:
        run(scenario(**changes), folder / "run")

    return _made("run", make, changes) / "run"


def _made(kind: str, make: Callable[[Path], None], changes: dict[str, Any]) -> Path:
    """Return the folder of a kind and scenario, filled by ``make`` where no process has done so."""
    text = json.dumps(scenario(**changes).to_dict(), sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:24]
    folder = Path(os.environ[SHARED]) / f"{kind}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "complete").touch()
    return folder
