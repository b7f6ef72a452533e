"""Time and memory of federations of 10 to 10,000 clients on the local engine.

Each point is measured in a process of its own: perceptrons 784-128-10, about five private samples
each, 100 public samples, mean of logits, one worker. Memory is the process's peak, PyTorch
included.
"""

import csv
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from measuring import Row, own_peak_gb, script, watch
from workload import ROOT, growing

from fedkd.experiment.build import build
from fedkd.experiment.run import execute
from fedkd.federation.round_records import RoundRecord

FOLDER = ROOT / "docs" / "results"
ROUNDS = 2
LIMIT_AT_1000_GB = 0.9


@dataclass(frozen=True)
class Point:
    """Wall seconds and memory of one federation."""

    clients: int
    participation: float
    state: str
    """The store of client states."""
    division_s: float = 0.0
    """Building the experiment for the first time, with the division, which the cache then holds."""
    build_s: float = 0.0
    """Building it with the division in the cache."""
    handshake_s: float = 0.0
    """From the engine's start until all clients have introduced themselves."""
    round_s: float = 0.0
    """The last round."""
    cpu_round_s: float = 0.0
    """CPU seconds of the last round."""
    peak_gb: float = 0.0

    @property
    def at_work(self) -> int:
        """The number of clients that take part in a round."""
        return max(1, round(self.participation * self.clients))


POINTS = (
    Point(10, 1.0, "memory"),
    Point(100, 1.0, "memory"),
    Point(1000, 1.0, "memory"),
    Point(100, 0.05, "memory"),
    Point(1000, 0.05, "memory"),
    Point(10_000, 0.05, "memory"),
    Point(10_000, 0.05, "disk"),
)


def measure() -> list[Point]:
    """Measure every point in a process of its own.

    Another process divides the data before it, since that imports other libraries.
    """
    found = []
    for point in POINTS:
        seed, divided = time.time_ns(), {"division_s": 0.0}
        for divides in (True, False):  # the new seed's division is not in the cache
            given = {"seed": seed, "divides": divides, "point": asdict(point) | divided}
            measured = watch(script("bench_growth.py", json.dumps(given)), memory=False)
            point = Point(**json.loads(measured.result))
            divided = {"division_s": point.division_s}
        found.append(point)
        print(
            f"  {point.clients:,} clients, {point.at_work:,} at work, state={point.state}: done",
            file=sys.stderr,
        )
    return found


def run(point: Point, seed: int, divides: bool) -> Point:
    """Divide the data of one point, or run it, in this process, and return its measurements."""
    scenario = growing(
        point.clients, participation=point.participation, store=point.state, rounds=ROUNDS
    )
    scenario = scenario.changed(federation=replace(scenario.federation, seed=seed))
    stop, started = threading.Event(), time.perf_counter()
    experiment = build(scenario, stop)
    built = time.perf_counter()
    if divides:
        return replace(point, division_s=built - started)
    handled, greeted, cpu, rounds = 0, built, time.process_time(), list[tuple[float, float]]()

    def on_reply(_: object) -> None:
        nonlocal handled, greeted
        handled += 1
        if handled == point.clients:
            greeted = time.perf_counter()

    def on_round(record: RoundRecord) -> None:
        nonlocal cpu
        rounds.append((record.seconds, time.process_time() - cpu))
        cpu = time.process_time()

    execute(experiment, on_round, stop, on_reply)
    last, last_cpu = rounds[-1]
    return replace(
        point,
        build_s=built - started,
        handshake_s=greeted - built,
        round_s=last,
        cpu_round_s=last_cpu,
        peak_gb=own_peak_gb(),
    )


def write(points: Sequence[Point]) -> list[Path]:
    """Write the values and the plot, and return their paths."""
    with (FOLDER / "growth.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*asdict(points[0])], lineterminator="\n")
        writer.writeheader()
        for point in points:
            writer.writerow(
                {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(point).items()}
            )
    draw(points, FOLDER / "growth.png")
    return [FOLDER / "growth.csv", FOLDER / "growth.png"]


def draw(points: Sequence[Point], path: Path) -> None:
    """Write the plot of time and memory by the number of clients."""
    import matplotlib
    from matplotlib.figure import Figure

    from fedkd.report.plots import STYLE

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 3.1), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_series(left, right, points)
        _draw_references(left, right, points)
        for ax, title, label in (
            (left, "Time", "Seconds a round"),
            (right, "Memory", "Peak of the process (GB)"),
        ):
            ax.set_xscale("log")
            ax.set_title(title)
            ax.set_xlabel("Clients")
            ax.set_ylabel(label)
            ax.set_xticks([10, 100, 1000, 10_000], ["10", "100", "1,000", "10,000"])
            ax.minorticks_off()
            ax.grid(alpha=0.25, linewidth=0.6)
        left.set_yscale("log")
        left.minorticks_off()
        right.set_ylim(bottom=0)
        figure.legend(
            *left.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=4,
            frameon=False,
            fontsize=8,
        )
        figure.savefig(path)


def _draw_series(left: Any, right: Any, points: Sequence[Point]) -> None:
    """Draw the time of a round on the left axes and memory on the right."""
    from fedkd.report.method_colors import BLUE, ORANGE

    series: tuple[tuple[str, str, str, Any], ...] = (
        ("all clients take part", BLUE, "o-", lambda p: p.participation == 1),
        ("5 % take part", ORANGE, "s-", lambda p: p.participation < 1 and p.state == "memory"),
        ("5 %, models on disk", ORANGE, "D", lambda p: p.state == "disk"),
    )
    for label, color, style, belongs in series:
        chosen = [p for p in points if belongs(p)]
        x = [p.clients for p in chosen]
        options = {
            "color": color,
            "markersize": 4.5,
            "linewidth": 1.5,
            "markerfacecolor": "white" if style == "D" else color,
            "label": label,
        }
        left.plot(x, [p.round_s for p in chosen], style, **options)
        right.plot(x, [p.peak_gb for p in chosen], style, **options)


def _draw_references(left: Any, right: Any, points: Sequence[Point]) -> None:
    """Draw the time before the first round on the left axes and the memory target on the right."""
    from fedkd.report.method_colors import GREY

    start = {p.clients: p.build_s + p.handshake_s for p in points if p.state == "memory"}
    left.plot(
        sorted(start),
        [start[k] for k in sorted(start)],
        "^:",
        color=GREY,
        markersize=4,
        linewidth=1.2,
        label="before the first round",
    )
    right.plot([1000], [LIMIT_AT_1000_GB], "_", color=GREY, markersize=14, markeredgewidth=1.5)
    right.annotate(
        "target",
        (1000, LIMIT_AT_1000_GB),
        (0, 4),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=GREY,
    )


def rows(points: Sequence[Point]) -> list[Row]:
    """Return the points as rows of the table."""
    found: list[Row] = []
    for p in points:
        target = f"<= {LIMIT_AT_1000_GB} GB" if (p.clients, p.participation) == (1000, 1.0) else ""
        participants = "all take part" if p.participation == 1 else f"{p.at_work} take part"
        values = (
            f"{p.peak_gb:.2f} GB; {p.round_s:.2f} s a round ({p.cpu_round_s:.2f} CPU s);"
            f" before the first round {p.build_s:.2f} s + handshake {p.handshake_s:.2f} s;"
            f" division once {p.division_s:.1f} s"
        )
        target = "runs" if p.clients == 10_000 else target
        found.append((f"{p.clients:,} clients, {participants}, state={p.state}", values, target))
    return found


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    done = run(Point(**arguments["point"]), arguments["seed"], arguments["divides"])
    print(json.dumps(asdict(done)), flush=True)
