import json
import os
import subprocess
import sys
from pathlib import Path

from paths import ROOT


def test_what_checks_and_measures_a_gpu_runs_on_the_cpu_in_small(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "scripts/gpu/check.sh", "--dry-run", "--seconds", "1500", "--out", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=1500,
    )

    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-1000:]}"
    check, measure, published = (
        json.loads((tmp_path / f"{name}.json").read_text())
        for name in ("check", "measure", "published")
    )
    assert len(check["cases"]) >= 25
    wrong = [case for case in check["cases"] if case["verdict"] != "ok"]
    assert wrong == []
    parts = [part for part in measure if part != "machine"]
    assert set(parts) == {"rounds", "inside", "steps", "options", "host"}
    failed = [row for part in parts for row in measure[part] if {"failed", "skipped"} & set(row)]
    assert failed == []
    assert len(published["runs"]) == 3
