"""fedkd: a simulator for federated distillation.

Clients of different architectures train on non-IID partitions of real data and exchange predictions
on a public set instead of weights; a server strategy fuses them. ``docs/architecture.md`` says
where things live.
"""

import os
from pathlib import Path

__version__ = "0.1.0"

# Flower, Ray and MLflow read these when they are first imported, always later than this line.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

# ``strategies`` and ``scenarios`` are symbolic links to the folders beside this one. A checkout
# without such links, as on Windows, and the bundle that Flower makes have those folders alone.
_here = Path(__file__).resolve().parent
if not (_here / "strategies").is_dir():
    __path__.append(str(_here.parent))
