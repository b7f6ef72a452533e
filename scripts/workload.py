"""What the benchmarks run: workload W, a hundred tiny clients, federations that grow, and the loop
to compare with.

Data and models have import paths, so that worker processes find them too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from fedkd.data.sources import Rows
from fedkd.experiment.build import Experiment
from fedkd.scenario.scenario import Scenario

ROOT = Path(__file__).parent.parent
TEST_ROWS = 5_000


@dataclass(frozen=True, kw_only=True)
class SyntheticFashion:
    """Random images in the shape of Fashion-MNIST: the same work for every loop, no accuracy to
    speak of.
    """

    train_rows: int = 25_000
    """Rows to divide among the clients and the public set."""

    def content_key(self) -> str:
        """Return the key of the prepared form."""
        return f"synthetic-fashion-{self.train_rows}"

    def load(self) -> Rows:
        """Draw the images with labels."""
        stream, rows = np.random.default_rng(0), self.train_rows + TEST_ROWS
        images = stream.integers(0, 256, (rows, 28, 28, 1), dtype=np.uint8)
        return Rows(
            images, stream.integers(0, 10, rows), self.train_rows, tuple(map(str, range(10))), {}
        )


@dataclass(frozen=True, kw_only=True)
class NoisyDigits:
    """scikit-learn's digits drawn with replacement, with noise: more 8 x 8 images than its 1,797.
    Tests on others.
    """

    train_rows: int = 6_000
    """Rows to divide among the clients and the public set."""

    def content_key(self) -> str:
        """Return the key of the prepared form."""
        return f"noisy-digits-{self.train_rows}"

    def load(self) -> Rows:
        """Draw the images with labels; those of the test split come from digits that no training
        row comes from.
        """
        from sklearn.datasets import load_digits

        digits, stream = load_digits(), np.random.default_rng(0)
        split, whole = 1_400, len(digits.target)
        rows = np.concatenate(
            [stream.integers(0, split, self.train_rows), stream.integers(split, whole, TEST_ROWS)]
        )
        images = 15 * digits.images[rows] + stream.normal(0, 15, (len(rows), 8, 8))
        pixels = np.clip(images, 0, 255).astype(np.uint8)[..., None]
        return Rows(
            pixels,
            digits.target[rows].astype(np.int64),
            self.train_rows,
            tuple(map(str, range(10))),
            {},
        )


def small_mlp(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return pixels-32-classes with ReLU: 2,410 parameters on 8 x 8 grey images of 10 classes."""
    pixels = int(np.prod(input_shape))
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 32), nn.ReLU(), nn.Linear(32, classes))


def workload(
    data: str | None,
    rounds: int,
    workers: int,
    *,
    engine: str = "local",
    test_images: int = 10,
    **changes: Any,
) -> Scenario:
    """Return workload W as a scenario, on the CPU. ``data`` is a folder; None takes synthetic
    images.
    """
    plain: dict[str, Any] = yaml.safe_load((ROOT / "scenarios" / "workload_w.yaml").read_text())
    plain |= {
        "name": "workload_w",
        "rounds": rounds,
        "engine": {"name": engine, "workers": workers},
        "device": "cpu",
    }
    plain |= {"test": {"global_size": test_images, "private_size": 1}, "baseline": "none"}
    plain["data"] = (
        "workload:SyntheticFashion" if data is None else {"name": "fashion_mnist", "path": data}
    )
    return Scenario.parse(plain | changes)


def tiny_clients(rounds: int, *, together: str) -> Scenario:
    """Return a hundred clients of 20 private and 200 public samples, perceptrons 64-32-10, batches
    of 8.
    """
    return Scenario.parse(
        {
            "name": "tiny_clients",
            "data": "workload:NoisyDigits",
            "partition": "iid",
            "clients": 100,
            "samples_per_client": 20,
            "models": ["workload:small_mlp"],
            "public": {"size": 200},
            "test": {"global_size": 1000, "private_size": 1},
            "strategy": "fedmd",
            "rounds": rounds,
            "train": {"batch_size": 8},
            "distill": {"batch_size": 8, "loss": "kl", "temperature": 2.0},
            "device": "cpu",
            "engine": {"name": "local", "workers": 1},
            "batch_clients": together,
            "baseline": "none",
        }
    )


def growing(clients: int, *, participation: float, state: str, rounds: int) -> Scenario:
    """Return perceptrons of 784-128-10 with some five private samples each and 100 public ones."""
    return Scenario.parse(
        {
            "name": "growing",
            "data": {"name": "workload:SyntheticFashion", "train_rows": 80_000},
            "partition": "iid",
            "clients": clients,
            "samples_per_client": 5,
            "models": ["mlp"],
            "public": {"size": 100},
            "test": {"global_size": 100, "private_size": 1},
            "strategy": "fedmd",
            "distill": {"loss": "kl"},
            "rounds": rounds,
            "participation": participation,
            "client_store": state,
            "device": "cpu",
            "engine": {"name": "local", "workers": 1},
            "baseline": "none",
        }
    )


def plain_loop(
    experiment: Experiment, rounds: int, on_round: Callable[[], object] = lambda: None
) -> Callable[[], None]:
    """Return the loop that a researcher writes by hand, over tensors that are already in memory."""
    context, settings = experiment.context, experiment.scenario
    tensors = [context.samples(rows) for rows in context.division.train]
    public = context.public_inputs
    models = [architecture.build(i) for i, architecture in enumerate(context.architectures)]

    def batches(count: int, size: int) -> Iterator[torch.Tensor]:
        yield from torch.split(torch.randperm(count), size)

    def loop() -> None:
        for _ in range(rounds):
            logits = []
            for model, (x, y) in zip(models, tensors, strict=True):
                model.train()
                optimizer = torch.optim.Adam(model.parameters(), lr=settings.train.learning_rate)
                for batch in batches(len(y), settings.train.batch_size):
                    optimizer.zero_grad()
                    F.cross_entropy(model(x[batch]), y[batch]).backward()
                    optimizer.step()
                model.eval()
                with torch.no_grad():
                    logits.append(torch.cat([model(part) for part in torch.split(public, 256)]))
            target = torch.softmax(torch.stack(logits).mean(0) / 2.0, dim=-1)
            for model in models:
                model.train()
                optimizer = torch.optim.Adam(model.parameters(), lr=settings.distill.learning_rate)
                for batch in batches(len(public), settings.distill.batch_size):
                    optimizer.zero_grad()
                    log_probs = F.log_softmax(model(public[batch]) / 2.0, dim=-1)
                    (4.0 * F.kl_div(log_probs, target[batch], reduction="batchmean")).backward()
                    optimizer.step()
            on_round()

    return loop
