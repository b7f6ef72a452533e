"""The engines beside the plain loop on workload W, and how long each takes until it handles its
first message.

Figures are of rounds after the first, so that nobody's start-up is in them. CPU seconds are those
of this process and all that descends from it: for Ray the driver, its workers and its daemons, read
while the workers live.
"""

import contextlib
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from measuring import MARK, Row, Tree, script, shown, watch
from workload import plain_loop, workload

from fedkd.experiment.build import build
from fedkd.experiment.run import execute
from fedkd.flower.job import Engine
from fedkd.runtime.devices import deterministic

ENGINES = (("local", 1), ("local", 2), ("ray", 1), ("ray", 2))
ROUNDS = 2


class Laps:
    """CPU and wall seconds between the ends of the first and of the last round."""

    def __init__(self) -> None:
        self._tree = Tree(os.getpid())
        self._seen: list[tuple[dict[str, float], float]] = []

    def lap(self, _: object = None) -> None:
        """Take note of the end of a round."""
        self._seen.append((self._tree.cpu(), time.perf_counter()))

    def a_round(self) -> dict[str, float]:
        """Return what a round after the first took: CPU seconds by kind of process, and wall
        seconds.
        """
        (first, start), (last, end) = self._seen[0], self._seen[-1]
        count = len(self._seen) - 1
        return {
            **{kind: (last[kind] - first[kind]) / count for kind in last},
            "wall": (end - start) / count,
        }


def run_loop(data: str | None) -> dict[str, float]:
    """Run the plain loop and return what a round after the first took."""
    laps = Laps()
    loop = plain_loop(build(workload(data, ROUNDS, 1), threading.Event()), ROUNDS, laps.lap)
    with deterministic(torch.device("cpu")):
        loop()
    return laps.a_round()


def run_engine(data: str | None, engine: str, workers: int) -> dict[str, float]:
    """Run W on an engine and return what a round after the first took, and ``start``: seconds to
    the first reply.
    """
    stop, laps, replies = threading.Event(), Laps(), list[float]()

    def on_reply(_: object) -> None:
        if not replies:
            replies.append(time.perf_counter())

    experiment = build(workload(data, ROUNDS, workers, engine=engine), stop)
    started = time.perf_counter()
    chosen: Engine = experiment.scenario.engine.value
    with chosen.session(experiment.plan.architectures, "cpu"):
        execute(experiment, laps.lap, stop, on_reply)
    return {**laps.a_round(), "start": replies[0] - started}


def compare(data: str | None, turns: int) -> dict[str, Any]:
    """Run the loop and every engine in turn, each in a process of its own."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(turns):
        for engine, workers in (("loop", 1), *ENGINES):
            given = {"run": "engine", "data": data, "engine": engine, "workers": workers}
            watched = watch(script("bench_engines.py", json.dumps(given)), memory=False)
            found.setdefault(f"{engine} {workers}", []).append(json.loads(watched.result))
    return found


def first_message(turns: int) -> dict[str, list[float]]:
    """Return seconds from the start of a process until a client's first reply, on digits, and of
    ``import torch``.
    """
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
    """Run four clients of the embedded digits until the first reply."""
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

    said = False

    def on_reply(_: object) -> None:
        nonlocal said
        if not said:
            print(f"{MARK}first", flush=True)
        said = True

    execute(build(scenario, stop), lambda _: None, stop, on_reply)


def rows(figures: dict[str, Any]) -> list[Row]:
    """Return the table's rows for the engines."""

    def ratio(one: str, other: str, what: str) -> str:
        pairs = zip(figures[one], figures[other], strict=True)
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
    """Return the table's rows for the start."""
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
    run: Callable[[], dict[str, float]] = lambda: run_engine(
        given["data"], given["engine"], given["workers"]
    )
    print(json.dumps(run_loop(given["data"]) if given["engine"] == "loop" else run()), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(json.loads(sys.argv[1]))
