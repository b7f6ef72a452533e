import os
import subprocess
import sys

import pytest
from paths import ROOT

from fedkd.models.zoo import ZOO


def waits(*given: str) -> str:
    """Run the script on few samples, let it hold what is asked for, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "scripts/gpu/waits.py", "--small", "--clients", "1", *given],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(("scripts/gpu", str(ROOT)))},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_no_model_of_the_zoo_makes_the_host_wait_more_than_fifteen_times() -> None:
    """MLPs are trained together."""
    found = waits("--models", *ZOO, "--together", "mlp", "--at-most", "15", "--none-in-steps")
    for name in ("cnn", "resnet", "vit"):
        assert f"{name}: 7.0 waits a client" in found


@pytest.mark.parametrize(
    "given",
    [
        ("--models", "cases:small_gru"),
        ("--models", "cases:small_decoder", "--privacy", "dp_sgd"),
    ],
)
def test_no_step_of_text_or_of_private_training_makes_the_host_wait(given: tuple[str, ...]) -> None:
    waits("--task", "next_tokens", *given, "--at-most", "15", "--none-in-steps")
