"""Benchmark fedkd against the plain PyTorch loop, interleaved in one process, as ratios.

    python scripts/bench.py [--data FOLDER] [--repeats N] [--rounds R]
    python scripts/bench.py [--data FOLDER] [--turns N] --engines --start --flower
    python scripts/bench.py [--data FOLDER] [--turns N] --together --parts --kinds --texts --growth
    python scripts/bench.py --together --device cuda --clients 20

Workload W is ``scenarios/workload_w.yaml``: 20 clients (7 MLP, 7 LeNet-like CNN, 6 ResNet-GN),
Fashion-MNIST from ``--data`` (by default synthetic images of that shape), Dirichlet 0.5, 500
private images each, 1,000 public images, mean of logits, one epoch each of training (batch 32) and
of distillation (batch 64, KL, T 2). Test sets are cut to ten images, so that neither side spends
time on evaluation.

The other parts make a second table; several may be named, ``--all`` runs everything. Each takes up
to five minutes on two cores. They need Linux.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import Row, machine, own_peak_gb, seconds, shown, spread, table
from workload import plain_loop, workload

from fedkd.errors import SettingError
from fedkd.experiment.build import build
from fedkd.experiment.client_worker import create_clients
from fedkd.experiment.run import execute
from fedkd.flower.engine_run import ClientPool, EngineRun, WorkerSpec
from fedkd.flower.local_grid import Local
from fedkd.runtime.devices import deterministic
from fedkd.scenario.scenario import Scenario

FRAMEWORK_CLIENTS = 1000
SYNTHETIC = "synthetic images in the shape of Fashion-MNIST"


def compare(data: str | None, rounds: int, repeats: int) -> dict[str, Any]:
    """Run the loop and fedkd with one and two workers in turn, and return medians and ratios."""
    stop = threading.Event()
    build(workload(data, rounds, 1), stop)  # prepares the data and the division
    loop_cpu: list[float] = []
    cpu: list[float] = []
    wall_one: list[float] = []
    wall_two: list[float] = []
    for _ in range(repeats + 1):
        loop = plain_loop(build(workload(data, rounds, 1), stop), rounds)
        with deterministic(torch.device("cpu")):
            loop_cpu.append(seconds(loop)[0])
        used, passed = seconds(
            partial(execute, build(workload(data, rounds, 1), stop), lambda _: None, stop)
        )
        cpu.append(used)
        wall_one.append(passed)
        _, passed = seconds(
            partial(execute, build(workload(data, rounds, 2), stop), lambda _: None, stop)
        )
        wall_two.append(passed)
    del loop_cpu[0], cpu[0], wall_one[0], wall_two[0]  # the first turn warms up
    ratios = [fedkd / loop for fedkd, loop in zip(cpu, loop_cpu, strict=True)]
    halves = [two / one for one, two in zip(wall_one, wall_two, strict=True)]
    return {
        "ratio_of_sums": sum(cpu) / sum(loop_cpu),
        "loop_cpu_s": statistics.median(loop_cpu),
        "fedkd_cpu_s": statistics.median(cpu),
        "ratio": spread(ratios),
        "two_workers": spread(halves),
    }


def framework_cost(clients: int, rounds: int = 3) -> float:
    """Return the framework's CPU milliseconds per client and round, with clients that do nothing.

    They are spent on messages, validation, fusion and records.
    """
    from fedkd.federation.server import Server
    from fedkd.flower.server_app import make_server_app
    from fedkd.flower.strategy_adapter import FederatedDistillation

    scenario = Scenario.parse(
        {
            "strategy": "fedmd",
            "round_order": "distill_first",
            "rounds": rounds,
            "public": {"size": 100},
            "test": {"global_size": 100},
            "partition": "iid",
            "clients": 2,
            "models": ["mlp"],
        }
    )
    experiment = build(scenario, threading.Event())
    small = experiment.server
    template = replace(
        small.template,
        architectures=("none",) * clients,
        train_sizes=dict.fromkeys(range(clients), 1),
    )
    server = Server(small.aggregator, replace(small.participation, clients=clients), template)
    job = EngineRun(
        server_app=make_server_app(FederatedDistillation(server, "", lambda _: None)),
        client_pool=ClientPool(_idle_client_app(torch.zeros(100, 10))),
        create_clients=create_clients,
        spec=WorkerSpec(scenario="", states=experiment.states, history=False),
        architectures=("none",) * clients,
        cost=lambda: [1.0] * clients,
        device="cpu",
        deadline=None,
        stop=threading.Event(),
        on_reply=lambda _: None,
    )
    used, _ = seconds(lambda: Local(workers=1).run(job))
    return 1000 * used / (clients * rounds)


def _idle_client_app(values: torch.Tensor) -> Any:
    """Return a Flower client app that uploads ``values`` as logits and does nothing else."""
    from flwr.app import Message
    from flwr.clientapp import ClientApp

    from fedkd.flower import records
    from fedkd.knowledge import KINDS
    from fedkd.messages import ClientCard, Predictions, PrivacyEvent, Upload

    app = ClientApp()

    @app.query("describe")
    def _describe(message: Any, context: Any) -> Any:
        client_id = int(context.node_config["partition-id"])
        card = ClientCard(client_id=client_id, architecture="none", parameters=0, train_size=1)
        return Message(records.card_content(card), reply_to=message)

    @app.train()
    def _train(message: Any, context: Any) -> Any:
        download = records.read_download(message.content, KINDS["logits"])
        assert download.public_ids is not None
        upload = Upload(
            client_id=int(context.node_config["partition-id"]),
            round=download.round,
            metrics={"global_accuracy_after_training": 0.5, "seconds": 0.0},
            privacy=PrivacyEvent(mechanism="none", claims=False, reason=""),
            knowledge=Predictions(ids=download.public_ids, values=values, scale="logits"),
        )
        return Message(records.upload_content(upload, KINDS["logits"]), reply_to=message)

    return app


def peak_memory(data: str | None, rounds: int) -> float:
    """Return the peak resident memory in GB of a process that only runs W."""
    command = [sys.executable, __file__, "--only-w", "--rounds", str(rounds)]
    command += ["--data", data] if data is not None else []
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800)
    return float(done.stdout.strip().splitlines()[-1])


def import_times(repeats: int = 3) -> dict[str, float]:
    """Return the median seconds of ``import torch`` and ``import fedkd`` in new interpreters."""
    found: dict[str, list[float]] = {"torch": [], "fedkd": []}
    for _ in range(repeats):
        for module, times in found.items():
            code = (
                f"import time; start = time.perf_counter(); import {module};"
                " print(time.perf_counter() - start)"
            )
            done = subprocess.run(
                [sys.executable, "-c", code],
                check=True,
                capture_output=True,
                text=True,
                timeout=120,
            )
            times.append(float(done.stdout))
    return {module: statistics.median(times) for module, times in found.items()}


def heavy_modules() -> list[str]:
    """Return the heavy libraries that ``import fedkd`` loads; there should be none."""
    code = (
        "import fedkd, sys;"
        " heavy = 'ray', 'flwr.simulation', 'wandb', 'hydra';"
        " print(*[module for module in heavy if module in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    return done.stdout.split()


def loop_table(data: str | None, repeats: int, rounds: int) -> dict[str, Any]:
    """Measure fedkd against the plain loop, print the table, and return the figures."""
    figures: dict[str, Any] = {
        "machine": machine(),
        "data": data or SYNTHETIC,
        **compare(data, rounds, repeats),
        "framework_ms": framework_cost(FRAMEWORK_CLIENTS),
        "memory_gb": peak_memory(data, rounds),
        "import_s": import_times(),
        "heavy_modules": heavy_modules(),
    }
    extra = figures["import_s"]["fedkd"] - figures["import_s"]["torch"]
    print(
        f"{figures['machine']}; {figures['data']}; {repeats} interleaved turns, rounds in each:"
        f" {rounds}\n"
    )
    print(
        table(
            [
                (
                    "W, CPU seconds, fedkd / plain loop: median of turns (range)",
                    shown(figures["ratio"]),
                    "<= 1.05",
                ),
                (
                    "the same, ratio of the sums over all turns",
                    f"{figures['ratio_of_sums']:.2f}",
                    "<= 1.05",
                ),
                ("W, wall time with 2 workers / 1 worker", shown(figures["two_workers"]), "<= 0.6"),
                (
                    "W, peak memory, data prepared before",
                    f"{figures['memory_gb']:.2f} GB",
                    "<= 0.6 GB",
                ),
                (
                    f"framework alone, {FRAMEWORK_CLIENTS:,} do-nothing clients, CPU a client and"
                    " round",
                    f"{figures['framework_ms']:.2f} ms",
                    "<= 1 ms",
                ),
                ("import fedkd less import torch", f"{extra:+.2f} s", "<= 0.3 s"),
                (
                    "loaded by import fedkd of ray, flwr.simulation, wandb, hydra",
                    ", ".join(figures["heavy_modules"]) or "none",
                    "none",
                ),
            ]
        )
    )
    return figures


def parts_table(given: argparse.Namespace) -> dict[str, Any]:
    """Measure the chosen parts, print their table, and return its rows and the figures."""
    rows: list[Row] = []
    figures: dict[str, Any] = {}
    data, turns = given.data, given.turns
    if given.engines or given.start or given.flower or given.parts:
        build(workload(data, 1, 1), threading.Event())  # prepares the data and the division
    if given.engines:
        import bench_engines

        figures["engines"] = bench_engines.compare(data, turns)
        rows += bench_engines.rows(figures["engines"])
    if given.start:
        import bench_engines

        figures["start"] = bench_engines.first_message(2 * turns)
        rows += bench_engines.start_rows(figures["start"])
    if given.flower:
        import bench_flower

        figures["flower"] = bench_flower.compare(data, turns)
        rows += bench_flower.rows(figures["flower"])
    if given.together:
        import bench_parts

        rows += bench_parts.together_rows(given.clients, given.device)
    if given.auto:
        import bench_parts

        rows += bench_parts.auto_rows(turns)
    if given.parts:
        import bench_parts

        rows += bench_parts.part_rows(data, 2 * turns)
    if given.texts:
        import bench_texts

        figures["texts"] = bench_texts.compare(2 * turns)
        figures["adapters"] = [bench_texts.memory(1), bench_texts.memory(bench_texts.CLIENTS)]
        rows += bench_texts.rows(figures["texts"], *figures["adapters"])
    if given.kinds:
        import bench_kinds

        rows += bench_kinds.rows(4 * turns)
    if given.growth:
        import bench_growth

        points = bench_growth.measure()
        rows += bench_growth.rows(points)
        print(
            f"written: {', '.join(path.name for path in bench_growth.write(points))}",
            file=sys.stderr,
        )
    print(f"{machine()}; {data or SYNTHETIC}; {turns} turns where nothing else is said\n")
    print(table(rows))
    return {"machine": machine(), "rows": rows, **figures}


PARTS = {
    "engines": "local and Ray at one and two workers against the plain loop",
    "start": "seconds from the start of a process to the first message",
    "flower": "a FedMD as one writes it on Flower's own simulation, on W and on a hundred tiny"
    " clients",
    "together": "clients trained together against one by one (--device, --clients)",
    "auto": "what batch_clients=auto takes on this CPU, against one by one",
    "parts": "checkpoints and fusion",
    "texts": "texts with classes against the plain loop, memory of clients with adapters (4 GB)",
    "kinds": "a table with a perceptron against the plain loop",
    "growth": "10 to 10,000 clients, to docs/results/growth.csv and growth.png",
}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", help="folder of Fashion-MNIST in the hub's layout; by default synthetic images"
    )
    parser.add_argument(
        "--repeats", type=int, default=8, help="turns that count, after one that warms up"
    )
    parser.add_argument(
        "--rounds", type=int, default=1, help="rounds in a turn: short turns keep the pairs close"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--only-w", action="store_true", help=argparse.SUPPRESS)
    for part, what in PARTS.items():
        parser.add_argument(f"--{part}", action="store_true", help=what)
    parser.add_argument("--all", action="store_true", help="the first table and every part")
    parser.add_argument(
        "--turns", type=int, default=2, help="turns of the parts; some take twice as many"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where --together computes"
    )
    parser.add_argument("--clients", type=int, default=50, help="clients of --together")
    given = parser.parse_args()
    if given.only_w:
        stop = threading.Event()
        execute(build(workload(given.data, given.rounds, 1), stop), lambda _: None, stop)
        print(own_peak_gb())
        return
    if given.all:
        vars(given).update(dict.fromkeys(PARTS, True))
    asked = any(vars(given)[part] for part in PARTS)
    figures: dict[str, Any] = {}
    try:
        if given.all or not asked:
            figures = loop_table(given.data, given.repeats, given.rounds)
        if given.all:
            print()
        if asked:
            figures |= parts_table(given)
    except SettingError as error:
        sys.exit(f"bench: {error}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
