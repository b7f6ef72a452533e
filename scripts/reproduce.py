"""Reproduce published orderings of methods on real data, over paired seeds.

    python scripts/reproduce.py digits [--seeds 5] [--out FOLDER]
    python scripts/reproduce.py orderings [--data FOLDER] [--seeds 3] [--jobs 2] --out FOLDER
    python scripts/reproduce.py paper     [--data FOLDER] [--seeds 3] [--jobs 2] --out FOLDER
    python scripts/reproduce.py plugins   [--seeds 5] [--jobs 2] --out FOLDER
    python scripts/reproduce.py attacks   [--seeds 3] [--jobs 2] --out FOLDER
    python scripts/reproduce.py knfu      [--data FOLDER] [--seeds 5] [--jobs 2] --out FOLDER
    python scripts/reproduce.py fedproto  [--data FOLDER] [--seeds 3] [--rounds N] --out FOLDER
    python scripts/reproduce.py swing     [--seeds 3] [--jobs 2] --out FOLDER
    python scripts/reproduce.py swing_kd  [--seeds 5] [--jobs 2] --out FOLDER

``digits`` repeats the KnFu study: local training, the plain mean of soft labels, and KnFu, on
scikit-learn's digits, in three regimes of label skew and data size. Both accuracies are means over
clients; the figure after ± is half the width of a 95 % t-interval over seeds. A conclusion holds if
the 95 % interval of the paired difference excludes the contrary.

``orderings`` are six orderings of methods on MNIST, Fashion-MNIST and CIFAR-10
(scripts/orderings.py); ``paper`` is FedMD's comparison with its published figures; ``fedproto``
is Table 1 of FedProto (scripts/fedproto_table.py); ``attacks`` is
the attacked fraction up to which each fusion rule helps (scripts/break_even.py); ``plugins`` are
the expected effects of plug-ins on digits (scripts/plugins.py); ``knfu`` asks which reading of
KnFu behaves as its abstract says, holds it against its counterparts, and finds from how much data
on local training wins (scripts/knfu_study.py); ``swing`` measures what soft labels
of text leak in a federation, and what prevents it (scripts/swing_study.py), on a small embedded
corpus; ``swing_kd`` does so between one teacher and a smaller student
(scripts/swing_kd_study.py).

Runs are stored below --out, and the same command continues them. --data is a folder with mnist/,
fashion_mnist/ and cifar10/ in the hub's layout; by default they come from the hub. --only selects
orderings, plug-ins, attacks (or ``costs``: what rules cost without any), parts of knfu, FedProto's
n or settings of swing by name.
"""

import argparse
import csv
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import break_even
import fedproto_table
import knfu_study
import matplotlib
import numpy as np
import shifted
import swing_kd_report
import swing_kd_study
import swing_report
import swing_study
import unseen
import yaml
from matplotlib.figure import Figure
from orderings import FEDMD, ORDERINGS
from plugins import PLUGINS
from rich.console import Console
from rich.progress import track
from scipy import stats
from studies import print_all, report_stored

from fedkd.errors import FedkdError
from fedkd.experiment.build import build
from fedkd.experiment.run import execute
from fedkd.federation.round_records import RoundRecord
from fedkd.report.comparison.family_verdicts import judge
from fedkd.report.plots import BLUE, GREY, ORANGE, STYLE
from fedkd.runtime.interrupts import described, exit_status
from fedkd.scenario.scenario import Scenario
from fedkd.settings.measuring_points import MEASURING_POINTS, MeasuringPoint

ROOT = Path(__file__).parent.parent
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
OF_MODELS = {shifted.SHIFTED.name: shifted.carry_out, unseen.UNSEEN.name: unseen.carry_out}
"""Studies of plug-ins that measure the models of a run further; their runs are not resumable."""
OF_SWING = {
    "swing": (swing_study.FEDERATION, swing_report.write),
    "swing_kd": (swing_kd_study.ONE_TEACHER, swing_kd_report.write),
}
"""Studies of swing, and what writes their reports."""
FIVE_SEEDS = ("digits", "plugins", "knfu", "swing_kd")
"""Studies that are of five seeds by default."""
STUDIES = {"orderings": ORDERINGS, "paper": (FEDMD,), "plugins": PLUGINS}

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
    values = yaml.safe_load((ROOT / "scenarios" / "knfu_digits.yaml").read_text())
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


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % t-interval."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), 0.0
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(values.mean()), float(half)


def table(results: Results) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| regime | method | own distribution | balanced test | effective neighbors, first to last"
        " round |",
        "|---|---|---|---|---|",
    ]
    for (regime, method), figures in results.items():
        local, balanced = (
            _percent(interval(figures[name])) for name in ("personal_accuracy", "global_accuracy")
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
        mean, half = interval(self.difference(results))
        holds = abs(mean) <= 0.02 and mean - half <= 0 <= mean + half
        return "holds" if holds else "does NOT hold"

    def shown(self, results: Results) -> str:
        """Return the difference with its interval."""
        size = _points(interval(self.difference(results)))
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
            for i, method in enumerate(METHODS):
                means, halves = zip(
                    *(interval(results[regime, method][name]) for regime in REGIMES), strict=True
                )
                x = np.arange(len(REGIMES)) + (i - (len(METHODS) - 1) / 2) * width
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


def _percent(value: tuple[float, float]) -> str:
    return f"{100 * value[0]:.1f} ± {100 * value[1]:.1f}"


def _points(value: tuple[float, float]) -> str:
    return f"{100 * value[0]:+.1f} ± {100 * value[1]:.1f}"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        choices=[
            "digits",
            "orderings",
            "paper",
            "plugins",
            "attacks",
            "knfu",
            "fedproto",
            *OF_SWING,
        ],
    )
    parser.add_argument(
        "--seeds", type=int, help=f"paired seeds, 0 to N-1; {', '.join(FIVE_SEEDS)} 5, others 3"
    )
    parser.add_argument("--out", type=Path, help="folder of the tables, figures and runs")
    parser.add_argument("--data", type=Path, help="folder of data sets; default: the hub")
    parser.add_argument("--rounds", type=int, help="rounds of fedproto; default: the paper's")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="orderings, plug-ins, attacks, parts of knfu or settings of swing by name",
    )
    parser.add_argument(
        "--stored",
        type=Path,
        metavar="FOLDER",
        help="print orderings, plugins or paper again from the CSV files of a folder; run nothing",
    )
    return parser


def known_names(what: str) -> list[str]:
    """Return the names that --only may select from, none where it has no effect."""
    if what in OF_SWING:
        return list(OF_SWING[what][0].by_name)
    if what == "knfu":
        return list(knfu_study.NAMES)
    if what == "attacks":
        return list(break_even.NAMES)
    if what == "fedproto":
        return list(fedproto_table.NAMES)
    names = [study.name for study in STUDIES.get(what, ())]
    return names + list(OF_MODELS) if what == "plugins" else names


def run_digits(seeds: int, out: Path | None) -> str:
    """Run the KnFu study on digits, and return its report; write the results into ``out``."""
    by_point = digits(seeds)
    found = [f"- {line}." for line in conclusions(by_point)]
    tables = [f"After {point}:\n\n{table(results)}\n" for point, results in by_point.items()]
    text = "\n".join([*tables, f"Accuracies in %; {seeds} paired seeds.", "", *found])
    if out:
        write(by_point, text, out)
    return text


def run_studies(given: argparse.Namespace, seeds: int, names: Sequence[str]) -> str:
    """Carry out the chosen studies, write their reports, and return them as one text.

    Raises FedkdError if a run failed.
    """
    console = Console(highlight=False, soft_wrap=True, stderr=True)
    if given.what == "attacks":
        return break_even.report(seeds, given.out, given.jobs, console, names)
    if given.what in OF_SWING:
        study, write_report = OF_SWING[given.what]
        measured = study.carry_out(seeds, given.out, given.jobs, console, names)
        return write_report(measured, given.out)
    if given.stored is not None:
        chosen = [study for study in STUDIES[given.what] if study.name in names]
        return report_stored(chosen, given.stored)
    if given.what == "knfu":
        return knfu_study.run(seeds, given.out, given.jobs, console, data=given.data, only=names)
    if given.what == "fedproto":
        return fedproto_table.report(
            seeds, given.out, given.jobs, console, given.data, given.rounds, names
        )
    chosen = [study for study in STUDIES[given.what] if study.name in names]
    text = print_all(chosen, seeds, given.out, given.jobs, console, given.data)
    for name in names:
        if given.what == "plugins" and name in OF_MODELS:
            text += "\n" + OF_MODELS[name](seeds, given.out)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status: 0, 1 (a run failed), 130 (Ctrl-C)."""
    parser = make_parser()
    given = parser.parse_args(arguments)
    seeds = given.seeds or (5 if given.what in FIVE_SEEDS else 3)
    if seeds < 2:
        parser.error("--seeds must be at least 2: an interval needs two runs")
    if given.rounds is not None and (given.what != "fedproto" or given.rounds < 2):
        parser.error("--rounds is for fedproto, and at least 2: the first round has no prototypes")
    if given.what == "digits":
        print(run_digits(seeds, given.out))
        return 0
    if given.stored is not None and given.what not in STUDIES:
        parser.error(f"--stored goes with {', '.join(STUDIES)}, not with {given.what}")
    if given.out is None and given.stored is None:
        parser.error(f"{given.what} needs --out FOLDER for its runs")
    known = known_names(given.what)
    unknown = [name for name in given.only or () if known and name not in known]
    if unknown:
        parser.error(f"--only: {', '.join(unknown)} is none of {'; '.join(known)}")
    if given.what in OF_SWING and "plain" not in (given.only or known):
        parser.error("--only must name 'plain', which the others are compared with")
    names = [name for name in known if name in given.only] if given.only else known
    try:
        print(run_studies(given, seeds, names))
    except FedkdError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        said = described(interruption)
        print(f"reproduce: {said}; the same command continues from here", file=sys.stderr)
        return exit_status(interruption)
    return 0


if __name__ == "__main__":
    sys.exit(main())
