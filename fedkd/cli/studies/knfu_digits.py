"""The KnFu study on scikit-learn's digits: three regimes of label skew and data size.

Local training, the plain mean of soft labels, and KnFu. Both accuracies are means over clients; the
figure after ± is half the width of a 95 % t-interval over seeds. A conclusion holds if the 95 %
interval of the paired difference excludes the contrary.
"""

import csv
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.progress import track

from fedkd.cli.arguments import read_scenario, scenario_files
from fedkd.cli.studies.study import in_words
from fedkd.experiment.build import build
from fedkd.experiment.run import execute
from fedkd.federation.round_records import RoundRecord
from fedkd.report.comparison.family_verdicts import judge
from fedkd.report.comparison.statistics import interval
from fedkd.report.method_colors import BLUE, GREY, ORANGE
from fedkd.report.plots import STYLE
from fedkd.scenario.scenario import Scenario
from fedkd.settings.measuring_points import MEASURING_POINTS, MeasuringPoint

REGIMES: dict[str, dict[str, Any]] = {
    "alpha 0.1, all samples": {"partition": {"name": "inner_dirichlet", "alpha": 0.1}},
    "alpha 1, all samples": {"partition": {"name": "inner_dirichlet", "alpha": 1.0}},
    "alpha 1, 20 samples": {
        "partition": {"name": "inner_dirichlet", "alpha": 1.0},
        "samples_per_client": 20,
    },
}
SKEWED, MILD, SCARCE = REGIMES
METHODS: dict[str, dict[str, Any]] = {
    "local only": {"name": "local_only"},
    "mean": {"name": "knfu", "beta": 0.0},
    "KnFu": {"name": "knfu", "beta": 10.0},
    "KnFu, first-round EPD": {"name": "knfu", "beta": 10.0, "epd_timing": "first_round"},
}
COLORS = {"local only": GREY, "mean": ORANGE, "KnFu": BLUE, "KnFu, first-round EPD": "#56B4E9"}
FIGURES = ("personal_accuracy", "global_accuracy", "neighbors_first", "neighbors_last")

Results = dict[tuple[str, str], dict[str, np.ndarray]]
"""Figures at one point of the last round [seeds], by regime and method."""
ByPoint = dict[MeasuringPoint, Results]


def digits(seeds: int) -> ByPoint:
    """Run the KnFu study, and return figures [seeds] by point, regime and method."""
    jobs = [(r, m, s) for r in REGIMES for m in METHODS for s in range(seeds)]
    found: dict[tuple[str, str], list[dict[MeasuringPoint, dict[str, float]]]] = {}
    for regime, method, seed in track(jobs, description=f"{len(jobs)} runs", transient=True):
        found.setdefault((regime, method), []).append(
            one_run(REGIMES[regime], METHODS[method], seed)
        )
    return {
        point: {
            key: {name: np.array([run[point][name] for run in runs]) for name in FIGURES}
            for key, runs in found.items()
        }
        for point in MEASURING_POINTS
    }


def one_run(
    regime: Mapping[str, Any], strategy: Mapping[str, Any], seed: int
) -> dict[MeasuringPoint, dict[str, float]]:
    """Run one method once, and return its final figures at each point, means over clients.

    Local training has one model a round, which is compared with others at both points.
    """
    values = read_scenario(scenario_files()["knfu_digits"])
    scenario = Scenario.parse({**values, **regime, "strategy": strategy, "seed": seed})
    records: list[RoundRecord] = []
    stop = threading.Event()
    experiment = build(scenario, stop)
    execute(experiment, records.append, stop)
    measured = experiment.plan.measured

    def figures(point: MeasuringPoint) -> dict[str, float]:
        last = [client.after(point) for client in records[-1].clients]
        return {
            "personal_accuracy": _mean(last, "personal_accuracy"),
            "global_accuracy": _mean(last, "global_accuracy"),
            "neighbors_first": _mean(records[0].clients, "effective_neighbors"),
            "neighbors_last": _mean(records[-1].clients, "effective_neighbors"),
        }

    return {
        point: figures(point if point in measured else measured[0]) for point in MEASURING_POINTS
    }


def _mean(of_clients: Sequence[object], name: str) -> float:
    return float(np.mean([getattr(client, name) for client in of_clients]))


def table(results: Results) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| regime | method | own distribution | balanced test | effective neighbors, first to last"
        " round |",
        "|---|---|---|---|---|",
    ]
    for (regime, method), figures in results.items():
        local, balanced = (
            _percent(figures[name]) for name in ("personal_accuracy", "global_accuracy")
        )
        first, last = figures["neighbors_first"].mean(), figures["neighbors_last"].mean()
        lines.append(f"| {regime} | {method} | {local} | {balanced} | {first:.1f} to {last:.1f} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Conclusion:
    """A conclusion of the study: one method is above, or equal to, another in a regime."""

    text: str
    regime: str
    ours: str
    theirs: str
    figure: str
    equal: bool = False

    def difference(self, results: Results) -> np.ndarray:
        """Return the paired differences at one point [seeds]."""
        ours, theirs = (results[self.regime, m][self.figure] for m in (self.ours, self.theirs))
        return ours - theirs

    def are_equal(self, results: Results) -> str:
        """Return whether the methods are equal.

        They are if the mean difference is at most 2 points and the interval contains 0.
        """
        found = interval(list(self.difference(results)))
        mean, half = found.mean or 0.0, found.half or 0.0
        holds = abs(mean) <= 0.02 and mean - half <= 0 <= mean + half
        return "holds" if holds else "does NOT hold"

    def shown(self, results: Results) -> str:
        """Return the difference with its interval."""
        size = _percent(self.difference(results), "+.1f")
        return f"{self.ours} less {self.theirs}: {size} points"


def judged(by_point: ByPoint) -> list[str]:
    """Return each conclusion with its verdicts; those that are no equality are one family."""
    asked = [(c, p) for c in CONCLUSIONS for p in by_point]
    tested = [(c, p) for c, p in asked if not c.equal]
    found = dict(
        zip(tested, judge([list(c.difference(by_point[p])) for c, p in tested]), strict=True)
    )
    lines: dict[str, list[str]] = {}
    for conclusion, point in asked:
        shown = conclusion.shown(by_point[point])
        if conclusion.equal:
            said = f"{conclusion.are_equal(by_point[point])} ({shown})"
        else:
            verdict = found[conclusion, point]
            said = f"{verdict.word} ({'; '.join(x for x in (shown, verdict.p) if x)})"
        lines.setdefault(conclusion.text, []).append(f"after {point}: {said}")
    return [f"{text}; {'; '.join(said)}" for text, said in lines.items()]


OWN, BALANCED = "personal_accuracy", "global_accuracy"
CONCLUSIONS = (
    Conclusion(
        "The paper's conclusion: with large and highly skewed local data, local training is"
        " preferable to the mean (own distribution)",
        SKEWED,
        "local only",
        "mean",
        OWN,
    ),
    Conclusion(
        "There KnFu follows local training (own distribution)",
        SKEWED,
        "KnFu",
        "local only",
        OWN,
        equal=True,
    ),
    Conclusion(
        "With mild skew, KnFu beats local training (own distribution)",
        MILD,
        "KnFu",
        "local only",
        OWN,
    ),
    Conclusion(
        "With mild skew, KnFu beats local training (balanced test)",
        MILD,
        "KnFu",
        "local only",
        BALANCED,
    ),
    Conclusion(
        "With scarce data, the mean beats local training (own distribution)",
        SCARCE,
        "mean",
        "local only",
        OWN,
    ),
    Conclusion(
        "With scarce data, KnFu beats local training (own distribution)",
        SCARCE,
        "KnFu",
        "local only",
        OWN,
    ),
    Conclusion(
        "With scarce data, KnFu beats local training (balanced test)",
        SCARCE,
        "KnFu",
        "local only",
        BALANCED,
    ),
)


def conclusions(by_point: ByPoint) -> list[str]:
    """Return each conclusion of the study with its verdicts."""
    drift = by_point["distillation"][SCARCE, "KnFu"]
    first, last = drift["neighbors_first"].mean(), drift["neighbors_last"].mean()
    verdict = (
        "holds" if (drift["neighbors_last"] > drift["neighbors_first"]).all() else "does NOT hold"
    )
    return [
        *judged(by_point),
        f"With scarce data, an EPD made again each round drifts to uniform weights: {verdict}"
        f" (effective neighbors {first:.1f} in the first round, {last:.1f} in the last, of 10)",
    ]


def picture(by_point: ByPoint) -> Figure:
    """Draw both accuracies by regime and method with their intervals, a row for each point."""
    with matplotlib.rc_context(STYLE | {"axes.axisbelow": True}):
        figure = Figure(figsize=(7.0, 5.4), layout="constrained")
        axes = figure.subplots(2, 2, sharey=True)
        titles = {
            "personal_accuracy": "Own label distribution",
            "global_accuracy": "Balanced test set",
        }
        width = 0.8 / len(METHODS)
        panels = [(p, r, name) for p, r in by_point.items() for name in titles]
        for ax, (point, results, name) in zip(axes.flat, panels, strict=True):
            for at, method in enumerate(METHODS):
                found = [interval(list(results[regime, method][name])) for regime in REGIMES]
                means, halves = [i.mean or 0.0 for i in found], [i.half or 0.0 for i in found]
                x = np.arange(len(REGIMES)) + (at - (len(METHODS) - 1) / 2) * width
                ax.bar(
                    x,
                    100 * np.array(means),
                    width,
                    yerr=100 * np.array(halves),
                    color=COLORS[method],
                    label=method,
                    error_kw={"linewidth": 0.8, "capsize": 2},
                )
            ax.set_xticks(range(len(REGIMES)), [regime.replace(", ", "\n") for regime in REGIMES])
            ax.set_title(f"{titles[name]}, after {point}")
            ax.grid(axis="y", alpha=0.25, linewidth=0.6)
        for ax in axes[:, 0]:
            ax.set_ylabel("Accuracy (%), mean over clients\n95 % interval over seeds")
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(),
            frameon=False,
            ncols=4,
            loc="outside lower center",
        )
        return figure


def write(by_point: ByPoint, text: str, folder: Path) -> None:
    """Write the table, each seed's figures and the plot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "knfu_digits.md").write_text(text + "\n")
    with (folder / "knfu_digits.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["after", "regime", "method", "seed", *FIGURES])
        for point, results in by_point.items():
            for (regime, method), figures in results.items():
                for seed in range(len(figures[FIGURES[0]])):
                    found = (f"{figures[name][seed]:.6f}" for name in FIGURES)
                    rows.writerow([point, regime, method, seed, *found])
    for suffix in ("png", "pdf"):
        with matplotlib.rc_context(STYLE):
            picture(by_point).savefig(folder / f"knfu_digits.{suffix}")


def _percent(accuracies: np.ndarray, form: str = ".1f") -> str:
    return in_words(interval(list(100 * accuracies)), form)


def run(seeds: int, out: Path | None) -> str:
    """Run the KnFu study on digits, and return its report; write the results into ``out``."""
    by_point = digits(seeds)
    found = [f"- {line}." for line in conclusions(by_point)]
    tables = [f"After {point}:\n\n{table(results)}\n" for point, results in by_point.items()]
    text = "\n".join([*tables, f"Accuracies in %; {seeds} paired seeds.", "", *found])
    if out:
        write(by_point, text, out)
    return text
