"""The Ray engine on a cluster of two nodes on this machine with GPUs that are declared and not
there; and Ctrl-C."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from paths import HELPERS
from tiny import TINY, records, scenario

from fedkd.errors import SettingError
from fedkd.experiment.build import build
from fedkd.experiment.run import execute, session, with_facts
from fedkd.federation.round_records import RoundRecord
from fedkd.flower.ray_grid import RayGrid

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def ray_engine(**settings: Any) -> dict[str, Any]:
    return {"name": "ray", "workers": 2, **settings}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = _free_port()
    environment = {
        **os.environ,
        "RAY_worker_niceness": "0",
        "PYTHONPATH": os.pathsep.join([str(HELPERS), *sys.path]),
    }
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--block",
        "--disable-usage-stats",
        "--num-cpus=2",
    ]
    command += ["--num-gpus=1", "--object-store-memory=100000000"]
    nodes = []
    with contextlib.ExitStack() as stack:
        for where in (
            ["--head", f"--port={port}", "--include-dashboard=false"],
            [f"--address=127.0.0.1:{port}"],
        ):
            log = stack.enter_context((tmp_path_factory.mktemp("node") / "log").open("w"))
            node = subprocess.Popen(
                [*command, *where], env=environment, stdout=log, stderr=log, start_new_session=True
            )
            stack.callback(_end_group, node)
            nodes.append(node)
            _wait_for(lambda: _listens(port), 60)
        ray.init(f"127.0.0.1:{port}", log_to_driver=False, logging_level="ERROR")
        _wait_for(lambda: ray.cluster_resources().get("CPU") == 4, 60)
        ray.shutdown()
        yield f"127.0.0.1:{port}"


def test_the_engine_attaches_to_a_running_cluster_of_two_nodes(
    cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = records()[-1].knowledge_sha256
    for engine in (
        ray_engine(address=cluster, workers=4),
        ray_engine(address=cluster, workers=None),
    ):
        stop = threading.Event()
        found: list[RoundRecord] = []
        experiment = build(scenario(engine=engine, device="cpu"), stop)
        execute(experiment, found.append, stop)
        assert found[-1].knowledge_sha256 == expected


def test_declared_gpus_are_shared_out_by_architecture(cluster: str) -> None:
    shares = {"mlp": 0.25, "cnn": 0.5}
    setting = scenario(
        models=["mlp", "cnn"],
        engine=ray_engine(address=cluster, workers=4, gpus_per_client=shares),
        device="cpu",
        clients=6,
    )
    stop, seen = threading.Event(), []
    experiment = build(setting, stop)
    start = RayGrid.start

    def spy(self: RayGrid) -> None:
        start(self)
        seen.extend((float(worker.slot.gpus), worker.slot.clients) for worker in self.workers)
        left = self._ray.available_resources().get("GPU", 0.0)
        seen.append(("left", round(left, 3)))

    RayGrid.start = spy  # type: ignore[method-assign]
    try:
        found: list[RoundRecord] = []
        execute(experiment, found.append, stop)
    finally:
        RayGrid.start = start  # type: ignore[method-assign]
    assert found[-1].knowledge_sha256 == records(clients=6)[-1].knowledge_sha256
    *workers, (_, left) = seen
    assert {share for share, _ in workers} == {0.25, 0.5}
    for share, clients in workers:
        assert {i % 2 for i in clients} == ({0} if share == 0.25 else {1})  # mlp, cnn in turn
    assert left == pytest.approx(2 - sum(share for share, _ in workers), abs=0.01)


def test_a_process_with_a_gpu_is_asked_and_clients_that_train_together_have_one_worker(
    cluster: str,
) -> None:
    shares = {"mlp": 0.5, "cnn": 0}
    engine = ray_engine(address=cluster, workers=3, gpus_per_client=shares)
    changes: dict[str, Any] = {"clients": 6, "batch_clients": ["mlp"]}
    stop, specs = threading.Event(), []
    start = RayGrid.start

    def spy(self: RayGrid) -> None:
        start(self)
        specs.extend(worker.actor_spec.spec for worker in self.workers)

    RayGrid.start = spy  # type: ignore[method-assign]
    found: list[RoundRecord] = []
    try:
        experiment = build(scenario(engine=engine, device="auto", **changes), stop)
        with session(experiment):
            asked = with_facts(experiment)
            execute(asked, found.append, stop)
    finally:
        RayGrid.start = start  # type: ignore[method-assign]
    assert asked.facts is not None  # PyTorch finds no GPU there, and says so
    assert (asked.facts.device, len(asked.facts.costs)) == ("CPU", 6)
    assert {spec.owned: spec.device for spec in specs}[0, 2, 4] == ""
    assert {spec.device for spec in specs if 1 in spec.owned} == {"cpu"}
    expected = records(**changes)[-1].knowledge_sha256
    assert found[-1].knowledge_sha256 == expected


def test_what_a_cluster_does_not_have_is_said_before_anything_is_run(
    cluster: str, tmp_path: Path
) -> None:
    for engine, said in (
        (ray_engine(address=cluster, workers=9), "the cluster has 4 CPUs"),
        (
            ray_engine(address=cluster, workers=4, gpus_per_client={"mlp": 1, "cnn": 2}),
            "does not fit on 2 GPUs",
        ),
        (
            ray_engine(address=f"127.0.0.1:{_free_port()}"),
            "cannot reach a Ray cluster.*leave address out",
        ),
    ):
        with pytest.raises(SettingError, match=said):
            records(engine=engine, device="cpu")


def heed_ctrl_c() -> None:
    """Let a child process end on SIGINT, which is ignored in whatever a shell has put into the
    background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_ends_ray_within_five_seconds_and_leaves_no_process_behind(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    config = tmp_path / "scenario.yaml"
    config.write_text(json.dumps({**TINY, "rounds": 1000, "engine": ray_engine()}))
    command = [
        sys.executable,
        "-m",
        "fedkd.simulate",
        "--config",
        str(config),
        f"run_dir={tmp_path / 'out'}",
    ]
    process = subprocess.Popen(
        command,
        env={**os.environ, "FEDKD_TEST_MARK": mark},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )
    try:
        rounds = tmp_path / "out" / "rounds.jsonl"
        _wait_for(lambda: rounds.exists() and rounds.read_text().count("\n") >= 2, 90)
        assert len(_marked(mark)) > 3
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        asked = time.monotonic()
        _, error = process.communicate(timeout=30)
        took = time.monotonic() - asked
    finally:
        if process.poll() is None:
            process.kill()
    assert took < 5.0, error
    assert process.returncode == 130
    assert error.strip().splitlines()[-1].startswith("fedkd: interrupted")
    _wait_for(lambda: not _marked(mark), 5)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["status"] == "interrupted"


def _marked(mark: str) -> list[int]:
    """Return the processes that carry a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_for(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
