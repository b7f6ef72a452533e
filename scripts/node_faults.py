"""Faults of nodes and of the SuperLink, for ``fault_table.py``: each is carried out and observed.

One SuperLink with TLS and registered keys, and three SuperNodes on loopback, in a run without a
deadline: nothing but Flower and fedkd tells it that a node is gone.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from faulty_runs import SETTINGS, FlowerRun, statuses, variables_of, wait_until
from loopback import Deployment, processes

SPARE = 3
"""The number of a node that belongs to no client."""
PATIENCE = 600.0
"""Seconds that something may take on a busy machine."""
WORDS = {
    "back": "its client fails within a minute, alone; it is back once the node is: Flower refuses a"
    " node for a minute after its last word, so start it again until it stays",
    "goes on": "**the run ends** with the ServerApp on the SuperLink's machine; nodes connect again"
    " by themselves, and `resume=` goes on with it",
    "registered": "**the run ends**, and registered keys are forgotten; register them, start the"
    " nodes again, and `resume=` goes on with it",
    "both": "it and the client whose id it claims are left out by name; the others go on",
    "refused": "refused; it ends with `Failed to activate SuperNode`, and the run goes on",
    "alone": "never connected; it says `Connection attempt failed` and goes on trying; the run goes"
    " on",
}
TABLE = {
    "a node says that it is another client": "both",
    "a node comes whose key is not registered": "refused",
    "a node comes without TLS": "alone",
    "a node is killed and started again": "back",
    "the SuperLink is killed and started again with its `--database`": "goes on",
    "the SuperLink is killed and started again without a `--database`": "registered",
}
"""What happens at a SuperLink, and what becomes of it. What stands here is carried out."""
WELL = ["ok"] * 3


@dataclass
class NodeStage:
    """A deployment with a run that goes on while nodes are at fault."""

    deployment: Deployment
    run: FlowerRun

    def rows(self) -> dict[int, list[str]]:
        """Return the statuses of the clients by finished round."""
        return statuses(self.run.folder)

    def expect(self, what: str, wanted: list[str]) -> None:
        """Wait for a later round whose clients have these statuses. Raises RuntimeError."""
        before = max(self.rows(), default=0)

        def comes() -> bool:
            return any(row == wanted for number, row in self.rows().items() if number > before)

        if not wait_until(comes, PATIENCE):
            raise RuntimeError(f"{what}: no round with {wanted} after {before}: {self.rows()}")

    def start_until_it_stays(self, node: int) -> None:
        """Start a node again until it is let in. Raises RuntimeError."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            process = self.deployment.start_node(node)
            if not wait_until(lambda p=process: p.poll() is not None, 20):  # type: ignore[misc]
                return
        raise RuntimeError(f"node {node} is not let in: {self.deployment.owner.log(f'node{node}')}")


def claims_an_id(stage: NodeStage) -> str:
    """Let the third node say that it is the second client; the run begins with it."""
    stage.deployment.start_node(2, client_id=1)
    stage.run.begin()
    stage.expect("a claimed id", ["ok", "rejected", "rejected"])
    stage.run.end()
    wait_until(lambda: not stage.run.alive(), PATIENCE)
    stage.deployment.stop_node(2)
    stage.run.folder.rename(stage.run.folder.with_name("claimed"))
    stage.start_until_it_stays(2)
    stage.run.begin()
    stage.expect("the true client", WELL)
    return "both"


def has_no_registered_key(stage: NodeStage) -> str:
    """Start a node with a key that nobody registered."""
    process = stage.deployment.start_node(SPARE, client_id=2)
    process.wait(timeout=PATIENCE)
    said = stage.deployment.owner.log(f"node{SPARE}")
    stage.expect("a strange key", WELL)
    return "refused" if process.returncode and "Failed to activate SuperNode" in said else said


def has_no_tls(stage: NodeStage) -> str:
    """Start a node without TLS."""
    process = stage.deployment.start_node(SPARE, client_id=2, options=["--insecure"])
    words = "Connection attempt failed"
    wait_until(lambda: words in stage.deployment.owner.log(f"node{SPARE}"), PATIENCE)
    stage.expect("no TLS", WELL)
    said = stage.deployment.owner.log(f"node{SPARE}")
    outcome = "alone" if process.poll() is None and words in said else said
    stage.deployment.kill_node(SPARE)
    return outcome


def dies(stage: NodeStage) -> str:
    """Kill the second node, and start it again."""
    stage.deployment.kill_node(1)
    stage.expect("a killed node", ["ok", "failed", "ok"])
    stage.start_until_it_stays(1)
    stage.expect("the node again", WELL)
    return "back"


def link_dies(stage: NodeStage) -> str:
    """Kill the SuperLink with the ServerApp, start it again, and go on with the run."""
    deployment = stage.deployment
    deployment.kill_link()
    if not wait_until(lambda: not stage.run.alive(), 60):
        raise RuntimeError("the ServerApp outlives its SuperLink")
    deployment.start_link()
    if not deployment.database:
        for node in range(deployment.clients):
            deployment.register(node)
            deployment.stop_node(node)
            stage.start_until_it_stays(node)
    stage.run.begin()
    stage.expect("the SuperLink again", WELL)
    return "goes on" if deployment.database else "registered"


CASES: dict[str, Callable[[NodeStage], str]] = dict(
    zip(
        TABLE,
        [claims_an_id, has_no_registered_key, has_no_tls, dies, link_dies, link_dies],
        strict=True,
    )
)


def observe(faults: Sequence[str]) -> dict[str, str]:
    """Carry out faults, and return what became of each."""
    found: dict[str, str] = {}
    for database in (True, False):
        wanted = [fault for fault in faults if fault.endswith("without a `--database`") != database]
        if not wanted:
            continue
        with (
            tempfile.TemporaryDirectory() as name,
            processes(Path(name), variables_of(Path(name))) as owner,
        ):
            settings = [s for s in SETTINGS if not s.startswith("deadline")]
            stage = NodeStage(
                Deployment(owner, 3, spare=1, database=database), FlowerRun(owner, settings)
            )
            claims = CASES[wanted[0]] is claims_an_id
            stage.deployment.start(nodes=range(2 if claims else 3))
            if not claims:
                stage.run.begin()
                stage.expect("the beginning", WELL)
            for fault in wanted:
                began = time.monotonic()
                found[fault] = CASES[fault](stage)
                seconds = time.monotonic() - began
                print(f"{fault}: {found[fault]} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    return found


def table() -> str:
    """Return what becomes of each fault, as a Markdown table."""
    lines = ["| at a SuperLink with TLS and keys | is lost, and goes on |", "|---|---|"]
    return "\n".join([*lines, *(f"| {fault} | {WORDS[of]} |" for fault, of in TABLE.items())])
