"""What a process is spared by fedkd's own optimizers."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("together", ["never", "[mlp]"])
def test_a_run_does_not_load_pytorchs_compiler(tmp_path: Path, together: str) -> None:
    """It is 70 MB and a second of each process, for nothing that a run on the CPU uses."""
    choices = [
        "clients=3",
        "samples_per_client=20",
        "models=[mlp]",
        "rounds=1",
        "public.size=40",
        "device=cpu",
        f"batch_clients={together}",
        f"out={tmp_path}/run",
        "report.plots=false",
    ]
    program = f"""
import sys
from fedkd.cli.command import main
sys.argv = ["simulate", *{choices!r}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("compiler" if "torch._dynamo" in sys.modules else "none")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "none", done.stdout
