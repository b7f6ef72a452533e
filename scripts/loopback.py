"""Flower's own processes on loopback: SuperLink, SuperNodes, keys and certificates for them.

Whatever is started is ended with what it started itself.
"""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.request import urlopen

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Processes:
    """Flower's commands in a folder of their own, ended with all that they started."""

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of the environment, beside those that make Flower and Ray keep to themselves."""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """Return the environment of a command."""
        return {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
            "FLWR_HOME": str(self.folder / "flwr"),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Otherwise Flower joins whatever Ray cluster this machine has, another's too
            "RAY_ADDRESS": "local",
            # Ray's workers give way to everything else otherwise, and on a busy machine never run
            "RAY_worker_niceness": "0",
            **self.variables,
        }

    def start(
        self, log: str, *command: str, variables: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command that stays.

        Args:
            log: Where its output goes.
            command: Its words.
            variables: Of its environment alone.
        """
        with self.log_path(log).open("ab") as file:
            process = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                cwd=self.folder,
                env={**self.environment(), **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def do(self, *command: str, seconds: float = 60.0) -> str:
        """Run a command to its end and return its output. Raises RuntimeError if it fails."""
        self.log_path("command").unlink(missing_ok=True)
        status = self.start("command", *command).wait(timeout=seconds)
        output = self.log("command")
        if status != 0:
            raise RuntimeError(f"{' '.join(command)}: status {status}: {output}")
        return output

    def connect(self, port: int, certificate: Path | None = None) -> None:
        """Write the Flower configuration that names the SuperLink ``here``."""
        safe = (
            f'root-certificates = "{certificate}"' if certificate is not None else "insecure = true"
        )
        (self.folder / "flwr").mkdir(exist_ok=True)
        (self.folder / "flwr" / "config.toml").write_text(
            '[superlink]\ndefault = "here"\n\n'
            f'[superlink.here]\naddress = "127.0.0.1:{port}"\n{safe}\n'
        )

    def log_path(self, name: str) -> Path:
        """Return the file of a command's output."""
        return self.folder / f"{name}.log"

    def log(self, name: str) -> str:
        """Return a command's output so far."""
        return self.log_path(name).read_text(errors="replace")

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process that was started here, and all that it started, as a power cut would."""
        for pid in descendants({process.pid}):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(timeout=10)

    def stop(self) -> None:
        """End all that was started; Flower puts some of it into sessions of its own."""
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


@dataclass
class Deployment:
    """A SuperLink with TLS and registered keys, and a SuperNode for each of some clients."""

    owner: Processes
    clients: int
    spare: int = 0
    """Keys and ports beside those of the clients."""
    database: bool = True
    """Whether the SuperLink remembers anything when it ends."""
    variables: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    """Of the environments of single nodes."""
    link: subprocess.Popen[bytes] | None = None
    nodes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.port, *self._node_ports = free_ports(self.clients + self.spare + 1)
        self._authority, self._certificate, self._key = certificates(self.owner.folder)
        count = self.clients + self.spare
        self._keys = [key_pair(self.owner.folder, f"node{i}") for i in range(count)]
        self.owner.connect(self.port, self._authority)

    def start(self, nodes: Iterable[int] | None = None) -> None:
        """Start the SuperLink, register the clients' keys, and start their nodes, or some."""
        self.start_link()
        for node in range(self.clients):
            self.register(node)
        for node in range(self.clients) if nodes is None else nodes:
            self.start_node(node)

    def start_link(self) -> None:
        """Start the SuperLink, perhaps again, and wait until it answers."""
        kept = ["--database", str(self.owner.folder / "superlink.db")] if self.database else []
        self.link = self.owner.start(
            "superlink", "flower-superlink", "--host", "127.0.0.1", "--port", str(self.port),
            "--enable-supernode-auth", "--ssl-ca-certfile", str(self._authority),
            "--ssl-certfile", str(self._certificate), "--ssl-keyfile", str(self._key), *kept,
        )  # fmt: skip
        wait_for_superlink(self.owner, self.link, self.port, self._authority)

    def register(self, node: int) -> None:
        """Register a node's key."""
        _, public = self._keys[node]
        self.owner.do("flwr", "supernode", "register", str(public), "here")

    def start_node(
        self, node: int, *, client_id: int | None = None, options: Sequence[str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a node, perhaps again.

        Args:
            node: Which one.
            client_id: The client that it says it is; None is its own.
            options: Of its connection; None is TLS and its own key.
        """
        private, _ = self._keys[node]
        safe = ["--root-certificates", str(self._authority)]
        safe += ["--auth-supernode-private-key", str(private)]
        named = node if client_id is None else client_id
        self.nodes[node] = self.owner.start(
            f"node{node}", "flower-supernode", "--superlink", f"127.0.0.1:{self.port}",
            *(safe if options is None else options), "--port", str(self._node_ports[node]),
            "--node-config", f"partition-id={named} num-partitions={self.clients}",
            variables=self.variables.get(node),
        )  # fmt: skip
        return self.nodes[node]

    def stop_node(self, node: int) -> None:
        """End a node as its operator would, so that it says farewell."""
        process = self.nodes[node]
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.owner.kill(process)

    def kill_node(self, node: int) -> None:
        """Kill a node with all that it started, as a power cut would."""
        self.owner.kill(self.nodes[node])

    def kill_link(self) -> None:
        """Kill the SuperLink with all that it started: the ServerApp runs on its machine."""
        assert self.link is not None, "it was not started"
        self.owner.kill(self.link)


def table() -> list[tuple[int, int]]:
    """Return the id and the parent's id of every process."""
    listed = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid="], check=True, capture_output=True, text=True
    ).stdout
    return [
        (int(pid), int(parent)) for pid, parent in (line.split() for line in listed.splitlines())
    ]


def descendants(family: set[int]) -> set[int]:
    """Return processes with all that they started."""
    found, pairs = set(family), table()
    while more := {pid for pid, parent in pairs if parent in found} - found:
        found |= more
    return found


def living(family: set[int]) -> set[int]:
    """Return those of some processes that have not ended."""
    return family & {pid for pid, _ in table()}


def app(folder: Path) -> Path:
    """Copy what Flower's bundle of fedkd holds, and return the copy.

    Flower reads every file beside an app, an environment of a thousand packages too.
    """
    copy = folder / "app"
    if not copy.exists():
        unread = shutil.ignore_patterns("__pycache__")
        for name in ("fedkd", "strategies", "scenarios"):
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=unread)
        for name in ("pyproject.toml", "README.md", ".gitignore"):
            shutil.copy(ROOT / name, copy)
    return copy


@contextmanager
def processes(folder: Path, variables: Mapping[str, str] | None = None) -> Iterator[Processes]:
    """Hold Flower's processes, and end them."""
    owner = Processes(folder, variables or {})
    try:
        yield owner
    finally:
        owner.stop()


def free_ports(count: int) -> list[int]:
    """Return ports on loopback that nobody uses."""
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
    """Wait until a SuperLink answers. Raises RuntimeError where it ends, or takes a minute.

    Args:
        owner: Has started it.
        process: Its process.
        port: Where it listens.
        authority: The certificate that it is known by; None without TLS.
    """
    context = None if authority is None else ssl.create_default_context(cafile=str(authority))
    url = f"http{'s' if authority else ''}://127.0.0.1:{port}/health"
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urlopen(url, context=context, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"no SuperLink on port {port}: {owner.log('superlink')}")


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
    """Write an authority's certificate, and a SuperLink's certificate and key for loopback."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    authority = _certificate("fedkd test authority", authority_key, authority_key)
    server = _certificate("localhost", server_key, authority_key)
    files = folder / "ca.crt", folder / "server.pem", folder / "server.key"
    files[0].write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(server.public_bytes(serialization.Encoding.PEM))
    files[2].write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, signed_by: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """Return a certificate for a day; that of an authority is signed by its own key."""
    now, is_authority = datetime.now(UTC), key is signed_by
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name("fedkd test authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_by.public_key()),
            critical=False,
        )
        .add_extension(_usage(is_authority=is_authority), critical=True)
    )
    if not is_authority:
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signed_by, hashes.SHA384())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, is_authority: bool) -> x509.KeyUsage:
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
