"""``import fedkd`` loads nothing heavy, and knows its names before they are asked for."""

import subprocess
import sys

import fedkd

HEAVY = (
    *("torch", "hydra", "pandas", "numpy", "flwr", "ray", "matplotlib", "datasets", "yaml"),
    *("transformers", "peft"),
)


def test_importing_fedkd_imports_nothing_heavy() -> None:
    code = (
        f"import sys, fedkd; print([name for name in {HEAVY} if name in sys.modules], dir(fedkd))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("[] ")
    assert "'resume'" in said.stdout


def test_every_public_name_is_there() -> None:
    assert all(getattr(fedkd, name) is not None for name in fedkd.__all__)
    assert {"run", "resume", "load", "export", "FedkdError"} <= set(dir(fedkd))
