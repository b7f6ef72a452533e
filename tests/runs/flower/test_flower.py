"""Flower's own engines run the same apps to the same result: its simulation, and real processes
with TLS and keys."""

import json
import os
import re
import threading
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from faulty_runs import wait_until
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid
from loopback import Deployment, Processes, app, free_ports, processes, wait_for_superlink
from paths import ROOT
from tiny import scenario

import fedkd
from fedkd.cli.command import compose
from fedkd.cli.flower_apps import (
    DAYS_OF_STATES,
    START_SECONDS,
    UNTOLD,
    configured,
    patience,
    states_folder,
)
from fedkd.data.cache import cache_folder
from fedkd.errors import RunError, SettingError
from fedkd.experiment.build import build
from fedkd.experiment.run import run
from fedkd.flower.engine_grid import message_identity
from fedkd.flower.strategy_adapter import FederatedDistillation

OVERRIDES = (
    "clients=2 rounds=2 samples_per_client=20 models=[mlp,cnn] public.size=40"
    " test.global_size=50 test.private_size=20 train.epochs=1 train.batch_size=8 distill.epochs=1"
    " distill.batch_size=20 device=cpu baseline=none report.plots=false"
)
FIGURES = (
    "knowledge_sha256",
    "personal_accuracy_after_distillation",
    "personal_accuracy_after_training",
    "global_accuracy_after_distillation",
    "global_accuracy_after_training",
    "bytes_up",
    "bytes_down",
    "rejected",
    "failed",
)


def submitted(owner: Processes, *options: str, round_order: str, seconds: float) -> dict[str, Any]:
    """Submit fedkd as Flower's app, wait for its end, and return the run's summary."""
    overrides = f"{OVERRIDES} round_order={round_order}"
    choice = f'scenario="digits" overrides="{overrides}" run-dir="{owner.folder / "out"}"'
    said = owner.do(
        "flwr",
        "run",
        str(app(owner.folder)),
        "here",
        "--stream",
        "-c",
        choice,
        *options,
        seconds=seconds,
    )
    assert (owner.folder / "out" / "summary.json").exists(), said
    found: dict[str, Any] = json.loads((owner.folder / "out" / "summary.json").read_text())
    assert found["status"] == "completed"
    return found


def local(folder: Path, order: str) -> dict[str, Any]:
    """Return the summary of the same run on fedkd's own engine."""
    quiet = ["report.console=false", "engine.workers=1"]
    return run(compose([*OVERRIDES.split(), f"round_order={order}", *quiet]), folder / "local")


@pytest.mark.daily(0)
@pytest.mark.slow
def test_flowers_simulation_gives_the_same_result_as_the_local_engine(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with processes(tmp_path) as owner:
        owner.connect(port)
        superlink = owner.start(
            "superlink",
            "flower-superlink",
            "--insecure",
            "--simulation",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        )
        wait_for_superlink(owner, superlink, port, None)
        nodes = "num-supernodes=2 client-resources-num-cpus=1"
        simulated = submitted(
            owner, "--federation-config", nodes, round_order="train_first", seconds=180
        )
    here = local(tmp_path, "train_first")
    assert {name: simulated[name] for name in FIGURES} == {name: here[name] for name in FIGURES}
    assert simulated["engine"] == {"name": "flower"}


@pytest.mark.slow
@pytest.mark.early
def test_supernodes_with_tls_and_keys_give_the_same_result_though_the_superlink_is_killed(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    with processes(tmp_path) as owner:
        deployment = Deployment(owner, 2, spare=1)
        deployment.start()
        strange = deployment.start_node(2, client_id=1)
        overrides = f"{OVERRIDES} round_order=distill_first"
        choice = f'scenario="digits" overrides="{overrides}" run-dir="{out}"'
        owner.do("flwr", "run", str(app(tmp_path)), "here", "-c", choice, seconds=60)
        assert wait_until(lambda: len(recorded(out)) == 1, 240), owner.log("superlink")
        deployment.kill_link()
        assert json.loads((out / "summary.json").read_text()) == {"status": "running"}
        deployment.start_link()
        again = f'resume="{out}"'
        said = owner.do(
            "flwr", "run", str(app(tmp_path)), "here", "--stream", "-c", again, seconds=240
        )
        assert strange.wait(timeout=20) != 0
        assert all(deployment.nodes[node].poll() is None for node in range(2))
    deployed = json.loads((out / "summary.json").read_text())
    here = local(tmp_path, "distill_first")
    assert deployed["status"] == "completed", said
    assert {name: deployed[name] for name in FIGURES} == {name: here[name] for name in FIGURES}
    assert "Failed to activate SuperNode" in owner.log("node2")
    assert "No SuperNode found with the given public key" in owner.log("superlink")
    for node in range(2):  # one fused message a round
        kinds = re.findall(r"Receiving: ([\w.]+) message", owner.log(f"node{node}"))
        received = [kind for kind in kinds if kind != "query.present"]  # which a slow node gets
        again = received[received.index("query.describe", 1) :]
        assert received[:2] == ["query.describe", "train"]
        assert again == ["query.describe", "train"]
    assert not list((cache_folder() / "flower").glob("*"))


def recorded(folder: Path) -> list[str]:
    """Return the lines of a run's finished rounds so far."""
    path = folder / "rounds.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def context(**run_config: str) -> Context:
    return Context(1, 1, {}, RecordDict(), dict(run_config))


def test_the_run_configuration_names_a_scenario_and_overrides_it(tmp_path: Path) -> None:
    chosen, folder = configured(
        context(
            scenario="digits",
            overrides="clients=3 models=[mlp,cnn] strategy=fedmd",
            **{"run-dir": ""},
        )
    )
    assert (chosen.name, chosen.federation.clients, chosen.strategy.name) == ("digits", 3, "fedmd")
    assert chosen.federation.models == ("mlp", "cnn")
    assert folder is None
    file = tmp_path / "mine.yaml"
    file.write_text(chosen.text())
    again, folder = configured(
        context(scenario=str(file), overrides="rounds=7", **{"run-dir": "out"})
    )
    assert again.report.named_by == ("clients", "models", "rounds")
    assert again == chosen.changed(protocol=replace(chosen.protocol, rounds=7), report=again.report)
    assert folder == Path("out")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"scenario": "digit"}, "digits"),
        ({"overrides": "client=3"}, "clients"),
        ({"overrides": "clients"}, "key=value"),
        ({"overrides": "seed=1,2"}, "seed"),
        ({"overrides": "name='x"}, "overrides"),
        ({"overrides": "--cfg job"}, "--cfg"),
    ],
)
def test_a_run_configuration_that_means_nothing_is_refused(
    config: dict[str, str], said: str
) -> None:
    with pytest.raises(SettingError, match=said):
        configured(context(**config))


def test_the_default_run_configuration_is_a_scenario_of_flowers_two_clients() -> None:
    given = pyproject()["tool"]["flwr"]["app"]["config"]
    chosen, _ = configured(context(**given))
    assert given["overrides"] == UNTOLD
    assert (chosen.name, chosen.federation.clients, chosen.strategy.name) == ("digits", 2, "knfu")


def test_the_version_is_the_same_in_both_places() -> None:
    """Flower's bundle needs it in pyproject.toml; a copy of fedkd that is not installed needs it in
    the package."""
    assert pyproject()["project"]["version"] == fedkd.__version__


def test_client_states_of_runs_long_over_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path))
    old, recent = tmp_path / "flower" / "1", tmp_path / "flower" / "2"
    long_ago = time.time() - (DAYS_OF_STATES + 1) * 24 * 3600
    for folder in (old, recent):
        (folder / "000000").mkdir(parents=True)
        os.utime(folder, (long_ago, long_ago))
    os.utime(old / "000000", (long_ago, long_ago))
    assert states_folder(3) == tmp_path / "flower" / "3"
    assert not old.exists()
    assert recent.exists()


def test_more_nodes_than_clients_are_refused() -> None:
    """Each node would stand for a client that the scenario does not have."""
    experiment = build(scenario(clients=2), threading.Event())
    with message_identity(), pytest.raises(RunError, match=r"3 nodes are connected, but clients=2"):
        FederatedDistillation(experiment.server, "", lambda _: None).start(cast(Grid, ThreeNodes()))


class ThreeNodes:
    def get_node_ids(self) -> list[int]:
        return [1, 2, 3]


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_a_phase_is_given_up_after_a_deadline_alone_and_then_with_time_for_every_client() -> None:
    assert patience(scenario(clients=3)) is None
    assert patience(scenario(clients=3, deadline=10.0)) == START_SECONDS + 30.0
