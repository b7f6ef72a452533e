"""A large computation cut along its first axis, for all cores, with the same bits on any number of
them.

Runs give torch one thread an operation, since its own threads change how sums round. Here the cuts
are fixed and each part is one thread's, so that only the time depends on the cores.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

ROWS = 16
"""Rows of a part, unless the caller knows better. Up to as many, nothing is cut."""


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_chunks(compute: Callable[[slice], None], rows: int, at_once: int = ROWS) -> None:
    """Call ``compute`` once for each part of ``rows`` rows, ``at_once`` of them; parts write to
    different places.

    Where torch may use several threads for an operation, parts come one after the other.
    """
    parts = [slice(start, min(start + at_once, rows)) for start in range(0, rows, at_once)]
    workers = min(len(parts), available_cores())
    if workers < 2 or torch.get_num_threads() > 1:
        for part in parts:
            compute(part)
        return
    with ThreadPoolExecutor(
        workers, "fedkd-rows", initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        list(pool.map(compute, parts))
