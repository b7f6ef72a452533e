"""Computing chunks of rows in parallel threads, with the same bits on any number of cores.

Runs give torch one thread per operation, since its own threads change how sums round. Here the
chunks are fixed and each is computed by one thread, so that only the time depends on the cores.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

CHUNK_ROWS = 16
"""Rows per chunk by default. A computation of fewer rows is one chunk."""


def available_cores() -> int:
    """Return the count of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_chunks(compute: Callable[[slice], None], rows: int, chunk_rows: int = CHUNK_ROWS) -> None:
    """Call ``compute`` with the slice of each chunk of ``chunk_rows`` rows, in parallel threads.

    Calls may run at once, so that each must write to its own rows alone. Where torch may use
    several threads for one operation, chunks are computed one after the other.

    >>> doubled = [0] * 5
    >>> def double(chunk: slice) -> None:
    ...     doubled[chunk] = [2 * i for i in range(chunk.start, chunk.stop)]
    >>> map_chunks(double, rows=5, chunk_rows=2)
    >>> doubled
    [0, 2, 4, 6, 8]
    """
    chunks = [slice(start, min(start + chunk_rows, rows)) for start in range(0, rows, chunk_rows)]
    workers = min(len(chunks), available_cores())
    if workers < 2 or torch.get_num_threads() > 1:
        for chunk in chunks:
            compute(chunk)
        return
    with ThreadPoolExecutor(
        workers, "fedkd-rows", initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        list(pool.map(compute, chunks))  # the list raises what a thread raised
