"""The engines against the plain loop on workload W, and the time until their first message.

Figures are of rounds after the first, without start-up. CPU seconds are those of this process and
its descendants: with Ray the driver, its workers and its daemons, read while the workers run.
"""

import contextlib
import json
import os
import statistics
import sys
import threading
import time
from typing import Any

import torch
from measuring import MARK, Row, Tree, script, shown, watch
from workload import plain_loop, workload

from fedkd.experiment.build import build
from fedkd.experiment.run import execute
from fedkd.flower.engine_run import Engine
from fedkd.runtime.devices import deterministic

ENGINES = (("local", 1), ("local", 2), ("ray", 1), ("ray", 2))
ROUNDS = 2


class RoundTimer:
    """CPU and wall seconds of the rounds after the first."""

    def __init__(self) -> None:
        self._tree = Tree(os.getpid())
        self._ends: list[tuple[dict[str, float], float]] = []

    def end_round(self, _: object = None) -> None:
        """Record the end of a round."""
        self._ends.append((self._tree.cpu(), time.perf_counter()))

    def per_round(self) -> dict[str, float]:
        """Return the mean CPU seconds by type of process, and "wall" seconds, of such a round."""
        (first, start), (last, end) = self._ends[0], self._ends[-1]
        count = len(self._ends) - 1
        return {
            **{kind: (last[kind] - first[kind]) / count for kind in last},
            "wall": (end - start) / count,
        }


def run_loop(data: str | None) -> dict[str, float]:
    """Run the plain loop, and return the seconds of a round after the first."""
    timer = RoundTimer()
    loop = plain_loop(build(workload(data, ROUNDS, 1), threading.Event()), ROUNDS, timer.end_round)
    with deterministic(torch.device("cpu")):
        loop()
    return timer.per_round()


def run_engine(data: str | None, engine: str, workers: int) -> dict[str, float]:
    """Run W on an engine, and return the seconds of a round after the first.

    ``start`` are the seconds to the first reply.
    """
    stop, timer, replies = threading.Event(), RoundTimer(), list[float]()

    def on_reply(_: object) -> None:
        if not replies:
            replies.append(time.perf_counter())

    experiment = build(workload(data, ROUNDS, workers, engine=engine), stop)
    started = time.perf_counter()
    chosen: Engine = experiment.scenario.engine.value
    with chosen.session(experiment.plan.architectures, "cpu"):
        execute(experiment, timer.end_round, stop, on_reply)
    return {**timer.per_round(), "start": replies[0] - started}


def compare(data: str | None, turns: int) -> dict[str, Any]:
    """Run the loop and every engine in turn, each in a process of its own; return the figures."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(turns):
        for engine, workers in (("loop", 1), *ENGINES):
            given = {"run": "engine", "data": data, "engine": engine, "workers": workers}
            watched = watch(script("bench_engines.py", json.dumps(given)), memory=False)
            found.setdefault(f"{engine} {workers}", []).append(json.loads(watched.result))
    return found


def first_message(turns: int) -> dict[str, list[float]]:
    """Return seconds from a process's start to a client's first reply, and to ``import torch``."""
    found: dict[str, list[float]] = {"torch": [], "local": [], "ray": []}
    for _ in range(turns + 1):
        for what, times in found.items():
            if what == "torch":
                command = [sys.executable, "-c", f"import torch; print('{MARK}first', flush=True)"]
            else:
                command = script("bench_engines.py", json.dumps({"run": "start", "engine": what}))
            times.append(watch(command, memory=False).wall_at["first"])
    return {what: times[1:] for what, times in found.items()}  # the first turn warms up


def start(engine: str) -> None:
    """Run four clients on digits, and print a mark at the first reply."""
    from fedkd.scenario.scenario import Scenario

    stop = threading.Event()
    scenario = Scenario.parse(
        {
            "clients": 4,
            "samples_per_client": 20,
            "models": ["mlp", "cnn"],
            "rounds": 1,
            "public": {"size": 40},
            "test": {"global_size": 50},
            "device": "cpu",
            "baseline": "none",
            "engine": {"name": engine, "workers": 2},
        }
    )

    replied = False

    def on_reply(_: object) -> None:
        nonlocal replied
        if not replied:
            print(f"{MARK}first", flush=True)
        replied = True

    execute(build(scenario, stop), lambda _: None, stop, on_reply)


def rows(figures: dict[str, Any]) -> list[Row]:
    """Return the engines' rows of the table."""

    def ratio(first: str, second: str, what: str) -> str:
        pairs = zip(figures[first], figures[second], strict=True)
        return shown([a[what] / b[what] for a, b in pairs])

    def median(run: str, what: str) -> float:
        return float(statistics.median(turn[what] for turn in figures[run]))

    found: list[Row] = []
    for engine, workers in ENGINES:
        run = f"{engine} {workers}"
        name = f"W, {engine} with {workers} worker{'s' if workers > 1 else ''}"
        target = "<= 1.05" if run == "local 1" else ""
        found.append(
            (
                f"{name} / plain loop, CPU seconds of all processes",
                ratio(run, "loop 1", "all"),
                target,
            )
        )
    for engine in ("local", "ray"):
        found.append(
            (
                f"W, {engine}, wall time with 2 workers / 1",
                ratio(f"{engine} 2", f"{engine} 1", "wall"),
                "<= 0.6",
            )
        )
    for run in figures:
        values = f"{median(run, 'all'):.2f} CPU s, {median(run, 'wall'):.2f} s wall"
        if run.startswith("ray"):
            values += (
                f"; driver {median(run, 'root'):.2f}, workers {median(run, 'workers'):.2f},"
                f" Ray's daemons {median(run, 'daemons'):.2f} CPU s; start"
                f" {median(run, 'start'):.1f} s"
            )
        found.append(
            (f"W, {run.replace(' ', ' x ')}: a round after the first, medians", values, "")
        )
    return found


def start_rows(figures: dict[str, list[float]]) -> list[Row]:
    """Return the start-up rows of the table."""
    return [
        ("import torch, from the start of its process", shown(figures["torch"], " s"), ""),
        (
            "first message on local, from the start of the process, less that",
            shown(
                [
                    ours - torch
                    for ours, torch in zip(figures["local"], figures["torch"], strict=True)
                ],
                " s",
            ),
            "<= 2 s",
        ),
        (
            "first message on ray with 2 workers, from the start of the process",
            shown(figures["ray"], " s"),
            "",
        ),
    ]


def main(given: dict[str, Any]) -> None:
    """Run one part in this process."""
    if given["run"] == "start":
        start(given["engine"])
        return
    if given["engine"] == "loop":
        figures = run_loop(given["data"])
    else:
        figures = run_engine(given["data"], given["engine"], given["workers"])
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(json.loads(sys.argv[1]))
