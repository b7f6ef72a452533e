"""Measure fedkd against the plain PyTorch loop: CPU seconds, interleaved in one process, as ratios.

    python scripts/bench.py [--data FOLDER] [--repeats N] [--rounds R]

Workload W is ``scenarios/workload_w.yaml``: 20 clients (7 MLP, 7 LeNet-like CNN, 6 ResNet-GN), Fashion-MNIST (from
the hub or ``--data``; a synthetic tensor of that shape where it is absent), Dirichlet 0.5, 500 private images each,
1,000 public images, mean of logits, one epoch each of training (batch 32) and of distillation (batch 64, KL, T 2).
The tests are cut to ten images, so that neither side spends time on evaluation.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml

from fedkd.build import Experiment, build
from fedkd.data.sources import Rows
from fedkd.engines.job import Crew, Job, Order
from fedkd.engines.local import Local, available_cores, one_intra_op_thread
from fedkd.errors import SettingError
from fedkd.run import execute
from fedkd.scenario import Scenario
from fedkd.shelf import Choice
from fedkd.worker import hire

ROOT = Path(__file__).parent.parent
FRAMEWORK_CLIENTS = 1000


def compare(data: str | None, rounds: int, repeats: int) -> dict[str, Any]:
    """Run the loop, fedkd with one worker and fedkd with two, in turn, and return medians and ratios."""
    stop = threading.Event()
    build(workload(data, rounds, 1), stop)  # prepares the data and the division
    loop_cpu: list[float] = []
    cpu: list[float] = []
    wall_one: list[float] = []
    wall_two: list[float] = []
    for _ in range(repeats + 1):
        loop = plain_loop(build(workload(data, rounds, 1), stop), rounds)
        with one_intra_op_thread():
            loop_cpu.append(seconds(loop)[0])
        used, passed = seconds(partial(execute, build(workload(data, rounds, 1), stop), lambda _: None, stop))
        cpu.append(used)
        wall_one.append(passed)
        wall_two.append(seconds(partial(execute, build(workload(data, rounds, 2), stop), lambda _: None, stop))[1])
    del loop_cpu[0], cpu[0], wall_one[0], wall_two[0]  # the first turn warms up
    ratios = [ours / theirs for ours, theirs in zip(cpu, loop_cpu, strict=True)]
    halves = [two / one for one, two in zip(wall_one, wall_two, strict=True)]
    return {
        "ratio_of_sums": sum(cpu) / sum(loop_cpu),
        "loop_cpu_s": statistics.median(loop_cpu),
        "fedkd_cpu_s": statistics.median(cpu),
        "ratio": spread(ratios),
        "two_workers": spread(halves),
    }


def framework_cost(clients: int, rounds: int = 3) -> float:
    """Return CPU milliseconds a client and round where clients do nothing: messages, validation, fusion, records."""
    from flwr.app import Message
    from flwr.clientapp import ClientApp

    from fedkd.app import records
    from fedkd.app.server_app import make_server_app
    from fedkd.app.strategy import FederatedDistillation
    from fedkd.messages import ClientCard, Predictions, PrivacyEvent, Upload

    scenario = Scenario.parse(
        {"strategy": "fedmd", "order": "distill_first", "rounds": rounds, "public": {"size": 100},
         "test": {"global_size": 100}, "partition": "iid", "clients": 2, "models": ["mlp"]}
    )  # fmt: skip
    experiment = build(scenario, threading.Event())
    server = experiment.server
    server.clients = clients
    values = torch.zeros(100, 10)
    app = ClientApp()

    @app.query("describe")
    def _describe(message: Any, context: Any) -> Any:
        client_id = int(context.node_config["partition-id"])
        card = ClientCard(client_id=client_id, architecture="none", parameters=0, train_size=1)
        return Message(records.card_content(card), reply_to=message)

    @app.train()
    def _train(message: Any, context: Any) -> Any:
        download = records.read_download(message.content)
        assert download.public_ids is not None
        upload = Upload(
            client_id=int(context.node_config["partition-id"]),
            round=download.round,
            metrics={"local_accuracy": 0.5, "global_accuracy": 0.5, "seconds": 0.0},
            privacy=PrivacyEvent(mechanism="none", claims=False, reason=""),
            knowledge=Predictions(ids=download.public_ids, values=values, scale="logits"),
        )
        return Message(records.upload_content(upload), reply_to=message)

    job = Job(
        server_app=make_server_app(FederatedDistillation(server, "", lambda _: None)),
        crew=Crew(app),
        hire=hire,
        order=Order(scenario="", states=experiment.states, history=False),
        architectures=("none",) * clients,
        cost=lambda: [1.0] * clients,
        device="cpu",
        deadline=None,
        stop=threading.Event(),
        on_reply=lambda _: None,
    )
    used, _ = seconds(lambda: Local(workers=1).run(job))
    return 1000 * used / (clients * rounds)


def peak_memory(data: str | None, rounds: int) -> float:
    """Return the peak resident memory in GB of a process that runs W and nothing else."""
    command = [sys.executable, __file__, "--only-w", "--rounds", str(rounds)]
    command += ["--data", data] if data is not None else []
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800)
    return float(done.stdout.strip().splitlines()[-1])


def import_times(repeats: int = 3) -> dict[str, float]:
    """Return seconds of ``import torch`` and ``import fedkd`` in fresh interpreters, in turn; the median of each."""
    found: dict[str, list[float]] = {"torch": [], "fedkd": []}
    for _ in range(repeats):
        for module, times in found.items():
            code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
            done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
            times.append(float(done.stdout))
    return {module: statistics.median(times) for module, times in found.items()}


def heavy_modules() -> list[str]:
    """Return which of the libraries that must stay out ``import fedkd`` loads."""
    code = "import fedkd, sys; print(*[m for m in ('ray', 'flwr.simulation', 'wandb', 'hydra') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    return done.stdout.split()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of Fashion-MNIST in the hub's layout; by default synthetic images")
    parser.add_argument("--repeats", type=int, default=8, help="turns that count, after one that warms up")
    parser.add_argument("--rounds", type=int, default=1, help="rounds in a turn: short turns keep the pairs close")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--only-w", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only_w:
        stop = threading.Event()
        execute(build(workload(given.data, given.rounds, 1), stop), lambda _: None, stop)
        print(own_peak_gb())
        return
    try:
        speed = compare(given.data, given.rounds, given.repeats)
    except SettingError as error:
        sys.exit(f"bench: {error}")
    figures: dict[str, Any] = {
        "machine": machine(),
        "data": given.data or "synthetic images in the shape of Fashion-MNIST",
        **speed,
        "framework_ms": framework_cost(FRAMEWORK_CLIENTS),
        "memory_gb": peak_memory(given.data, given.rounds),
        "import_s": import_times(),
        "heavy_modules": heavy_modules(),
    }
    extra = figures["import_s"]["fedkd"] - figures["import_s"]["torch"]
    print(
        f"{figures['machine']}; {figures['data']}; {given.repeats} interleaved turns, rounds in each: {given.rounds}\n"
    )
    print(
        table(
            [
                ("W, CPU seconds, fedkd / plain loop: median of turns (range)", shown(figures["ratio"]), "<= 1.05"),
                ("the same, ratio of the sums over all turns", f"{figures['ratio_of_sums']:.2f}", "<= 1.05"),
                ("W, wall time with 2 workers / 1 worker", shown(figures["two_workers"]), "<= 0.6"),
                ("W, peak memory, data prepared before", f"{figures['memory_gb']:.2f} GB", "<= 0.6 GB"),
                (
                    f"framework alone, {FRAMEWORK_CLIENTS:,} do-nothing clients, CPU a client and round",
                    f"{figures['framework_ms']:.2f} ms",
                    "<= 1 ms",
                ),
                ("import fedkd less import torch", f"{extra:+.2f} s", "<= 0.3 s"),
                ("loaded by import fedkd of ray, flwr.simulation, wandb, hydra",
                 ", ".join(figures["heavy_modules"]) or "none", "none"),
            ]
        )
    )  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
