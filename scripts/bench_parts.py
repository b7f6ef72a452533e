"""Benchmarks of single parts of fedkd: batched training of clients, checkpoints, and fusion."""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measuring import Row, own_memory_gb, restart_own_peak, script, seconds, shown, watch
from torch import nn
from workload import workload

from fedkd.experiment.build import build
from fedkd.experiment.run import run
from fedkd.federation.batch_trials import Tried, depends_on_batch, pays
from fedkd.federation.batched_training import Pool, optimize_together
from fedkd.messages import Cohort
from fedkd.models.factory import ImageModelSpec
from fedkd.models.product_convolutions import as_products, convolutions_of
from fedkd.report.report_settings import Report
from fedkd.runtime.devices import deterministic
from fedkd.storage.checkpoint import Checkpoints
from fedkd.strategies.fedmd import FedMD
from fedkd.strategies.knfu import KnFu
from fedkd.training.hyperparameters import Phase
from fedkd.training.loop import optimize

SAMPLES, BATCH = 40, 8
UPLOADS, PUBLIC, CLASSES = 100, 10_000, 100


@dataclass(frozen=True)
class Batched:
    """Clients of one architecture to be trained, one by one and together."""

    label: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    """Of one input."""
    clients: int
    samples: int = SAMPLES
    batch_size: int = BATCH
    products: bool = False
    """Whether the batch's convolutions are products of matrices."""


def batching_speedup(work: Batched, device: torch.device, turns: int) -> list[float]:
    """Return the speedup of batched over separate training for an epoch with Adam, per turn.

    Measured in CPU seconds of one thread, on a GPU in wall seconds.
    """
    model, clients, samples = work.build().to(device), work.clients, work.samples
    x, y = (
        torch.randn(clients, samples, *work.shape, device=device),
        torch.randint(10, (clients, samples), device=device),
    )
    states = {name: torch.stack([value] * clients) for name, value in model.state_dict().items()}
    phase, pools = Phase(batch_size=work.batch_size), (Pool.of_each(list(x)), Pool.of_each(list(y)))

    def loop() -> None:
        for i in range(clients):
            model.load_state_dict({name: values[i] for name, values in states.items()})

            def batch_loss(batch: torch.Tensor, i: int = i) -> torch.Tensor:
                return F.cross_entropy(model(x[i][batch]), y[i][batch])

            optimize(model, samples, batch_loss, phase, np.random.default_rng(i))

    def batched() -> None:
        streams = [np.random.default_rng(i) for i in range(clients)]
        with as_products(model, work.products):
            optimize_together(
                model, states, [samples] * clients, *pools, F.cross_entropy, phase, streams
            )

    def took(call: Callable[[], None]) -> float:
        if device.type == "cpu":
            return seconds(call)[0]
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start

    with deterministic(torch.device("cpu")):
        ratios = [took(loop) / took(batched) for _ in range(turns + 1)]
    return ratios[1:]  # the first turn warms up


def together_rows(clients: int, device_name: str, turns: int = 8) -> list[Row]:
    """Return the row of batched training in the table."""
    device = torch.device(device_name)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("bench: --device cuda, but PyTorch finds no CUDA device here")
    what = (
        f"wall time on {torch.cuda.get_device_name(device)}"
        if device.type == "cuda"
        else "CPU seconds"
    )
    name = f"{clients} perceptrons 64-32-10, batches of {BATCH}, one by one / together, {what}"
    return [(name, shown(batching_speedup(small(clients), device, turns)), ">= 4")]


def small(clients: int) -> Batched:
    """Return clients with perceptrons 64-32-10."""
    return Batched(
        "perceptrons 64-32-10",
        lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        (64,),
        clients,
    )


def auto_rows(turns: int = 4) -> list[Row]:
    """Return what ``batch_clients=auto`` takes on this CPU, and how fast it is against the loop."""
    digits, grey = (1, 8, 8), (1, 28, 28)
    works = [
        ("mlp", digits, 50, SAMPLES, BATCH),
        ("mlp", digits, 4, SAMPLES, BATCH),
        ("mlp", grey, 7, 500, 32),
        ("vit", grey, 4, 96, 32),
        ("cnn", digits, 20, SAMPLES, BATCH),
        ("cnn", grey, 7, 96, 32),
        ("resnet", digits, 20, SAMPLES, BATCH),
    ]
    return [row for work in works for row in _auto_row(*work, turns)]


def _auto_row(
    name: str, shape: tuple[int, int, int], clients: int, samples: int, batch: int, turns: int
) -> list[Row]:
    """Return the row of some clients in the table.

    Args:
        name: The architecture.
        shape: An image's.
        clients: How many they are.
        samples: How many each has.
        batch: The size of a batch.
        turns: How often both ways are measured.
    """
    cpu, spec = torch.device("cpu"), ImageModelSpec(name, shape, 10)
    products = bool(convolutions_of(spec.build(0)))  # as auto takes them on a CPU
    label = f"batch_clients=auto, {clients} {name} {'x'.join(map(str, shape))}, batches of {batch}"
    with deterministic(cpu):
        if depends_on_batch(spec, batch, products=products):
            return [(label, "one by one: bits depend on the batch", "")]
        tried = Tried(spec, [samples] * clients, Phase(batch_size=batch), cpu)
        taken = pays(tried, products=products)
    work = Batched(label, lambda: spec.build(0), shape, clients, samples, batch, products)
    found = shown(batching_speedup(work, cpu, turns))
    said = "together" if taken else "one by one"
    return [(f"{label}: takes {said}; one by one / together", found, ">= 0.95 where taken")]


def checkpoint_cost(data: str | None, turns: int, rounds: int = 1) -> list[dict[str, float]]:
    """Return the CPU and wall seconds of W with and without a checkpoint per round, by turn."""
    found = []
    for turn in range(turns + 1):
        figures: dict[str, float] = {}
        for every in (0, 1) if turn % 2 else (1, 0):
            with tempfile.TemporaryDirectory(prefix="fedkd-bench-") as temporary:
                scenario = workload(data, rounds, 1).changed(
                    checkpoint=Checkpoints(every=every), report=Report(console=False, plots=False)
                )
                call = Run(scenario, Path(temporary) / "run")
                figures[f"cpu_{every}"], figures[f"wall_{every}"] = seconds(call)
        found.append(figures)
    return found[1:]  # the first turn warms up


class Run:
    """A call that runs a scenario into a folder, as a user does."""

    def __init__(self, scenario: Any, folder: Path) -> None:
        self.scenario, self.folder = scenario, folder

    def __call__(self) -> None:
        """Run the scenario."""
        run(self.scenario, self.folder)


def fusion_cost(what: str, turns: int = 8) -> dict[str, Any]:
    """Return milliseconds and extra peak memory of fusing 100 uploads of 10,000 x 100 values.

    ``what`` is "mean" or "knfu". Measured in this process.
    """
    stream = torch.Generator().manual_seed(0)
    values = torch.randn(UPLOADS, PUBLIC, CLASSES, generator=stream)
    uploads = list(values)

    def mean() -> object:
        running = FedMD().accumulator(None)
        for i, upload in enumerate(uploads):
            running.add(i, upload)
        return running.fuse()

    def knfu() -> object:
        ids = torch.arange(PUBLIC)
        cohort = Cohort(round=1, client_ids=tuple(range(UPLOADS)), public_ids=ids, values=values)
        return KnFu().fuse(cohort, None)

    call = {"mean": mean, "knfu": knfu}[what]
    with deterministic(torch.device("cpu")):
        before = own_memory_gb("VmRSS")
        restart_own_peak()
        call()
        extra = own_memory_gb("VmHWM") - before
        took = [seconds(call) for _ in range(turns)]
        return {
            "ms": [1000 * cpu for cpu, _ in took],
            "wall_ms": [1000 * wall for _, wall in took],
            "extra_mb": 1000 * extra,
        }


def part_rows(data: str | None, turns: int) -> list[Row]:
    """Return the rows of checkpoints and fusion in the table."""
    build(workload(data, 1, 1), threading.Event())  # prepares the data and the division
    costs = checkpoint_cost(data, turns)
    fusions = {
        what: json.loads(watch(script("bench_parts.py", what), memory=False).result)
        for what in ("mean", "knfu")
    }
    size = f"{UPLOADS} uploads of {PUBLIC:,} x {CLASSES}"
    more = [100 * (cost["cpu_1"] / cost["cpu_0"] - 1) for cost in costs]
    whole = 100 * (sum(cost["cpu_1"] for cost in costs) / sum(cost["cpu_0"] for cost in costs) - 1)
    wall = [100 * (cost["wall_1"] / cost["wall_0"] - 1) for cost in costs]
    return [
        (
            "W, a checkpoint each round, more CPU seconds than without",
            shown(more, " %", 1),
            "<= 5 %",
        ),
        ("the same, of the sums over all turns", f"{whole:.1f} %", "<= 5 %"),
        ("the same, wall time", shown(wall, " %", 1), ""),
        (
            f"mean of {size}, one after the other, CPU",
            shown(fusions["mean"]["ms"], " ms", 0),
            "<= 40 ms",
        ),
        (
            "the same, peak memory beside the uploads (one is 4 MB)",
            f"{fusions['mean']['extra_mb']:.0f} MB",
            "",
        ),
        (
            f"KnFu of {size}, CPU seconds of all cores",
            shown([ms / 1000 for ms in fusions["knfu"]["ms"]], " s"),
            "<= 0.8 s",
        ),
        (
            "the same, wall time",
            shown([ms / 1000 for ms in fusions["knfu"]["wall_ms"]], " s"),
            "<= 0.8 s",
        ),
        (
            "the same, peak memory beside the uploads (all are 400 MB)",
            f"{fusions['knfu']['extra_mb']:.0f} MB",
            "",
        ),
    ]


if __name__ == "__main__":
    print(json.dumps(fusion_cost(sys.argv[1])), flush=True)
