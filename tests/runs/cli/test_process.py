"""The command as a process of its own: interrupted, installed from a wheel, and free of what it
must not load."""

import json
import os
import signal
import subprocess
import sys
import time
import venv
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from paths import HELPERS, ROOT

from fedkd.runtime.invocation import command_line
from fedkd.settings.optional_libraries import EXTRAS

LONG = [
    "rounds=1000",
    "clients=4",
    "samples_per_client=20",
    "public.size=100",
    "test.global_size=50",
    "baseline=none",
]


WITHOUT_EXTRAS = """
import sys


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Finder())
"""


def heed_ctrl_c() -> None:
    """Let a child process end on SIGINT, which is ignored in whatever a shell has put into the
    background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "workers", "said"),
    [
        (signal.SIGINT, 1, "interrupted"),
        (signal.SIGTERM, 2, "interrupted by SIGTERM"),
        (signal.SIGUSR1, 1, "interrupted by SIGUSR1"),
    ],
)
def test_a_signal_ends_a_run_within_two_seconds_and_keeps_every_finished_round(
    tmp_path: Path, code: signal.Signals, workers: int, said: str
) -> None:
    """SIGUSR1 writes a checkpoint of the last round that is not due; the others lose a round at
    most."""
    command = [
        sys.executable,
        "-m",
        "fedkd.simulate",
        *LONG,
        f"engine.workers={workers}",
        f"checkpoint.every={1000 if code == signal.SIGUSR1 else 1}",
        "run_dir=out",
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )
    rounds = tmp_path / "out" / "rounds.jsonl"
    try:
        deadline = time.monotonic() + 120
        while not (rounds.exists() and rounds.read_text().count("\n") >= 3):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(code)
        asked = time.monotonic()
        _, error = process.communicate(timeout=20)
        took = time.monotonic() - asked
    finally:
        if process.poll() is None:
            process.kill()
    assert took < 2.0, error
    assert process.returncode == 128 + code
    rows = [json.loads(line) for line in rounds.read_text().splitlines()]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert summary["rounds"] == len(rows) >= 3
    go_on = "to go on: " + command_line(["resume", "out"])
    assert error.strip() == f"fedkd: {said}; finished rounds: {len(rows)}, in out; {go_on}"
    assert summary["knowledge_sha256"] == rows[-1]["knowledge_sha256"]
    clients = (tmp_path / "out" / "clients.csv").read_text().splitlines()
    assert len(clients) == 1 + 4 * len(rows)
    assert not np.isnan(np.load(tmp_path / "out" / "weights.npy")[: len(rows)]).any()
    if code == signal.SIGUSR1:
        assert [path.stem for path in (tmp_path / "out" / "checkpoints").iterdir()] == [
            f"{len(rows):06}"
        ]


@pytest.mark.slow
def test_the_command_works_from_an_installed_wheel_beside_folders_of_ones_own(
    tmp_path: Path,
) -> None:
    """The wheel goes into an environment of its own, which borrows the dependencies of this one.

    All but those of the extras, which the default scenario does without.
    """
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--no-isolation",
            "--outdir",
            str(tmp_path / "dist"),
            str(ROOT),
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (wheel,) = (tmp_path / "dist").glob("fedkd-*.whl")
    (source,) = (tmp_path / "dist").glob("fedkd-*.tar.gz")
    check = [sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(source)]
    subprocess.run(check, check=True, capture_output=True, timeout=300)
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(site),
            str(wheel),
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )
    others = [p for p in sys.path if p.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(others) + "\n")
    hidden = [name for name in sorted(EXTRAS) if find_spec(name)]  # others are not there anyway
    (site / "sitecustomize.py").write_text(WITHOUT_EXTRAS.format(hidden=hidden))
    assert not (site / "strategies").exists()
    assert not (site / "scenarios").exists()
    empty = tmp_path / "empty"
    for name in ("strategies", "scenarios"):
        (empty / name).mkdir(parents=True)
        (empty / name / "__init__.py").touch()
    (empty / "strategies" / "mine.py").touch()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    script = (
        "import fedkd, fedkd.strategies, fedkd.scenarios as scenarios\n"
        "print(fedkd.__file__, fedkd.strategies.__file__, scenarios.__file__)"
    )
    where = subprocess.run(
        [str(python), "-c", script],
        cwd=empty,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    assert where.count(str(tmp_path)) == 3
    done = subprocess.run(
        [
            str(python),
            "-m",
            "fedkd.simulate",
            "rounds=1",
            "clients=2",
            "public.size=40",
            "baseline=none",
        ],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (run,) = (empty / "runs").iterdir()
    assert json.loads((run / "summary.json").read_text())["status"] == "completed"
    for words in (["compare", "--runs", "runs", "--out", "compared"], ["reproduce", "--help"]):
        done = subprocess.run(
            [str(python), "-m", "fedkd", *words],
            cwd=empty,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    assert (empty / "compared" / "comparison.md").is_file()


def test_import_fedkd_loads_none_of_the_heavy_libraries() -> None:
    heavy = ("ray", "flwr.simulation", "wandb", "hydra")
    code = f"import fedkd, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_choosing_a_scenario_loads_none_of_the_libraries_that_only_some_runs_need() -> None:
    code = (
        "import sys, fedkd.experiment.run; from fedkd.cli.command import compose;"
        " compose(['scenario=digits']);"
        "unwanted = ('sklearn', 'pandas', 'scipy', 'datasets', 'opacus', 'matplotlib');"
        "print([m for m in unwanted if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_run_loads_neither_ray_nor_flowers_simulation_nor_wandb() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from tiny import records; records();"
        "print([m for m in ('ray', 'flwr.simulation', 'wandb', 'hydra') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(HELPERS)],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_telemetry_is_off() -> None:
    # A GPU's products of matrices repeat only if the last is there before the first of them.
    switches = ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED", "CUBLAS_WORKSPACE_CONFIG")
    code = f"import fedkd, os; print(*(os.environ[name] for name in {switches}))"
    clean = {k: v for k, v in os.environ.items() if k not in switches}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=clean,
        timeout=60,
    )
    assert done.stdout.split() == ["0", "0", ":4096:8"]
