"""A run on a system without what only POSIX has, as far as one that has it can pretend."""

import json
import os
import subprocess
import sys
from pathlib import Path

PRETEND = """
import os, signal, sys

sys.modules["fcntl"] = None
for name in ("sched_getaffinity", "setsid", "getpgid", "killpg", "getuid"):
    delattr(os, name)
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL"):
    delattr(signal, name)
opened = os.open


def open_no_folder(path, flags, *others, **named):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return opened(path, flags, *others, **named)


os.open = open_no_folder
from fedkd.cli.command import main

sys.exit(main(sys.argv[1:]))
"""
"""No locks, no count of the cores that are allowed, no signals but two, no folder that opens."""


def test_a_run_needs_nothing_that_only_posix_has_and_no_utf8(tmp_path: Path) -> None:
    """Where letters are ASCII alone, files are in UTF-8 and the tables do without their lines."""
    small = ["rounds=2", "clients=2", "samples_per_client=20", "public.size=40", "run_dir=out"]
    settings = [*small, "test.global_size=50", "checkpoint.every=1", "report.plots=false"]
    ascii_only = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PRETEND, *settings],
        cwd=tmp_path,
        env={**os.environ, **ascii_only, "FEDKD_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "own distribution" in done.stdout
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["status"] == "completed"
    assert list((tmp_path / "out" / "checkpoints").iterdir())
