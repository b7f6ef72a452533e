import os
import subprocess
import sys

from paths import ROOT

from fedkd.models.zoo import ZOO


def test_no_model_of_the_zoo_makes_the_host_wait_more_than_fifteen_times() -> None:
    """Eight steps are trained: one wait in a step would be eight. MLPs are trained together."""
    given = ["--small", "--clients", "1", "--models", *ZOO, "--together", "mlp", "--at-most", "15"]
    done = subprocess.run(
        [sys.executable, "scripts/gpu/waits.py", *given],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(("scripts/gpu", str(ROOT)))},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    for name in ("cnn", "resnet", "vit"):
        assert f"{name}: 7.0 waits a client" in done.stdout
