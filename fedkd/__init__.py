"""fedkd: a simulator for federated distillation.

Clients of different architectures train on non-IID partitions of real data and exchange predictions
on a public set instead of weights; a server strategy fuses them. ``docs/architecture.md`` says
where things live.
"""

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedkd.cli.python_entry import load as load
    from fedkd.cli.python_entry import resume as resume
    from fedkd.cli.python_entry import run as run
    from fedkd.cli.stored_runs import MethodComparison as MethodComparison
    from fedkd.cli.stored_runs import StoredRuns as StoredRuns
    from fedkd.errors import FedkdError as FedkdError
    from fedkd.errors import RunError as RunError
    from fedkd.errors import RunWarning as RunWarning
    from fedkd.errors import SettingError as SettingError
    from fedkd.experiment.export_model import export as export
    from fedkd.experiment.round_watchers import RoundView as RoundView
    from fedkd.experiment.stored_run import StoredRun as StoredRun

__version__ = "0.2.0"

# Flower, Ray and MLflow read these when they are first imported, always later than this line.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# cuBLAS repeats to the bit with a fixed workspace alone, which PyTorch asks this for once, at the
# first product of matrices on a GPU.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# ``strategies`` and ``scenarios`` are symbolic links to the folders beside this one. A checkout
# without such links, as on Windows, and the bundle that Flower makes have those folders alone.
_here = Path(__file__).resolve().parent
if not (_here / "strategies").is_dir():
    __path__.append(str(_here.parent))

_WHERE = {
    "FedkdError": "fedkd.errors",
    "MethodComparison": "fedkd.cli.stored_runs",
    "RoundView": "fedkd.experiment.round_watchers",
    "RunError": "fedkd.errors",
    "RunWarning": "fedkd.errors",
    "SettingError": "fedkd.errors",
    "StoredRun": "fedkd.experiment.stored_run",
    "StoredRuns": "fedkd.cli.stored_runs",
    "export": "fedkd.experiment.export_model",
    "load": "fedkd.cli.python_entry",
    "resume": "fedkd.cli.python_entry",
    "run": "fedkd.cli.python_entry",
}
"""The modules of what is imported once it is asked for: ``import fedkd`` loads nothing heavy."""

__all__ = [
    "FedkdError",
    "MethodComparison",
    "RoundView",
    "RunError",
    "RunWarning",
    "SettingError",
    "StoredRun",
    "StoredRuns",
    "__version__",
    "export",
    "load",
    "resume",
    "run",
]


def __getattr__(name: str) -> object:
    """Return a public name, whose module is imported now."""
    if name not in _WHERE:
        raise AttributeError(f"module 'fedkd' has no attribute {name!r}")
    found: object = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
