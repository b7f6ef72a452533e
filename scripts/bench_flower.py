"""CPU seconds and memory of fedkd against FedMD on Flower's own simulation (``naive_fedmd.py``).

Each run is a process of its own, measured from outside with all its descendants; runs alternate.
Both sides have the same models, data, epochs and batch sizes, and evaluate every client on the same
test sets in every round.
"""

import json
import statistics
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
from measuring import MARK, Row, Watched, script, shown, watch
from workload import tiny_clients, workload

from fedkd.experiment.build import Experiment, build
from fedkd.experiment.run import execute
from fedkd.federation.round_records import RoundRecord
from fedkd.scenario.scenario import Scenario

ROUNDS = {"W": 3, "tiny": 5}
RUNS = (("W", "naive"), ("W", "never"), ("tiny", "naive"), ("tiny", "never"), ("tiny", "auto"))
"""Workload and side: "naive", or fedkd with this value of ``batch_clients``."""


def scenario_of(what: str, data: str | None, batch_clients: str) -> Scenario:
    """Return the scenario of a workload."""
    if what == "W":
        return workload(data, ROUNDS["W"], 1, test_images=1000, batch_clients=batch_clients)
    return tiny_clients(ROUNDS["tiny"], batch_clients=batch_clients)


def write_for_naive(experiment: Experiment, folder: Path) -> None:
    """Write the tensors and settings of an experiment for ``naive_fedmd.py``."""
    context, scenario = experiment.context, experiment.scenario
    config = {
        "models": [architecture.name for architecture in context.architectures],
        "input_shape": list(context.public_inputs.shape[1:]),
        "classes": context.task.classes,
        "train_epochs": scenario.train.epochs,
        "train_batch_size": scenario.train.batch_size,
        "train_learning_rate": scenario.train.learning_rate,
        "distill_epochs": scenario.distill.epochs,
        "distill_batch_size": scenario.distill.batch_size,
        "distill_learning_rate": scenario.distill.learning_rate,
        "temperature": scenario.distill.temperature,
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.save([context.public_inputs], folder / "public.pt")
    torch.save(list(context.global_test), folder / "test.pt")
    for i in range(len(context.architectures)):
        own = (
            *context.samples(context.division.train[i]),
            *context.samples(context.division.test[i]),
        )
        torch.save(list(own), folder / f"client_{i}.pt")


def compare(data: str | None, turns: int) -> dict[str, Any]:
    """Run all sides in turn, and return their figures by workload and side."""
    found: dict[tuple[str, str], list[Watched]] = {run: [] for run in RUNS}
    with tempfile.TemporaryDirectory(prefix="fedkd-bench-") as temporary:
        for what in ROUNDS:  # prepares the data and the division for both
            folder = Path(temporary) / what
            folder.mkdir()
            write_for_naive(build(scenario_of(what, data, "never"), threading.Event()), folder)
        for _ in range(turns):
            for what, side in RUNS:
                given = {
                    "what": what,
                    "side": side,
                    "data": data,
                    "folder": str(Path(temporary) / what),
                }
                found[what, side].append(watch(script("bench_flower.py", json.dumps(given))))
    return {
        f"{what} {side}": [_figures(watched, ROUNDS[what]) for watched in runs]
        for (what, side), runs in found.items()
    }


def _figures(watched: Watched, rounds: int) -> dict[str, float]:
    cpu, wall = watched.between("round 1", f"round {rounds}")
    return {
        "round_cpu_s": cpu / (rounds - 1),
        "round_wall_s": wall / (rounds - 1),
        "cpu_s": watched.cpu_s,
        "wall_s": watched.wall_s,
        "peak_gb": watched.peak_gb,
        "accuracy": float(watched.result),
    }


def rows(figures: dict[str, Any]) -> list[Row]:
    """Return the figures as rows of the table."""

    def ratio(what: str, side: str, figure: str) -> str:
        pairs = zip(figures[f"{what} naive"], figures[f"{what} {side}"], strict=True)
        return shown([naive[figure] / ours[figure] for naive, ours in pairs])

    def median(run: str, figure: str) -> float:
        return float(statistics.median(turn[figure] for turn in figures[run]))

    found: list[Row] = []
    for what, side, target in (
        ("W", "never", ">= 1.3"),
        ("tiny", "auto", ">= 8"),
        ("tiny", "never", ""),
    ):
        name = {"W": "W", "tiny": f"100 tiny clients, batch_clients={side}"}[what]
        found += [
            (
                f"{name}: naive Flower / fedkd, CPU s a round after the first",
                ratio(what, side, "round_cpu_s"),
                target,
            ),
            (
                f"{name}: the same, wall time (naive 2 actors, fedkd 1 worker)",
                ratio(what, side, "round_wall_s"),
                "",
            ),
            (
                f"{name}: the same, CPU seconds of the whole run with its start",
                ratio(what, side, "cpu_s"),
                "",
            ),
            (
                f"{name}: the same, peak memory of all processes (PSS)",
                ratio(what, side, "peak_gb"),
                ">= 4",
            ),
        ]
    for run in figures:
        what, _, side = run.partition(" ")
        values = (
            f"{median(run, 'round_cpu_s'):.2f} CPU s a round, {median(run, 'round_wall_s'):.2f} s"
            f" wall, {median(run, 'cpu_s'):.1f} CPU s the run of {ROUNDS[what]} rounds,"
            f" {median(run, 'wall_s'):.1f} s wall, {median(run, 'peak_gb'):.2f} GB,"
            f" accuracy {100 * median(run, 'accuracy'):.1f} %"
        )
        label = "naive Flower" if side == "naive" else f"fedkd, batch_clients={side}"
        found.append((f"{what}: {label}: medians", values, ""))
    return found


def main(given: dict[str, Any]) -> None:
    """Run one side in this process."""
    scenario = scenario_of(
        given["what"], given["data"], "never" if given["side"] == "naive" else given["side"]
    )
    if given["side"] == "naive":
        import naive_fedmd

        naive_fedmd.run(given["folder"], scenario.protocol.rounds, scenario.federation.clients)
        return
    stop, last = threading.Event(), []

    def on_round(record: RoundRecord) -> None:
        last.append(record)
        print(f"{MARK}round {record.round}", flush=True)

    execute(build(scenario, stop), on_round, stop)
    found = (client.after_distillation.global_accuracy for client in last[-1].clients)
    accuracies = [accuracy for accuracy in found if accuracy is not None]
    print(statistics.mean(accuracies), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
