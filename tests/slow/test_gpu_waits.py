import os
import subprocess
import sys

from paths import ROOT

from fedkd.models.zoo import OF_PAPERS, ZOO


def test_no_model_of_the_zoo_makes_the_host_wait_more_than_fifteen_times() -> None:
    for more in (
        ["--models", *ZOO, *OF_PAPERS, "--clients", "1"],
        ["--models", "mlp", "--together"],
    ):
        done = subprocess.run(
            [sys.executable, "scripts/gpu/waits.py", "--small", "--at-most", "15", *more],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(("scripts/gpu", str(ROOT)))},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert "mlp" in done.stdout
