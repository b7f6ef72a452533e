"""FedProto's Table 1 on MNIST (Tan et al. 2022, arXiv 2105.00243), beside its published figures.

Twenty clients, each with n classes in the mean (give or take two), 99 or 100 training and 40 test
images of each, as in the released code (``partition=n_way``). A row has three readings of one run:
accuracy of the last layer; of the nearest prototype of a client's own classes; and what the
released script prints, ``running_count``. Test images are training images that nobody trains on,
where the released code takes them from the test set.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from fedkd.cli.carrying_out import run_tasks
from fedkd.cli.studies.study import Study
from fedkd.errors import RunError
from fedkd.report.comparison.run_reader import read_run

NAMES = ("3", "4", "5")
"""The values of n, which select parts of the table."""
ROUNDS = {"local_only": 100, "fedavg": 150, "fedproto": 100, "fedproto-mh": 100}
"""The paper's, but for local training, of which it says none."""
PUBLISHED: Mapping[str, tuple[str, str, str]] = {
    "local_only": ("94.05 ± 2.93", "93.35 ± 3.26", "92.92 ± 3.17"),
    "fedavg": ("95.04 ± 6.48", "94.32 ± 4.89", "93.22 ± 4.39"),
    "fedproto": ("97.13 ± 0.30", "96.80 ± 0.41", "96.70 ± 0.29"),
    "fedproto-mh": ("97.07 ± 0.50", "96.65 ± 0.31", "96.22 ± 0.36"),
}
"""Mean and standard deviation by n, as the paper's Table 1 gives them."""
TEST_PER_CLASS = 40
ONE, THREE = f"models=[{__name__}:cnn20]", f"{__name__}:cnn18,{__name__}:cnn20"
SETTINGS: Mapping[str, str] = {
    "local_only": f"local_only {ONE}",
    "fedavg": f"fedavg {ONE}",
    "fedproto": f"fedproto strategy.mean=plain {ONE}",
    "fedproto-mh": f"fedproto strategy.mean=plain models=[{THREE},{__name__}:cnn22]",
}


class DroppedLinear(nn.Linear):
    """A last layer with dropout inside, so that features are what comes before the dropout."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of features."""
        return super().forward(F.dropout(features, training=self.training))


def network(channels: int, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return the paper's network for MNIST, its second convolution with so many channels."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 10, kernel_size=5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(10, channels, kernel_size=5),
        nn.Dropout2d(),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * channels, 50),
        nn.ReLU(),
        DroppedLinear(50, classes),
    )


def cnn18(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return the smallest network of the heterogeneous form."""
    return network(18, input_shape, classes)


def cnn20(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return the network of all clients, or the middle one of the heterogeneous form."""
    return network(20, input_shape, classes)


def cnn22(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return the largest network of the heterogeneous form."""
    return network(22, input_shape, classes)


TABLE = Study(
    name="fedproto",
    title="FedProto's Table 1, MNIST",
    data="mnist",
    base=(
        "clients=20",
        "partition=n_way",
        "partition.spread=2",
        "partition.samples_per_class=140",
        "partition.samples_spread=1",
        "samples_per_client=null",
        "test.private_fraction=0.2857",
        "test.private_stratified=true",
        "test.global_size=100",
        "public.size=0",
        "public.reserved=500",
        "train.epochs=1",
        "train.batch_size=4",
        "train.optimizer=sgd",
        "train.learning_rate=0.01",
        "train.momentum=0.5",
    ),
    methods="",
    claims=(),
)


@dataclass(frozen=True)
class Readings:
    """One run's accuracies by client [K], by three ways to read them; None where there is none."""

    head: np.ndarray
    nearest: np.ndarray | None
    script: np.ndarray

    @staticmethod
    def of_run(folder: Path) -> "Readings":
        """Return the readings of a finished run's last round."""
        run = read_run(folder)
        at = run.at(run.first)
        head = at.of_client("personal_accuracy")[-1]
        nearest = at.of_client("knowledge_accuracy")[-1]
        classes = np.round(at.of_client("train_size")[-1] / 100)
        known = None if np.isnan(nearest).any() else nearest
        return Readings(head, known, running_count(head, known, TEST_PER_CLASS * classes))


def running_count(head: np.ndarray, nearest: np.ndarray | None, sizes: np.ndarray) -> np.ndarray:
    """Return the "accuracies" of clients as the released script counts them.

    It never sets its counts of hits and of images back, neither between clients nor between the
    pass of the last layer and that of prototypes: client i's figure is the share of hits of both
    among clients 0 to i.

    Args:
        head: Accuracy of each client's last layer.
        nearest: That of its nearest prototype; None for a method without prototypes.
        sizes: Test images of each client.

    >>> running_count(np.array([1.0, 0.5]), np.array([0.5, 0.0]), np.array([10, 10])).tolist()
    [0.75, 0.5]
    """
    passes = [head] if nearest is None else [head, nearest]
    hits = sum(passes) * sizes
    counted: np.ndarray = np.cumsum(hits) / np.cumsum(len(passes) * sizes)
    return counted


def study_of(method: str, rounds: int | None, ways: Sequence[str] = NAMES) -> Study:
    """Return the study of one method, with the paper's rounds unless others are given."""
    base = (*TABLE.base, f"rounds={ROUNDS[method] if rounds is None else rounds}")
    return replace(
        TABLE,
        name=f"fedproto/{method}",
        base=base,
        methods=f"{method}={SETTINGS[method]}",
        grid=(f"partition.ways={','.join(ways)}",),
    )


def report(
    seeds: int,
    out: Path,
    jobs: int,
    console: Console,
    data: Path | None,
    rounds: int | None,
    ways: Sequence[str] = NAMES,
) -> str:
    """Run what is not complete, write the table and each client's readings, and return the table.

    Raises RunError if a run failed.

    Args:
        seeds: The number of seeds.
        out: The folder of the runs and figures.
        jobs: Runs at a time.
        console: Where progress is printed.
        data: A folder of data sets, or None for the hub.
        rounds: Rounds of every run; None is the paper's.
        ways: The values of n.
    """
    found: dict[tuple[str, str], list[Readings]] = {}
    for method in SETTINGS:
        cells = study_of(method, rounds, ways).cells(seeds, out, jobs, data)
        console.print(f"{method}: ", end="")
        failed = run_tasks([cell.task for cell in cells], jobs, console)
        if failed:
            raise RunError("; ".join(f"{outcome.task.name}: {outcome.error}" for outcome in failed))
        for cell in cells:
            n = cell.setting[0][1]
            found.setdefault((method, n), []).append(Readings.of_run(cell.task.folder))
    write_csv(found, out / "fedproto_table.csv")
    took = ROUNDS if rounds is None else dict.fromkeys(SETTINGS, rounds)
    text = "\n\n".join([
        f"## {TABLE.title}",
        table(found),
        f"Accuracy in %: mean ± standard deviation over 20 clients, each the mean over {seeds}"
        " seeds, after the last round. Rounds: "
        + ", ".join(f"{m} {n} (paper: {_paper(m)})" for m, n in took.items())
        + ".",
    ])  # fmt: skip
    (out / "fedproto_table.md").write_text(text + "\n")
    return text + "\n"


def _paper(method: str) -> str:
    return "not said" if method == "local_only" else str(ROUNDS[method])


def table(found: Mapping[tuple[str, str], list[Readings]]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| n | method | published | last layer | nearest own prototype | as the released script"
        " counts |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for ways in dict.fromkeys(ways for _, ways in found):
        for method in SETTINGS:
            runs = found[method, ways]
            nearest = [run.nearest for run in runs if run.nearest is not None]
            shown = [
                _mean_and_deviation([run.head for run in runs]),
                _mean_and_deviation(nearest) if len(nearest) == len(runs) else "–",
                _mean_and_deviation([run.script for run in runs]),
            ]
            published = PUBLISHED[method][NAMES.index(ways)]
            lines.append(f"| {ways} | {method} | {published} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _mean_and_deviation(runs: list[np.ndarray]) -> str:
    mean = np.mean([run.mean() for run in runs])
    return f"{100 * mean:.2f} ± {100 * np.mean([run.std() for run in runs]):.2f}"


def write_csv(found: Mapping[tuple[str, str], list[Readings]], path: Path) -> None:
    """Write each client's readings, unrounded."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["n", "method", "seed", "client", "head", "nearest", "script"])
        for (method, ways), runs in found.items():
            for seed, run in enumerate(runs):
                for client, head in enumerate(run.head):
                    nearest = "" if run.nearest is None else repr(float(run.nearest[client]))
                    rows.writerow(
                        [
                            ways,
                            method,
                            seed,
                            client,
                            repr(float(head)),
                            nearest,
                            repr(float(run.script[client])),
                        ]
                    )
