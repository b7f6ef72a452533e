"""Workloads of the benchmarks, and the plain PyTorch loop to compare with.

They are workload W, a hundred tiny clients, and federations of growing size. Data and models have
import paths, so that worker processes find them too.
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
    """Random images in the shape of Fashion-MNIST, on which accuracy has no meaning."""

    train_rows: int = 25_000
    """Rows to divide among the clients and the public set."""

    def content_key(self) -> str:
        """Return a key of the number of rows."""
        return f"synthetic-fashion-{self.train_rows}"

    def load(self) -> Rows:
        """Return random images with random labels."""
        stream, rows = np.random.default_rng(0), self.train_rows + TEST_ROWS
        images = stream.integers(0, 256, (rows, 28, 28, 1), dtype=np.uint8)
        return Rows(
            images, stream.integers(0, 10, rows), self.train_rows, tuple(map(str, range(10))), {}
        )


@dataclass(frozen=True, kw_only=True)
class NoisyDigits:
    """scikit-learn's digits, drawn with replacement and with noise: more images than its 1,797."""

    train_rows: int = 6_000
    """Rows to divide among the clients and the public set."""

    def content_key(self) -> str:
        """Return a key of the number of rows."""
        return f"noisy-digits-{self.train_rows}"

    def load(self) -> Rows:
        """Return noisy digits; training and test split are drawn from disjoint sets of digits."""
        from sklearn.datasets import load_digits

        digits, stream = load_digits(), np.random.default_rng(0)
        split, whole = 1_400, len(digits.target)
        train = stream.integers(0, split, self.train_rows)
        rows = np.concatenate([train, stream.integers(split, whole, TEST_ROWS)])
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
    """Return a perceptron with 32 hidden units: 2,410 parameters on digits."""
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
    """Return workload W as a scenario, on the CPU.

    Args:
        data: A folder of Fashion-MNIST, or None for synthetic images.
        rounds: Rounds.
        workers: Workers of the engine.
        engine: The engine.
        test_images: Size of the global test set.
        changes: Other settings.
    """
    values: dict[str, Any] = yaml.safe_load((ROOT / "scenarios" / "workload_w.yaml").read_text())
    values |= {
        "name": "workload_w",
        "rounds": rounds,
        "engine": {"name": engine, "workers": workers},
        "device": "cpu",
    }
    values |= {"test": {"global_size": test_images, "private_size": 1}, "baseline": "none"}
    values["data"] = (
        "workload:SyntheticFashion" if data is None else {"name": "fashion_mnist", "path": data}
    )
    return Scenario.parse(values | changes)


def tiny_clients(rounds: int, *, batch_clients: str) -> Scenario:
    """Return a scenario of 100 small clients: 20 private samples, perceptrons 64-32-10.

    There are 200 public samples; batches are of 8. ``batch_clients`` is the setting of that name.
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
            "batch_clients": batch_clients,
            "baseline": "none",
        }
    )


def growing(clients: int, *, participation: float, store: str, rounds: int) -> Scenario:
    """Return a scenario of perceptrons 784-128-10 with about 5 private and 100 public samples.

    Args:
        clients: The number of clients.
        participation: Share of them that take part in a round.
        store: The setting ``client_store``, "memory" or "disk".
        rounds: Rounds.
    """
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
            "client_store": store,
            "device": "cpu",
            "engine": {"name": "local", "workers": 1},
            "baseline": "none",
        }
    )


def plain_loop(
    experiment: Experiment,
    rounds: int,
    on_round: Callable[[], object] = lambda: None,
    *,
    measures: bool = False,
) -> Callable[[], None]:
    """Return FedMD as a plain PyTorch loop over tensors in memory, without a framework.

    Args:
        experiment: Its data, models and settings.
        rounds: Rounds.
        on_round: Called after each round.
        measures: Whether each model's accuracy and likelihood are found on both test sets, after
            training and after distillation, as in a run.
    """
    context, settings = experiment.context, experiment.scenario
    tensors = [context.samples(rows) for rows in context.division.train]
    public = context.public_inputs
    models = [architecture.build(i) for i, architecture in enumerate(context.architectures)]
    tests = [(context.samples(rows), context.global_test) for rows in context.division.test]

    def batches(count: int, size: int) -> Iterator[torch.Tensor]:
        yield from torch.split(torch.randperm(count), size)

    def predicted(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([model(part) for part in torch.split(x, 256)])

    def measure(model: nn.Module, client: int) -> list[tuple[float, float]]:
        model.eval()
        found = [(predicted(model, x), y) for x, y in tests[client]] if measures else []
        return [
            ((z.argmax(1) == y).float().mean().item(), F.cross_entropy(z, y).item())
            for z, y in found
        ]

    def loop() -> None:
        for _ in range(rounds):
            logits = []
            for client, (model, (x, y)) in enumerate(zip(models, tensors, strict=True)):
                model.train()
                optimizer = torch.optim.Adam(model.parameters(), lr=settings.train.learning_rate)
                for batch in batches(len(y), settings.train.batch_size):
                    optimizer.zero_grad()
                    F.cross_entropy(model(x[batch]), y[batch]).backward()
                    optimizer.step()
                measure(model, client)
                logits.append(predicted(model, public))
            target = torch.softmax(torch.stack(logits).mean(0) / 2.0, dim=-1)
            for client, model in enumerate(models):
                model.train()
                optimizer = torch.optim.Adam(model.parameters(), lr=settings.distill.learning_rate)
                for batch in batches(len(public), settings.distill.batch_size):
                    optimizer.zero_grad()
                    log_probs = F.log_softmax(model(public[batch]) / 2.0, dim=-1)
                    (4.0 * F.kl_div(log_probs, target[batch], reduction="batchmean")).backward()
                    optimizer.step()
                measure(model, client)
            on_round()

    return loop
