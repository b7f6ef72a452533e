"""Data, models, settings and measurements that the scripts of this folder share."""

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
from fedkd.settings.measuring_points import MEASURING_POINTS, column
from fedkd.tasks.text.language_models import Decoder, Gru

TEXT: dict[str, Any] = {
    "name": "text",
    "data": {"name": "sentences", "texts": 70},
    "partition": {"name": "whole_ids"},
    "clients": 2,
    "models": ["cases:small_gru", "cases:small_decoder"],
    "tokens": {"context": 40, "vocabulary": "characters"},
    "rounds": 1,
    "public": {"size": 14},
    "test": {"global_size": 14},
    "strategy": "fedmd",
    "train": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2},
    "distill": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2},
    "engine": {"name": "local", "workers": 1},
    "baseline": "none",
}
"""Settings of next tokens of text, of a run that takes a second."""


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Random images of a given shape, on which accuracy has no meaning."""

    side: int = 28
    """Height and width."""
    channels: int = 1
    """1 or 3."""
    train_rows: int = 25_000
    """Rows to divide among the clients and the public set; 5,000 more are the test split."""

    def content_key(self) -> str:
        """Return a key of the shape and the number of rows."""
        return f"synthetic-{self.side}-{self.channels}-{self.train_rows}"

    def load(self) -> Rows:
        """Return random images with random labels."""
        stream, rows = np.random.default_rng(0), self.train_rows + 5_000
        images = stream.integers(
            0, 256, (rows, self.side, self.side, self.channels), dtype=np.uint8
        )
        return Rows(
            images, stream.integers(0, 10, rows), self.train_rows, tuple(map(str, range(10))), {}
        )


@dataclass(frozen=True, kw_only=True)
class Npz:
    """Real images in one file, as ``make_data.py`` writes it."""

    path: str
    """A file of the arrays images [n, height, width, channels] uint8, labels [n], train_size."""

    def content_key(self) -> str:
        """Return a hash of the file's content."""
        return f"npz-{sha256(Path(self.path).read_bytes()).hexdigest()[:24]}"

    def load(self) -> Rows:
        """Return the file's images and labels."""
        with np.load(self.path) as file:
            images, labels, size = (
                file["images"],
                file["labels"].astype(np.int64),
                int(file["train_size"]),
            )
        return Rows(images, labels, size, tuple(str(c) for c in range(int(labels.max()) + 1)), {})


def dropout_mlp(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a perceptron with dropout, which draws random numbers in training."""
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
    """Return the settings of a workload like W, of another size.

    Args:
        clients: The number of clients.
        models: Architectures, with counts.
        private: Private samples per client.
        public: Public samples.
        side: Height and width of images.
        channels: 1 or 3.
        tests: Size of the global test set.
        rounds: Rounds.
        changes: Other settings.
    """
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
    """Return the GPU, or the CPU in a dry run; exit the program if there is no GPU."""
    if dry_run:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SystemExit(
            f"{program}: PyTorch {torch.__version__} finds no CUDA device here;"
            " --dry-run tries it on the CPU"
        )
    return torch.device("cuda")


def machine(device: torch.device) -> dict[str, Any]:
    """Return a description of the device and of PyTorch, on which figures depend."""
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
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Budget:
    """The time that a program may take, from now on."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """The remaining seconds, negative after the end."""
        return self._until - time.monotonic()


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in convolutions, PyTorch's default on a GPU, within the context."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def filled(wanted: bool) -> Iterator[None]:
    """Enable or disable filling of uninitialized memory under deterministic algorithms."""
    settings: Any = torch.utils.deterministic
    before = settings.fill_uninitialized_memory
    settings.fill_uninitialized_memory = wanted
    try:
        yield
    finally:
        settings.fill_uninitialized_memory = before


VOLATILE = ("seconds",)
OF_TESTS = [(where, point) for where in ("personal", "global") for point in MEASURING_POINTS]
LOSSES = ("train_loss", "distill_loss", *(column(f"{where}_nll", p) for where, p in OF_TESTS))
ACCURACIES = tuple(column(f"{where}_accuracy", p) for where, p in OF_TESTS)


def figures(folder: Path) -> dict[str, Any]:
    """Return the figures of a run, except times."""
    with (folder / "clients.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in VOLATILE} for row in csv.DictReader(file)]
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "clients": rows,
        "knowledge": summary.get("knowledge_sha256"),
        "exposure": summary.get("exposure"),
    }


def failures(found: dict[str, Any]) -> list[str]:
    """Return the distinct reasons for which clients failed."""
    return sorted(
        {
            f"{row['status']}: {row['reason']}"
            for row in found["clients"]
            if row["status"] not in ("ok", "absent")
        }
    )


def differences(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float]:
    """Return the largest relative difference of losses, and that of accuracies, of two runs."""
    losses, accuracies = 0.0, 0.0
    for a, b in zip(one["clients"], other["clients"], strict=True):
        for name in LOSSES:
            if a[name] and b[name]:
                x, y = float(a[name]), float(b[name])
                losses = max(losses, abs(x - y) / max(abs(x), 1e-3))
        for name in ACCURACIES:
            if a[name] and b[name]:
                accuracies = max(accuracies, abs(float(a[name]) - float(b[name])))
    return (math.inf if math.isnan(losses) else losses), accuracies
