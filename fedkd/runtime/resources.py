"""The resources of a run in this process: seconds, and the most memory that it held."""

import sys
import time
from pathlib import Path

import torch


class Resources:
    """Measures from when it is made; memory that was held before counts as far as it stays."""

    def __init__(self, seconds_before: float = 0.0) -> None:
        """Begin; ``seconds_before`` are those that a run which goes on has taken already."""
        self._started = time.perf_counter() - seconds_before
        self._resets = _reset_peak()
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()

    def seconds(self) -> float:
        """Return how long it has taken."""
        return time.perf_counter() - self._started

    def peak_memory(self) -> dict[str, int | None]:
        """Return the most bytes that this process held, and of CUDA's memory; None is unknown.

        Where the system cannot count anew, it is since the process began. Processes of Ray are not
        counted.
        """
        held = _peak_on_linux() if self._resets else _peak_elsewhere()
        cuda = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None
        return {"peak_memory_bytes": held, "peak_cuda_bytes": cuda}


def _reset_peak() -> bool:
    """Return whether Linux has begun to count the peak anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return _peak_on_linux() is not None


def _peak_on_linux() -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def _peak_elsewhere() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
