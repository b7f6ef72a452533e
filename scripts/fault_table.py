"""Carry out faults on every engine, and print what is lost and what goes on, as a table.

    python scripts/fault_table.py  the tables of the documents
    python scripts/fault_table.py --engines local,ray   carry out those columns, and check
    python scripts/fault_table.py --engines deployed --faults hangs
    python scripts/fault_table.py --engines nodes   carry out the faults of nodes and the SuperLink
    python scripts/fault_table.py --write docs/deploy.md   put the tables into their places

Three clients train on digits; the third does what ``faulty_client.py`` is told to, one fault after
the other in one run, which is resumed where a fault ended it. A lie is told by the third node
(``lying_node``). What happened is told from the run's own tables. Exit status: 0, 1 (something else
happened than the table says), 2 (bad input). Only processes that were started here are ended.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import faulty_client
import node_faults
from faulty_runs import (
    DEADLINE,
    FAULTY,
    ROOT,
    SETTINGS,
    FlowerRun,
    lying,
    statuses,
    variables_of,
)
from loopback import Deployment, Processes, free_ports, processes, wait_for_superlink

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
FAILS: dict[Engine, Outcome] = dict.fromkeys(ENGINES, "fails")
REJECTED: dict[Engine, Outcome] = dict.fromkeys(ENGINES, "rejected")
NOTHING: dict[Engine, Outcome] = dict.fromkeys(ENGINES, "nothing")
DEPLOYED: dict[Engine, Outcome] = {"deployed": "rejected"}
TABLE: dict[str, dict[Engine, Outcome]] = {
    "raises": FAILS,
    "raises KeyboardInterrupt": FAILS,
    "lies": REJECTED,
    "leaves a thread": NOTHING,
    "leaves a process": NOTHING,
    "ends its process": {**FAILS, "local": "ends", "simulation": "ends"},
    "is killed": {**FAILS, "local": "ends", "simulation": "ends"},
    "hangs": {**FAILS, "local": "waits"},
    "uploads in another's name": DEPLOYED,
    "sends what is malformed": DEPLOYED,
    "sends an earlier upload again": DEPLOYED,
}
"""What a client does, and what becomes of the run. What stands here is carried out by this
script."""
LIES = tuple(fault for fault, row in TABLE.items() if row is DEPLOYED)
"""What a node does with the replies of its client."""


@dataclass
class Stage:
    """A run that goes on for as long as faults are carried out in it."""

    folder: Path
    """The run's."""
    place: Path
    """Holds the files that tell the third client and its node what to do."""
    begin: Callable[[], None]
    """Starts the run, or goes on with it."""
    alive: Callable[[], bool]
    end: Callable[[], None]
    """Ends it as a user would."""
    seconds: float
    """How long a fault may take to show."""
    said: list[str] = field(default_factory=list)

    def rows(self) -> dict[int, list[str]]:
        """Return the statuses of the clients by finished round."""
        return statuses(self.folder)

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
        told = self.place / ("lie" if fault in LIES else "fault")
        told.write_text(fault)
        outcome = self._outcome(fault, before, told)
        told.unlink(missing_ok=True)
        if outcome not in ("ends", "waits"):
            if self._goes_on():
                return outcome
            if self.alive():
                raise RuntimeError(f"after the client {fault} all fail: {self.rows()}")
            outcome = "ends"  # what failed first was the client alone
        self.end()
        self.begin()
        if not self._goes_on():
            raise RuntimeError(f"after the client {fault} the run does not go on: {self.said}")
        return outcome

    def _goes_on(self) -> bool:
        """Return whether all clients take part in a later round."""
        after = max(self.rows(), default=0)
        return self.wait(lambda: self.is_well_after(after), 300)

    def _outcome(self, fault: str, before: int, told: Path) -> Outcome:
        def shows() -> bool:
            rows = {number: row for number, row in self.rows().items() if number > before}
            quiet = fault.startswith("leaves") and not told.exists()
            return any(row[FAULTY] != "ok" for row in rows.values()) or (quiet and len(rows) > 3)

        if not self.wait(shows):
            return "waits" if self.alive() else "ends"
        found = {row[FAULTY] for number, row in self.rows().items() if number > before} - {"ok"}
        others = {s for n, row in self.rows().items() if n > before for s in row[:FAULTY]}
        if others != {"ok"}:  # all fail after it: does that end the run?
            self.wait(lambda: not self.alive(), 60)
        if not self.alive():
            return "ends"
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

    stage = Stage(run, place, begin, alive, end, seconds=4 * DEADLINE)
    try:
        yield stage
    finally:
        stage.said.append((place / "log").read_text(errors="replace")[-3000:])
        end()


@contextmanager
def flower_stage(engine: Engine, place: Path) -> Iterator[Stage]:
    """Hold a run on Flower's simulation, or on a SuperLink and SuperNodes with TLS and keys."""
    with processes(place, variables_of(place)) as owner:
        options: list[str] = []
        if engine == "deployed":
            Deployment(owner, 3, variables=lying(place)).start()
        else:
            options = _simulation(owner)
        run = FlowerRun(owner, SETTINGS, *options)
        yield Stage(run.folder, place, run.begin, run.alive, run.end, seconds=480)


def _simulation(owner: Processes) -> list[str]:
    (port,) = free_ports(1)
    owner.connect(port)
    link = owner.start(
        "superlink", "flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1",
        "--port", str(port),
    )  # fmt: skip
    wait_for_superlink(owner, link, port, None)
    return ["--federation-config", "num-supernodes=3 client-resources-num-cpus=1"]


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


NODES = "nodes"
"""What ``--engines`` calls the faults of nodes and the SuperLink."""
TABLES: dict[str, Callable[[], str]] = {"fault table": table, "node table": node_faults.table}
"""By the names between which they stand in the page."""


def stored(page: str, name: str) -> str:
    """Return the table that a page has between its marks."""
    begin, end = marks(name)
    return page.partition(begin)[2].partition(end)[0].strip()


def marks(name: str) -> tuple[str, str]:
    """Return what stands before and after a table in the page."""
    return f"<!-- {name} -->", f"<!-- end of the {name} -->"


def checked(name: str, faults: Sequence[str]) -> int:
    """Carry out faults, print what is not as the tables say, and return how much that is."""
    declared: dict[str, str | None]
    if name == NODES:
        faults = [fault for fault in faults if fault in node_faults.TABLE]
        found, declared = dict[str, str](node_faults.observe(faults)), {**node_faults.TABLE}
    else:
        engine = cast(Engine, name)
        faults = [fault for fault in faults if engine in TABLE.get(fault, {})]
        found = dict[str, str](observe(engine, faults))
        declared = {fault: TABLE[fault].get(engine) for fault in faults}
    differ = {fault: outcome for fault, outcome in found.items() if outcome != declared[fault]}
    for fault, outcome in differ.items():
        print(f"{name}: {fault}: {outcome}, not {declared[fault]}")
    print(f"{name}: {len(found) - len(differ)} of {len(faults)} as the table says")
    return len(differ)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known, every = (*ENGINES, NODES), (*TABLE, *node_faults.TABLE)
    parser.add_argument("--engines", default="", help=f"some of {','.join(known)}")
    parser.add_argument("--faults", default="", help="some of the tables', between commas")
    parser.add_argument("--write", type=Path, help="the page to put the tables into")
    given = parser.parse_args(arguments)
    engines = [engine for engine in known if engine in given.engines.split(",")]
    named = [name for name in given.faults.split(",") if name]
    faults = [fault for fault in every if not named or fault in named]
    odd = {*given.engines.split(","), ""} - {*known, ""} | {*named} - {*every}
    if odd:
        parser.error(
            f"{', '.join(sorted(odd))}: --engines takes {','.join(known)}; --faults"
            f" {'; '.join(every)}"
        )
    differ = sum(checked(engine, faults) for engine in engines)
    for name, made in TABLES.items():
        begin, end = marks(name)
        if given.write is not None:
            page = given.write.read_text()
            old = f"{begin}{page.partition(begin)[2].partition(end)[0]}{end}"
            given.write.write_text(page.replace(old, f"{begin}\n{made()}\n{end}"))
        print(f"{made()}\n")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
