"""One thread for numerical libraries outside of torch, so that sums do not depend on the machine.

Those of OpenMP and BLAS that scikit-learn, XGBoost and LightGBM use. Not for: torch's own threads
(``fedkd.runtime.devices``).
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_lock = threading.Lock()
_blas: list[Any] = []
"""The limit of BLAS, once for each thread that is inside: it holds for the whole process."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Run a block in which OpenMP and BLAS compute on the calling thread alone."""
    controller = _controller(frozenset({"sklearn", "xgboost", "lightgbm"} & sys.modules.keys()))
    with _lock:
        blas = controller.select(user_api="blas")
        _blas.append(_blas[0] if _blas else blas.limit(limits=1))
    try:
        with controller.select(user_api="openmp").limit(limits=1):  # of this thread
            yield
    finally:
        with _lock:
            limit = _blas.pop()
            if not _blas:
                limit.restore_original_limits()


@cache
def _controller(loaded: frozenset[str]) -> Any:
    """Return what controls the threads of the libraries that are loaded."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
