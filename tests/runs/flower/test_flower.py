"""Flower's own engines run the same apps to the same result: its simulation, and real processes
with TLS and keys."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast
from urllib.request import urlopen

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid
from paths import ROOT
from tiny import scenario

import fedkd
from fedkd.cli.command import compose
from fedkd.cli.flower_apps import DAYS_OF_STATES, configured, states_folder
from fedkd.data.cache import cache_folder
from fedkd.errors import RunError, SettingError
from fedkd.experiment.build import build
from fedkd.experiment.run import run
from fedkd.flower.engine_grid import message_identity
from fedkd.flower.strategy_adapter import FederatedDistillation

BIN = Path(sys.executable).parent
OVERRIDES = (
    "clients=3 rounds=2 samples_per_client=20 models=[mlp,cnn] public.size=40"
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


@dataclass
class Processes:
    """Flower's commands in a folder of their own; what was started is ended by its process
    group."""

    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
            "FLWR_HOME": str(self.folder / "flwr"),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Otherwise Flower joins whatever Ray cluster this machine has, another test's too
            "RAY_ADDRESS": "local",
        }

    def start(self, log: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a command that stays, its output in ``log``."""
        with self.log_path(log).open("wb") as file:
            process = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def do(self, *command: str, seconds: float = 60.0) -> str:
        """Run a command to its end and return its output."""
        process = self.start("command", *command)
        status = process.wait(timeout=seconds)
        output = self.log("command")
        assert status == 0, output
        return output

    def connect(self, port: int, certificate: Path | None = None) -> None:
        """Write the Flower configuration that names the SuperLink ``here``."""
        safe = (
            f'root-certificates = "{certificate}"' if certificate is not None else "insecure = true"
        )
        (self.folder / "flwr").mkdir(exist_ok=True)
        address = f"127.0.0.1:{port}"
        text = f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{address}"\n{safe}\n'
        (self.folder / "flwr" / "config.toml").write_text(text)

    def log_path(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def log(self, name: str) -> str:
        return self.log_path(name).read_text(errors="replace")

    def stop(self) -> None:
        """End all that was started, and what that started: Flower puts some into sessions of their
        own."""
        family = {process.pid for process in self.started if process.poll() is None}
        family |= descendants(family)
        for process in self.started:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + 15
        while (family := living(family)) and time.monotonic() < deadline:
            for process in self.started:
                process.poll()
            time.sleep(0.1)
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.wait(timeout=10)


def table() -> list[tuple[int, int]]:
    """Return the id and the parent's id of every process."""
    listed = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid="], check=True, capture_output=True, text=True
    ).stdout
    return [
        (int(pid), int(parent)) for pid, parent in (line.split() for line in listed.splitlines())
    ]


def descendants(family: set[int]) -> set[int]:
    found, pairs = set(family), table()
    while more := {pid for pid, parent in pairs if parent in found} - found:
        found |= more
    return found


def living(family: set[int]) -> set[int]:
    return family & {pid for pid, _ in table()}


@contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    owner = Processes(folder)
    try:
        yield owner
    finally:
        owner.stop()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_for_superlink(
    owner: Processes, process: subprocess.Popen[bytes], port: int, authority: Path | None
) -> None:
    context = None if authority is None else ssl.create_default_context(cafile=str(authority))
    url = f"http{'s' if authority else ''}://127.0.0.1:{port}/health"
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, owner.log("superlink")
        assert time.monotonic() < deadline, owner.log("superlink")
        try:
            with urlopen(url, context=context, timeout=2):
                return
        except OSError:
            time.sleep(0.1)


def submitted(owner: Processes, *options: str, round_order: str, seconds: float) -> dict[str, Any]:
    """Submit the repository as Flower's app, wait for its end, and return the run's summary."""
    overrides = f"{OVERRIDES} round_order={round_order}"
    choice = f'scenario="digits" overrides="{overrides}" run-dir="{owner.folder / "out"}"'
    said = owner.do(
        "flwr", "run", str(ROOT), "here", "--stream", "-c", choice, *options, seconds=seconds
    )
    assert (owner.folder / "out" / "summary.json").exists(), said
    found: dict[str, Any] = json.loads((owner.folder / "out" / "summary.json").read_text())
    assert found["status"] == "completed"
    return found


def local(folder: Path, order: str) -> dict[str, Any]:
    """Return the summary of the same run on fedkd's own engine."""
    quiet = ["report.console=false", "engine.workers=1"]
    return run(compose([*OVERRIDES.split(), f"round_order={order}", *quiet]), folder / "local")


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a node's keys as OpenSSH has them; return the private and the public file."""
    key = ec.generate_private_key(ec.SECP384R1())
    private, public = folder / name, folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    private.chmod(0o600)
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
    )
    return private, public


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Write a certificate authority, and the certificate and key that it gives the SuperLink on
    loopback."""

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def builder(
        subject: str, key: ec.EllipticCurvePrivateKey, *, is_authority: bool
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("fedkd test authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
                critical=False,
            )
            .add_extension(usage(is_authority), critical=True)
        )

    def usage(is_authority: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=not is_authority,
            key_cert_sign=is_authority,
            crl_sign=is_authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )

    authority_key, server_key = (
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP384R1()),
    )
    authority = builder("fedkd test authority", authority_key, is_authority=True).sign(
        authority_key, hashes.SHA384()
    )
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    )
    server = builder("localhost", server_key, is_authority=False).add_extension(
        names, critical=False
    )
    files = folder / "ca.crt", folder / "server.pem", folder / "server.key"
    files[0].write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        server.sign(authority_key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)
    )
    files[2].write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


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
        nodes = "num-supernodes=3 client-resources-num-cpus=1"
        simulated = submitted(
            owner, "--federation-config", nodes, round_order="distill_first", seconds=180
        )
    here = local(tmp_path, "distill_first")
    assert {name: simulated[name] for name in FIGURES} == {name: here[name] for name in FIGURES}
    assert simulated["engine"] == {"name": "flower"}


@pytest.mark.slow
def test_supernodes_with_tls_and_keys_give_the_same_result_and_a_strange_key_is_refused(
    tmp_path: Path,
) -> None:
    port, *node_ports = free_ports(5)
    authority, certificate, key = certificates(tmp_path)
    keys = [key_pair(tmp_path, f"node{i}") for i in range(4)]
    with processes(tmp_path) as owner:
        owner.connect(port, authority)
        superlink = owner.start(
            "superlink",
            "flower-superlink",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--enable-supernode-auth",
            "--ssl-ca-certfile",
            str(authority),
            "--ssl-certfile",
            str(certificate),
            "--ssl-keyfile",
            str(key),
        )
        wait_for_superlink(owner, superlink, port, authority)
        for _, public in keys[:3]:
            owner.do("flwr", "supernode", "register", str(public), "here")
        nodes = [
            owner.start(
                f"node{i}",
                "flower-supernode",
                "--superlink",
                f"127.0.0.1:{port}",
                "--root-certificates",
                str(authority),
                "--auth-supernode-private-key",
                str(private),
                "--port",
                str(node_port),
                "--node-config",
                f"partition-id={i} num-partitions=3",
            )
            for i, ((private, _), node_port) in enumerate(zip(keys, node_ports, strict=True))
        ]
        deployed = submitted(owner, round_order="train_first", seconds=180)
        assert nodes[3].wait(timeout=20) != 0
        assert all(node.poll() is None for node in nodes[:3])
    here = local(tmp_path, "train_first")
    assert {name: deployed[name] for name in FIGURES} == {name: here[name] for name in FIGURES}
    assert "Failed to activate SuperNode" in owner.log("node3")
    assert "No SuperNode found with the given public key" in owner.log("superlink")
    for node in range(3):  # one fused message a round, and the last teacher
        received = re.findall(r"Receiving: ([\w.]+) message", owner.log(f"node{node}"))
        assert received == ["query.describe", "train", "train", "evaluate"]
    assert not list((cache_folder() / "flower").iterdir())


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
    assert again == chosen.changed(protocol=replace(chosen.protocol, rounds=7))
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
    chosen, _ = configured(context(**pyproject()["tool"]["flwr"]["app"]["config"]))
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
