"""A client that does what a file says, for ``fault_table.py``: it raises, exits, hangs, lies.

The file is named by the environment variable FEDKD_FAULT, which every process of a run inherits.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

VARIABLE = "FEDKD_FAULT"
PROBE = 2
"""Samples on which a model is tried before anything runs."""
LASTING = "lies"
"""The fault that is there for as long as the file is; every other takes the file away."""


def _interrupt() -> None:
    raise KeyboardInterrupt


def _raise() -> None:
    raise RuntimeError("as the file says")


DEEDS: dict[str, Callable[[], object]] = {
    "raises": _raise,
    "raises KeyboardInterrupt": _interrupt,
    "ends its process": lambda: os._exit(4),
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hangs": lambda: time.sleep(180),
    "leaves a thread": lambda: threading.Thread(target=time.sleep, args=(300,)).start(),
    "leaves a process": lambda: subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(30)"]
    ),
}


class Faulty(nn.Module):
    """A linear model that looks at the file before each batch."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits, or do what the file says; a liar's are NaN where it is asked for them."""
        told = _told(len(x)) if self.training else _lasting()
        if told in DEEDS:
            DEEDS[told]()
        logits: torch.Tensor = self.inner(x)
        return logits * torch.nan if told == LASTING and not self.training else logits


def net(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return the faulty client's model."""
    return Faulty(input_shape[0] * input_shape[1] * input_shape[2], classes)


def _lasting() -> str:
    path = Path(os.environ.get(VARIABLE, "nowhere"))
    return LASTING if path.exists() and path.read_text() == LASTING else ""


def _told(samples: int) -> str:
    """Return what the file says to the one process that takes it.

    Every process of a run tries every model; that is not yet the client at work.
    """
    if samples <= PROBE:
        return ""
    path = Path(os.environ.get(VARIABLE, "nowhere"))
    if not path.exists() or _lasting():
        return ""
    mine = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.rename(mine)
        told = mine.read_text()
        mine.unlink()
    except FileNotFoundError:
        return ""
    return told
