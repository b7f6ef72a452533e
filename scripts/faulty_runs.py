"""Runs in which something is at fault, for ``fault_table.py``: settings, and what they say."""

import csv
import fcntl
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import faulty_client
from loopback import Processes, app

ROOT = Path(__file__).parent.parent
LYING = ROOT / "scripts" / "lying_node"
LIE = "FEDKD_LIE"
FAULTY = 2
"""The client that is at fault, of three."""
DEADLINE = 15
SETTINGS = (
    "scenario=digits",
    "clients=3",
    "rounds=1000",
    "samples_per_client=20",
    "models=[mlp*2,faulty_client:net*1]",
    "public.size=40",
    "test.global_size=20",
    "test.private_size=5",
    "train.epochs=1",
    "train.batch_size=8",
    "distill.epochs=1",
    "distill.batch_size=20",
    f"deadline={DEADLINE}",
    "device=cpu",
    "baseline=none",
    "report.plots=false",
)


def statuses(folder: Path) -> dict[int, list[str]]:
    """Return the statuses of a run's three clients by finished round."""
    path, found = folder / "clients.csv", dict[int, list[str]]()
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row["status"]:
                    found.setdefault(int(row["round"]), []).append(row["status"])
    return {number: row for number, row in found.items() if len(row) == 3}


class FlowerRun:
    """A run that is submitted to a SuperLink, and goes on from its folder where there is one."""

    def __init__(self, owner: Processes, settings: Sequence[str], *options: str) -> None:
        """Begin before it is submitted.

        Args:
            owner: Holds Flower's processes.
            settings: The run's.
            options: Of ``flwr run``.
        """
        self.owner, self.folder = owner, owner.folder / "run"
        self._overrides, self._options = " ".join(settings[1:]), options
        self._id = ""

    def begin(self) -> None:
        """Submit the run, or go on with it."""
        choice = f'scenario="digits" overrides="{self._overrides}" run-dir="{self.folder}"'
        if (self.folder / "config.yaml").exists():
            choice = f'resume="{self.folder}" overrides="trust=true"'
            wait_until(lambda: not is_held(self.folder), 120)
        said = self.owner.do(
            "flwr",
            "run",
            str(app(self.owner.folder)),
            "here",
            "-c",
            choice,
            *self._options,
            seconds=300,
        )
        found = re.search(r"run (\d+)", said)
        self._id = found[1] if found else ""
        wait_until(self._is_running, 120)

    def alive(self) -> bool:
        """Return whether it goes on, as its ServerApp holds its folder."""
        return bool(self._id) and self._is_running()

    def end(self) -> None:
        """End it as a user would."""
        if self.alive():
            self.owner.do("flwr", "stop", self._id, "here", seconds=120)

    def _is_running(self) -> bool:
        return is_held(self.folder)


def is_held(folder: Path) -> bool:
    """Return whether a process writes into a run's folder."""
    try:
        with (folder / "config.yaml").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Return whether something came true in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def variables_of(place: Path) -> dict[str, str]:
    """Return the environment of processes whose third client is told what to do."""
    return {
        faulty_client.VARIABLE: str(place / "fault"),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), *sys.path]),
        "FEDKD_ALLOWED_IMPORTS": "faulty_client",
    }


def lying(place: Path) -> dict[int, dict[str, str]]:
    """Return the environment of the third node, which lies when it is told to."""
    path = os.pathsep.join([str(LYING), variables_of(place)["PYTHONPATH"]])
    return {FAULTY: {LIE: str(place / "lie"), "PYTHONPATH": path}}
