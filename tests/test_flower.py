"""Flower's own engines run the same apps to the same result: its simulation, and real processes with TLS and keys."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flwr.app import Context, RecordDict

import fedkd
from fedkd.errors import SettingError
from fedkd.flower import configured, states_folder
from fedkd.run import run
from fedkd.simulate import compose

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
OVERRIDES = (
    "clients=3 rounds=2 order=distill_first samples_per_client=20 models=[mlp,cnn] public.size=40"
    " test.global_size=50 test.private_size=20 train.epochs=1 train.batch_size=8 distill.epochs=1"
    " distill.batch_size=20 device=cpu baseline=none report.plots=false"
)
FIGURES = ("knowledge_sha256", "local_accuracy", "global_accuracy", "bytes_up", "bytes_down", "rejected", "failed")


@dataclass
class Processes:
    """Flower's commands in a folder of their own; what was started is ended by its process group."""

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
        }

    def start(self, log: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a command that stays, its output in ``log``."""
        with self.log_path(log).open("wb") as file:
            process = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]], cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
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
        safe = f'root-certificates = "{certificate}"' if certificate is not None else "insecure = true"
        (self.folder / "flwr").mkdir(exist_ok=True)
        text = f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\n{safe}\n'
        (self.folder / "flwr" / "config.toml").write_text(text)

    def log_path(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def log(self, name: str) -> str:
        return self.log_path(name).read_text(errors="replace")

    def stop(self) -> None:
        """End every process that was started, and what it started in its group."""
        for process in reversed(self.started):
            for sign, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
                try:
                    os.killpg(process.pid, sign)
                except ProcessLookupError:
                    break
                deadline = time.monotonic() + seconds
                while group_lives(process) and time.monotonic() < deadline:
                    time.sleep(0.05)


def group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


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


def wait_for_superlink(owner: Processes, process: subprocess.Popen[bytes], port: int, authority: Path | None) -> None:
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


def wait_for_line(owner: Processes, log: str, wanted: Sequence[str], seconds: float) -> str:
    deadline = time.monotonic() + seconds
    while not any(line in (text := owner.log(log)) for line in wanted):
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
    return text


def submitted(owner: Processes, *options: str, seconds: float) -> dict[str, Any]:
    """Submit the repository as Flower's app, wait for its end, and return the run's summary."""
    choice = f'scenario="digits" overrides="{OVERRIDES}" run-dir="{owner.folder / "out"}"'
    said = owner.do("flwr", "run", str(ROOT), "here", "--stream", "-c", choice, *options, seconds=seconds)
    assert (owner.folder / "out" / "summary.json").exists(), said
    found: dict[str, Any] = json.loads((owner.folder / "out" / "summary.json").read_text())
    assert found["status"] == "completed"
    return found


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    scenario = compose([*OVERRIDES.split(), "report.console=false", "engine.workers=1"])
    return run(scenario, tmp_path_factory.mktemp("local") / "out")


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a node's keys as OpenSSH has them; return the private and the public file."""
    key = ec.generate_private_key(ec.SECP384R1())
    private, public = folder / name, folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    )
    private.chmod(0o600)
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    )
    return private, public


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Write a certificate authority, and the certificate and key that it gives the SuperLink on loopback."""

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def builder(subject: str, key: ec.EllipticCurvePrivateKey, *, is_authority: bool) -> x509.CertificateBuilder:
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
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
            .add_extension(usage(is_authority), critical=True)
        )

    def usage(is_authority: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority,
            content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip

    authority_key, server_key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    authority = builder("fedkd test authority", authority_key, is_authority=True).sign(authority_key, hashes.SHA384())
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    server = builder("localhost", server_key, is_authority=False).add_extension(names, critical=False)
    files = folder / "ca.crt", folder / "server.pem", folder / "server.key"
    files[0].write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(server.sign(authority_key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM))
    files[2].write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


@pytest.mark.slow
def test_flowers_simulation_gives_the_same_result_as_the_local_engine(tmp_path: Path, local: dict[str, Any]) -> None:
    (port,) = free_ports(1)
    with processes(tmp_path) as owner:
        owner.connect(port)
        superlink = owner.start(
            "superlink", "flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)
        )
        wait_for_superlink(owner, superlink, port, None)
        nodes = "num-supernodes=3 client-resources-num-cpus=1"
        simulated = submitted(owner, "--federation-config", nodes, seconds=180)
    assert {name: simulated[name] for name in FIGURES} == {name: local[name] for name in FIGURES}
    assert simulated["engine"] == {"name": "flower"}


@pytest.mark.slow
def test_supernodes_with_tls_and_keys_give_the_same_result_and_a_strange_key_is_refused(
    tmp_path: Path, local: dict[str, Any]
) -> None:
    port, *node_ports = free_ports(5)
    authority, certificate, key = certificates(tmp_path)
    keys = [key_pair(tmp_path, f"node{i}") for i in range(4)]
    with processes(tmp_path) as owner:
        owner.connect(port, authority)
        superlink = owner.start(
            "superlink", "flower-superlink", "--host", "127.0.0.1", "--port", str(port), "--enable-supernode-auth",
            "--ssl-ca-certfile", str(authority), "--ssl-certfile", str(certificate), "--ssl-keyfile", str(key),
        )  # fmt: skip
        wait_for_superlink(owner, superlink, port, authority)
        for _, public in keys[:3]:
            owner.do("flwr", "supernode", "register", str(public), "here")
        nodes = [
            owner.start(
                f"node{i}", "flower-supernode", "--superlink", f"127.0.0.1:{port}",
                "--root-certificates", str(authority), "--auth-supernode-private-key", str(private),
                "--port", str(node_port), "--node-config", f"partition-id={i} num-partitions=3",
            )
            for i, ((private, _), node_port) in enumerate(zip(keys, node_ports, strict=True))
        ]  # fmt: skip
        deployed = submitted(owner, seconds=180)
        listed = owner.do("flwr", "supernode", "list", "here", "--format", "json")
        refused = nodes[3].wait(timeout=20)
        assert all(node.poll() is None for node in nodes[:3])
    assert {name: deployed[name] for name in FIGURES} == {name: local[name] for name in FIGURES}
    assert refused != 0
    assert listed, owner.log("node3")
