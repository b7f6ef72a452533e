"""Run Selective-FD's hardest published setting, and two methods to compare it with.

    python published.py --data mnist.npz [--budget SECONDS] [--rounds R] [--seeds N] [--out DIR]
    python published.py --dry-run      # scikit-learn's digits on the CPU, a few rounds

Shao et al. 2024 (Nature Communications 15, arXiv 2304.01731): ten clients, each with one class of
ten. In the authors' demo for MNIST a client holds about 5,400 samples and there are 6,000 proxy
samples; a round is one step of SGD 0.1 on 64 private samples, then ten on 512 proxy samples drawn
anew, and up to 20,000 rounds are run. Published test accuracies of Selective-FD, as an index of
papers lists them (not checked against the paper's tables): MNIST 94.7 %,
Fashion-MNIST 75.3 %. A client that trains alone knows one class: 10 %.

A round is short: eleven steps per client, ten clients. By default there are as many rounds as fit
the budget. Departures from the paper: a private step takes all of a client's 640 samples rather
than 64 of 5,400, since fedkd trains by epochs; fedkd's small network, without dropout; figures are
of the last round after distillation, not the best one.
"""

import argparse
import json
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import torch
from cases import Budget, device_or_exit, machine, synchronize

from fedkd.experiment.build import build
from fedkd.experiment.run import execute
from fedkd.federation.round_records import RoundRecord
from fedkd.scenario.scenario import Scenario

PUBLISHED = {"mnist": 94.7, "fashion": 75.3}
MOST_ROUNDS = 20_000
PILOT = 3
"""Rounds of each method to measure the time of one."""


def settings(
    given: argparse.Namespace, strategy: dict[str, Any], rounds: int, seed: int, device: str
) -> dict[str, Any]:
    """Return the settings of one run.

    Args:
        given: The command line.
        strategy: The strategy's settings.
        rounds: Rounds.
        seed: The run's seed.
        device: The device.
    """
    small = given.dry_run
    private, proxy = (40, 40) if small else (640, 512)
    sgd = {"optimizer": "sgd", "learning_rate": 0.1}
    chooses = strategy["name"] == "selective_fd"
    return {
        "name": "published",
        "data": "digits" if small else {"name": "cases:Npz", "path": str(given.data)},
        "partition": {"name": "pathological", "classes_per_client": 1},
        "clients": 10,
        "samples_per_client": private,
        "models": ["cnn"],
        "public": {"size": 200 if small else 6000, "per_round": proxy},
        "test": {
            "global_size": 100 if small else 1000,
            "private_size": 10,
            "after": "distillation",
        },
        "strategy": strategy,
        "rounds": rounds,
        "seed": seed,
        "device": device,
        "train": {**sgd, "epochs": 1, "batch_size": private},
        "distill": {**sgd, "epochs": 10, "batch_size": proxy, "loss": "cross_entropy"},
        "engine": {"name": "local", "workers": 4 if chooses else 1},
        "batch_clients": "never" if chooses else given.together,
        "baseline": "none",
    }


def run(
    given: argparse.Namespace,
    strategy: dict[str, Any],
    rounds: int,
    seed: int,
    device: torch.device,
) -> Any:
    """Run one method, and return the balanced accuracy and the seconds of each round.

    Args:
        given: The command line.
        strategy: The strategy's settings.
        rounds: Rounds.
        seed: The run's seed.
        device: The device.
    """
    accuracies, seconds = list[float](), list[float]()

    def on_round(record: RoundRecord) -> None:
        synchronize(device)
        found = [c.after_distillation.global_accuracy or 0.0 for c in record.clients]
        accuracies.append(100 * statistics.fmean(found))
        seconds.append(record.seconds)

    stop = threading.Event()
    values = settings(given, strategy, rounds, seed, device.type)
    execute(build(Scenario.parse(values), stop), on_round, stop)
    return accuracies, seconds


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=Path("mnist.npz"), help="what make_data.py wrote"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("gpu_results"), help="folder of the results"
    )
    parser.add_argument("--budget", type=float, default=90, help="seconds")
    parser.add_argument("--rounds", type=int, help="rounds; by default as many as fit")
    parser.add_argument("--seeds", type=int, default=1, help="paired seeds, from 0")
    parser.add_argument(
        "--density", default="kulsif", choices=("kulsif", "kmeans", "feature_gaussian")
    )
    parser.add_argument("--together", default="never", choices=("never", "auto"))
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, in small")
    return parser


def affordable_rounds(
    given: argparse.Namespace,
    methods: dict[str, dict[str, Any]],
    device: torch.device,
    budget: Budget,
) -> int:
    """Return the number of rounds that fit the budget, from a short run of each method.

    Args:
        given: The command line.
        methods: The strategies' settings by name.
        device: The device.
        budget: The remaining time.
    """
    took = {
        name: min(run(given, strategy, PILOT, 0, device)[1][1:])
        for name, strategy in methods.items()
    }
    print({name: f"{s:.3f} s a round" for name, s in took.items()}, flush=True)
    rounds = int(0.9 * budget.left / (given.seeds * sum(took.values())))
    return max(2, min(MOST_ROUNDS, rounds))


def main() -> None:
    """Run the command."""
    given = make_parser().parse_args()
    device, budget = device_or_exit("published", given.dry_run), Budget(given.budget)
    if not given.dry_run and not given.data.is_file():
        raise SystemExit(
            f"published: {given.data} does not exist; make_data.py writes it. Nothing was run"
        )
    given.out.mkdir(parents=True, exist_ok=True)
    methods: dict[str, dict[str, Any]] = {
        f"selective_fd, {given.density}": {"name": "selective_fd", "density": given.density},
        "mean of soft labels": {"name": "dsfl", "aggregation": "mean"},
        "dsfl, era": {"name": "dsfl", "aggregation": "era"},
    }
    started, found = time.monotonic(), dict[str, Any]()
    rounds = given.rounds or (3 if given.dry_run else 0)
    rounds = rounds or affordable_rounds(given, methods, device, budget)
    print(f"{rounds} rounds, {given.seeds} seeds", flush=True)
    for name, strategy in methods.items():
        finals, each = list[float](), list[float]()
        for seed in range(given.seeds):
            if budget.left < 0:
                print(f"{name}, seed {seed}: skipped, no time left", flush=True)
                continue
            accuracies, seconds = run(given, strategy, rounds, seed, device)
            finals.append(accuracies[-1])
            each += seconds[1:] or seconds
            found.setdefault(name, []).append(
                {"seed": seed, "global_accuracy": accuracies, "seconds": seconds}
            )
        if finals:
            print(
                f"{name:28} {statistics.fmean(finals):5.1f} % balanced accuracy"
                f" after {rounds} rounds,"
                f" {1000 * statistics.median(each):.0f} ms a round",
                flush=True,
            )
    known = None if given.dry_run else PUBLISHED.get(given.data.stem)
    about = machine(device)
    (given.out / "published.json").write_text(
        json.dumps(
            {"machine": about, "rounds": rounds, "published": known, "runs": found}, indent=1
        )
    )
    print(f"{about}; published for Selective-FD: {known} %; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
