"""Data and models that the scripts of this folder name by import path, and what they share."""

import csv
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedkd.data.sources import Rows
from fedkd.tasks.text.language_models import Decoder, Gru


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Random images: the same work as real ones of that shape, no accuracy to speak of."""

    side: int = 28
    """Height and width."""
    channels: int = 1
    """1 or 3."""
    train_rows: int = 25_000
    """Rows to divide among the clients and the public set; 5,000 more are for tests."""

    def content_key(self) -> str:
        """Return the key of the prepared form."""
        return f"synthetic-{self.side}-{self.channels}-{self.train_rows}"

    def load(self) -> Rows:
        """Draw the images with labels."""
        stream, rows = np.random.default_rng(0), self.train_rows + 5_000
        images = stream.integers(
            0, 256, (rows, self.side, self.side, self.channels), dtype=np.uint8
        )
        return Rows(
            images, stream.integers(0, 10, rows), self.train_rows, tuple(map(str, range(10))), {}
        )


@dataclass(frozen=True, kw_only=True)
class Npz:
    """Real images in one file, as ``make_data.py`` writes it: smaller than a folder of parquet."""

    path: str
    """The file: arrays images [n, H, W, channels] uint8, labels [n], train_size."""

    def content_key(self) -> str:
        """Return a hash of the file."""
        return f"npz-{sha256(Path(self.path).read_bytes()).hexdigest()[:24]}"

    def load(self) -> Rows:
        """Read it."""
        with np.load(self.path) as file:
            images, labels, size = (
                file["images"],
                file["labels"].astype(np.int64),
                int(file["train_size"]),
            )
        return Rows(images, labels, size, tuple(str(c) for c in range(int(labels.max()) + 1)), {})


def dropout_mlp(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a perceptron that draws random numbers in training."""
    pixels = int(np.prod(input_shape))
    return nn.Sequential(
        nn.Flatten(), nn.Linear(pixels, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, classes)
    )


def small_gru(vocabulary_size: int, context: int) -> nn.Module:
    """Return a recurrent language model that trains in a second."""
    return Gru(vocabulary_size, width=16, hidden=32, layers=1)


def small_decoder(vocabulary_size: int, context: int) -> nn.Module:
    """Return a transformer that trains in a second."""
    return Decoder(vocabulary_size, context, width=16, heads=2, layers=1)


def w_like(
    clients: int,
    models: Sequence[str],
    *,
    private: int = 500,
    public: int = 1000,
    side: int = 28,
    channels: int = 1,
    tests: int = 10,
    rounds: int = 3,
    **changes: Any,
) -> dict[str, Any]:
    """Return workload W's settings, its size changed."""
    rows = max(25_000, clients * private + 3 * public)
    return {
        "name": "w",
        "partition": "iid",
        "clients": clients,
        "samples_per_client": private,
        "models": list(models),
        "data": {"name": "cases:Synthetic", "side": side, "channels": channels, "train_rows": rows},
        "public": {"size": public},
        "test": {"global_size": tests, "private_size": 1},
        "strategy": "fedmd",
        "rounds": rounds,
        "train": {"batch_size": 32},
        "engine": {"name": "local", "workers": 1},
        "distill": {"batch_size": 64, "loss": "kl", "temperature": 2.0},
        "baseline": "none",
        **changes,
    }


def device_or_exit(program: str, dry_run: bool) -> torch.device:
    """Return the device; ends the program where there is no GPU and this is no dry run."""
    if dry_run:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SystemExit(
            f"{program}: PyTorch {torch.__version__} finds no CUDA device here;"
            " --dry-run tries it on the CPU"
        )
    return torch.device("cuda")


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the figures depend on."""
    about: dict[str, Any] = {
        "torch": torch.__version__,
        "device": "CPU (dry run)",
        "tf32_in_convolutions": None,
    }
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        about |= {
            "device": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "memory_gib": round(total / 2**30, 1),
            "free_gib": round(free / 2**30, 1),
            "tf32_in_convolutions": torch.backends.cudnn.allow_tf32,
        }
    return about


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Budget:
    """Seconds that a program may take; whoever would go beyond is skipped."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._until - time.monotonic()


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let convolutions round their inputs to TF32, PyTorch's default on a GPU, or not."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def filled(wanted: bool) -> Iterator[None]:
    """Let PyTorch fill memory before it is used where algorithms must repeat, or not."""
    settings: Any = torch.utils.deterministic
    before = settings.fill_uninitialized_memory
    settings.fill_uninitialized_memory = wanted
    try:
        yield
    finally:
        settings.fill_uninitialized_memory = before


VOLATILE = ("seconds",)
LOSSES = ("train_loss", "distill_loss", "local_nll", "global_nll")
ACCURACIES = ("personal_accuracy", "global_accuracy")


def figures(folder: Path) -> dict[str, Any]:
    """Return what a run wrote, without times."""
    with (folder / "clients.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in VOLATILE} for row in csv.DictReader(file)]
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "clients": rows,
        "knowledge": summary.get("knowledge_sha256"),
        "exposure": summary.get("exposure"),
    }


def failures(found: dict[str, Any]) -> list[str]:
    """Return why clients failed, each reason once."""
    return sorted(
        {
            f"{row['status']}: {row['reason']}"
            for row in found["clients"]
            if row["status"] not in ("ok", "absent")
        }
    )


def apart(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float]:
    """Return the largest differences of two runs: of losses, relative, and of accuracies."""
    losses, accuracies = 0.0, 0.0
    for a, b in zip(one["clients"], other["clients"], strict=True):
        for name in LOSSES:
            if a.get(name) and b.get(name):
                x, y = float(a[name]), float(b[name])
                losses = max(losses, abs(x - y) / max(abs(x), 1e-3))
        for name in ACCURACIES:
            if a.get(name) and b.get(name):
                accuracies = max(accuracies, abs(float(a[name]) - float(b[name])))
    return (math.inf if math.isnan(losses) else losses), accuracies
