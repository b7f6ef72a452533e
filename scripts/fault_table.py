"""Carry out faults on every engine, and print what is lost and what goes on, as a table.

    python scripts/fault_table.py  the table of the documents
    python scripts/fault_table.py --engines local,ray   carry out those columns, and check
    python scripts/fault_table.py --engines deployed --faults hangs
    python scripts/fault_table.py --write docs/deploy.md   put the table into its place

Three clients train on digits; the third does what ``faulty_client.py`` is told to, one fault after
the other in one run, which is resumed where a fault ended it. What happened is told from the run's
own tables. Exit status: 0, 1 (something else happened than the table says), 2 (bad input). Only
processes that were started here are ended.
"""

import argparse
import csv
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import faulty_client
from loopback import (
    Processes,
    certificates,
    free_ports,
    key_pair,
    processes,
    wait_for_superlink,
)

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- fault table -->", "<!-- end of the fault table -->"
FAULTY = 2
"""The client that is at fault, of three."""
DEADLINE = 15

Engine = Literal["local", "ray", "simulation", "deployed"]
Outcome = Literal["fails", "rejected", "nothing", "ends", "waits"]
ENGINES: dict[Engine, str] = {
    "local": "`engine=local`",
    "ray": "`engine=ray`",
    "simulation": "Flower's simulation",
    "deployed": "SuperLink, SuperNodes",
}
WORDS: dict[Outcome, str] = {
    "fails": "fails alone, and is back",
    "rejected": "is rejected",
    "nothing": "nothing is lost",
    "ends": "**the run ends**; `resume=` goes on with it",
    "waits": "**the run waits**; SIGTERM ends it, `resume=` goes on",
}
TABLE: dict[str, dict[Engine, Outcome]] = {
    "raises": {"local": "fails", "ray": "fails", "deployed": "fails"},
    "raises KeyboardInterrupt": {"local": "fails", "ray": "fails", "deployed": "fails"},
    "lies": {"local": "rejected", "ray": "rejected", "deployed": "rejected"},
    "leaves a thread": {"local": "nothing", "ray": "nothing"},
    "leaves a process": {"local": "nothing", "ray": "nothing"},
    "ends its process": {"local": "ends", "ray": "fails", "deployed": "fails"},
    "is killed": {"local": "ends", "ray": "fails"},
    "hangs": {"local": "waits", "ray": "fails"},
}
"""What a client does, and what becomes of the run. What stands here is carried out by this
script."""

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


@dataclass
class Stage:
    """A run that goes on for as long as faults are carried out in it."""

    folder: Path
    """The run's."""
    fault: Path
    """The file that tells the third client what to do."""
    begin: Callable[[], None]
    """Starts the run, or goes on with it."""
    alive: Callable[[], bool]
    end: Callable[[], None]
    """Ends it as a user would."""
    can_resume: bool
    seconds: float
    """How long a fault may take to show."""
    said: list[str] = field(default_factory=list)

    def rows(self) -> dict[int, list[str]]:
        """Return the statuses of the clients by finished round."""
        path, found = self.folder / "clients.csv", dict[int, list[str]]()
        if path.exists():
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    if row["status"]:
                        found.setdefault(int(row["round"]), []).append(row["status"])
        return {number: statuses for number, statuses in found.items() if len(statuses) == 3}

    def wait(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Return whether something came true while the run was alive and time was left."""
        deadline = time.monotonic() + (seconds or self.seconds)
        while not condition():
            if not self.alive() or time.monotonic() > deadline:
                return condition()
            time.sleep(0.05)
        return True

    def is_well_after(self, round_number: int) -> bool:
        """Return whether all clients took part in a round after this one."""
        return any(
            number > round_number and statuses == ["ok"] * 3
            for number, statuses in self.rows().items()
        )

    def carry_out(self, fault: str) -> Outcome:
        """Let the third client commit a fault, see what becomes of it, and go on from there.

        Raises RuntimeError where the run does not go on afterwards.
        """
        if not self.alive():
            self.begin()
        if not self.wait(lambda: len(self.rows()) > 0, 300):
            raise RuntimeError(f"the run did not begin: {self.said}")
        before = max(self.rows())
        self.fault.write_text(fault)
        outcome = self._outcome(fault, before)
        self.fault.unlink(missing_ok=True)
        if outcome == "waits":
            self.end()
        if outcome in ("ends", "waits"):
            if not self.can_resume:
                return outcome
            self.begin()
        after = max(self.rows(), default=0)
        if not self.wait(lambda: self.is_well_after(after), 300):
            raise RuntimeError(f"after the client {fault} the run does not go on: {self.said}")
        return outcome

    def _outcome(self, fault: str, before: int) -> Outcome:
        def shows() -> bool:
            rows = {number: row for number, row in self.rows().items() if number > before}
            quiet = fault.startswith("leaves") and not self.fault.exists()
            return any(row[FAULTY] != "ok" for row in rows.values()) or (quiet and len(rows) > 3)

        if not self.wait(shows):
            return "waits" if self.alive() else "ends"
        found = {row[FAULTY] for number, row in self.rows().items() if number > before} - {"ok"}
        others = {s for n, row in self.rows().items() if n > before for s in row[:FAULTY]}
        if others != {"ok"} or len(found) > 1:
            raise RuntimeError(f"the client {fault}: {self.rows()}")
        if not found:
            return "nothing"
        return "rejected" if found == {"rejected"} else "fails"


@contextmanager
def command_stage(engine: Engine, place: Path) -> Iterator[Stage]:
    """Hold a run of the command on one of fedkd's own engines."""
    run, fault = place / "run", place / "fault"
    path = os.pathsep.join([str(ROOT / "scripts"), *sys.path])
    environment = {**os.environ, faulty_client.VARIABLE: str(fault), "PYTHONPATH": path}
    processes: list[subprocess.Popen[bytes]] = []

    def begin() -> None:
        again = [f"resume={run}", "trust=true"]
        given = again if run.exists() else [*SETTINGS, f"engine={engine}", "engine.workers=2"]
        command = [sys.executable, "-m", "fedkd.simulate", *given]
        command += [] if run.exists() else [f"run_dir={run}"]
        with (place / "log").open("ab") as log:
            processes.append(
                subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            )

    def alive() -> bool:
        return bool(processes) and processes[-1].poll() is None

    def end() -> None:
        if alive():
            processes[-1].send_signal(signal.SIGTERM)
            processes[-1].wait(timeout=60)

    stage = Stage(run, fault, begin, alive, end, can_resume=True, seconds=4 * DEADLINE)
    try:
        yield stage
    finally:
        stage.said.append((place / "log").read_text(errors="replace")[-3000:])
        end()


@contextmanager
def flower_stage(engine: Engine, place: Path) -> Iterator[Stage]:
    """Hold a run on Flower's simulation, or on a SuperLink and SuperNodes with TLS and keys."""
    fault = place / "fault"
    variables = {
        faulty_client.VARIABLE: str(fault),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), *sys.path]),
        "FEDKD_ALLOWED_IMPORTS": "faulty_client",
    }
    with processes(place, variables) as owner:
        start = _deployment if engine == "deployed" else _simulation
        options = start(owner)
        runs: list[str] = []

        def begin() -> None:
            overrides = " ".join(SETTINGS[1:])
            choice = f'scenario="digits" overrides="{overrides}" run-dir="{place / "run"}"'
            said = owner.do("flwr", "run", str(ROOT), "here", "-c", choice, *options, seconds=180)
            found = re.search(r"run (\d+)", said)
            runs.append(found[1] if found else "")

        def alive() -> bool:
            path = place / "run" / "summary.json"
            return bool(runs) and (
                not path.exists() or json.loads(path.read_text())["status"] == "running"
            )

        def end() -> None:
            if alive():
                owner.do("flwr", "stop", runs[-1], "here", seconds=120)

        yield Stage(place / "run", fault, begin, alive, end, can_resume=False, seconds=480)


def _simulation(owner: Processes) -> list[str]:
    (port,) = free_ports(1)
    owner.connect(port)
    link = owner.start(
        "superlink", "flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1",
        "--port", str(port),
    )  # fmt: skip
    wait_for_superlink(owner, link, port, None)
    return ["--federation-config", "num-supernodes=3 client-resources-num-cpus=1"]


def _deployment(owner: Processes) -> list[str]:
    port, *node_ports = free_ports(4)
    authority, certificate, key = certificates(owner.folder)
    owner.connect(port, authority)
    link = owner.start(
        "superlink", "flower-superlink", "--host", "127.0.0.1", "--port", str(port),
        "--enable-supernode-auth", "--ssl-ca-certfile", str(authority),
        "--ssl-certfile", str(certificate), "--ssl-keyfile", str(key),
    )  # fmt: skip
    wait_for_superlink(owner, link, port, authority)
    for node, node_port in enumerate(node_ports):
        private, public = key_pair(owner.folder, f"node{node}")
        owner.do("flwr", "supernode", "register", str(public), "here")
        owner.start(
            f"node{node}", "flower-supernode", "--superlink", f"127.0.0.1:{port}",
            "--root-certificates", str(authority), "--auth-supernode-private-key", str(private),
            "--port", str(node_port), "--node-config", f"partition-id={node} num-partitions=3",
        )  # fmt: skip
    return []


def observe(engine: Engine, faults: Sequence[str]) -> dict[str, Outcome]:
    """Carry out faults on an engine, one after the other, and return what became of each."""
    stage_of = command_stage if engine in ("local", "ray") else flower_stage
    found: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as place, stage_of(engine, Path(place)) as stage:
        for fault in faults:
            found[fault] = stage.carry_out(fault)
            print(f"{engine}: a client that {fault}: {found[fault]}", file=sys.stderr, flush=True)
    return found


def table() -> str:
    """Return what is lost and what goes on, as a Markdown table."""
    engines = [engine for engine in ENGINES if any(engine in row for row in TABLE.values())]
    lines = [f"| a client | {' | '.join(ENGINES[engine] for engine in engines)} |"]
    lines.append(f"|---|{'---|' * len(engines)}")
    for fault, row in TABLE.items():
        cells = [WORDS[row[engine]] if engine in row else "–" for engine in engines]
        lines.append(f"| {fault} | {' | '.join(cells)} |")
    return "\n".join(lines)


def stored(page: str) -> str:
    """Return the table that a page has between its marks."""
    return page.partition(BEGIN)[2].partition(END)[0].strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", default="", help=f"some of {','.join(ENGINES)}")
    parser.add_argument("--faults", default="", help="some of the table's, between commas")
    parser.add_argument("--write", type=Path, help="the page to put the table into")
    given = parser.parse_args(arguments)
    engines = [engine for engine in ENGINES if engine in given.engines.split(",")]
    faults = [fault for fault in TABLE if not given.faults or fault in given.faults.split(",")]
    if len(engines) != len([name for name in given.engines.split(",") if name]) or not faults:
        parser.error(f"--engines takes {','.join(ENGINES)}; --faults {','.join(TABLE)}")
    differ = 0
    for engine in engines:
        for fault, outcome in observe(engine, faults).items():
            declared = TABLE[fault].get(engine)
            if outcome != declared:
                print(f"{engine}: a client that {fault}: {outcome}, not {declared}")
                differ += 1
    if given.write is not None:
        page = given.write.read_text()
        old = f"{BEGIN}{page.partition(BEGIN)[2].partition(END)[0]}{END}"
        given.write.write_text(page.replace(old, f"{BEGIN}\n{table()}\n{END}"))
    print(table())
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
