"""Reproduce published orderings on real data, over paired seeds, and say which of them hold here.

    python scripts/reproduce.py digits [--seeds 5] [--out FOLDER]
    python scripts/reproduce.py orderings [--data FOLDER] [--seeds 3] [--jobs 2] --out FOLDER
    python scripts/reproduce.py paper     [--data FOLDER] [--seeds 3] [--jobs 2] --out FOLDER
    python scripts/reproduce.py plugins   [--seeds 5] [--jobs 2] --out FOLDER
    python scripts/reproduce.py attacks   [--seeds 3] [--jobs 2] --out FOLDER
    python scripts/reproduce.py swing     [--seeds 3] [--jobs 2] --out FOLDER

``digits`` repeats the KnFu study: local training, the plain mean of soft labels, and KnFu, on
scikit-learn's digits, in three regimes of label skew and data size. Both accuracies are means over
clients; the figure behind ± is half of a 95 % t-interval over seeds. A conclusion is said to hold
where the 95 % interval of the paired difference says so.

``orderings`` are six between methods, on MNIST, Fashion-MNIST and CIFAR-10 (scripts/orderings.py);
``paper`` is FedMD's comparison beside its published figures; ``attacks`` the attacked fraction that
each fusion rule bears. Their runs lie below --out, and the same command goes on where it was ended.
--data is a folder with mnist/, fashion_mnist/ and cifar10/ in the hub's layout; without it they
come from the hub. ``plugins`` are what plug-ins are expected to do, on digits (scripts/plugins.py).
--only picks orderings, plug-ins or settings of swing by name.

``swing`` measures what soft labels of text leak, and what stops it (scripts/swing_study.py), on a
small embedded corpus.
"""

import argparse
import csv
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import break_even
import matplotlib
import numpy as np
import shifted
import swing_page
import swing_study
import unseen
import yaml
from matplotlib.figure import Figure
from orderings import FEDMD, ORDERINGS
from plugins import PLUGINS
from rich.console import Console
from rich.progress import track
from scipy import stats
from studies import print_all

from fedkd.errors import FedkdError
from fedkd.experiment.build import build
from fedkd.experiment.run import execute
from fedkd.federation.round_records import RoundRecord
from fedkd.report.plots import BLUE, GREY, ORANGE, STYLE
from fedkd.scenario.scenario import Scenario

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
"""Studies of plug-ins that ask more of the models than a run measures; they are run whole each
time."""

Results = dict[tuple[str, str], dict[str, np.ndarray]]


def digits(seeds: int) -> Results:
    """Run the KnFu study: figures [seeds] by regime and method."""
    jobs = [(r, m, s) for r in REGIMES for m in METHODS for s in range(seeds)]
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for regime, method, seed in track(jobs, description=f"{len(jobs)} runs", transient=True):
        found.setdefault((regime, method), []).append(
            one_run(REGIMES[regime], METHODS[method], seed)
        )
    return {
        key: {name: np.array([run[name] for run in runs]) for name in FIGURES}
        for key, runs in found.items()
    }


def one_run(regime: Mapping[str, Any], strategy: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Return a run's final figures, means over clients."""
    plain = yaml.safe_load((ROOT / "scenarios" / "knfu_digits.yaml").read_text())
    scenario = Scenario.parse({**plain, **regime, "strategy": strategy, "seed": seed})
    records: list[RoundRecord] = []
    stop = threading.Event()
    execute(build(scenario, stop), records.append, stop)

    def mean(record: RoundRecord, name: str) -> float:
        return float(np.mean([getattr(client, name) for client in record.clients]))

    return {
        "personal_accuracy": mean(records[-1], "personal_accuracy"),
        "global_accuracy": mean(records[-1], "global_accuracy"),
        "neighbors_first": mean(records[0], "effective_neighbors"),
        "neighbors_last": mean(records[-1], "effective_neighbors"),
    }


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


def conclusions(results: Results) -> list[str]:
    """Return each conclusion of the study with what was found here."""

    def difference(regime: str, ours: str, theirs: str, name: str) -> tuple[float, float]:
        return interval(results[regime, ours][name] - results[regime, theirs][name])

    found = []
    for claim, kind, regime, ours, theirs, name in (
        (
            "The paper's conclusion: with large and highly skewed local data, local training is"
            " preferable to the mean"
            " (own distribution)",
            "above",
            SKEWED,
            "local only",
            "mean",
            "personal_accuracy",
        ),
        (
            "There KnFu follows local training (own distribution)",
            "equal",
            SKEWED,
            "KnFu",
            "local only",
            "personal_accuracy",
        ),
        (
            "With mild skew, KnFu beats local training (own distribution)",
            "above",
            MILD,
            "KnFu",
            "local only",
            "personal_accuracy",
        ),
        (
            "With mild skew, KnFu beats local training (balanced test)",
            "above",
            MILD,
            "KnFu",
            "local only",
            "global_accuracy",
        ),
        (
            "With scarce data, the mean beats local training (own distribution)",
            "above",
            SCARCE,
            "mean",
            "local only",
            "personal_accuracy",
        ),
        (
            "With scarce data, KnFu beats local training (own distribution)",
            "above",
            SCARCE,
            "KnFu",
            "local only",
            "personal_accuracy",
        ),
        (
            "With scarce data, KnFu beats local training (balanced test)",
            "above",
            SCARCE,
            "KnFu",
            "local only",
            "global_accuracy",
        ),
    ):
        mean, half = difference(regime, ours, theirs, name)
        if kind == "above":
            verdict = (
                "holds" if mean - half > 0 else "does NOT hold" if mean + half < 0 else "not shown"
            )
        else:
            verdict = (
                "holds"
                if abs(mean) <= 0.02 and mean - half <= 0 <= mean + half
                else "does NOT hold"
            )
        found.append(f"{claim}: {verdict} ({ours} less {theirs}: {_points((mean, half))} points)")
    drift = results[SCARCE, "KnFu"]
    first, last = drift["neighbors_first"].mean(), drift["neighbors_last"].mean()
    verdict = (
        "holds" if (drift["neighbors_last"] > drift["neighbors_first"]).all() else "does NOT hold"
    )
    found.append(
        f"With scarce data, an EPD made again each round drifts to uniform weights: {verdict}"
        f" (effective neighbors {first:.1f} in the first round, {last:.1f} in the last, of 10)"
    )
    return found


def picture(results: Results) -> Figure:
    """Draw both accuracies by regime and method with their intervals."""
    with matplotlib.rc_context(STYLE | {"axes.axisbelow": True}):
        figure = Figure(figsize=(7.0, 3.0), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        titles = {
            "personal_accuracy": "Own label distribution",
            "global_accuracy": "Balanced test set",
        }
        width = 0.8 / len(METHODS)
        for ax, (name, title) in zip(axes, titles.items(), strict=True):
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
            ax.set_title(title)
            ax.grid(axis="y", alpha=0.25, linewidth=0.6)
        axes[0].set_ylabel("Accuracy (%), mean over clients\n95 % interval over seeds")
        figure.legend(
            *axes[0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside lower center"
        )
        return figure


def write(results: Results, text: str, folder: Path) -> None:
    """Write the table, every seed's figures and the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "knfu_digits.md").write_text(text + "\n")
    with (folder / "knfu_digits.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["regime", "method", "seed", *FIGURES])
        for (regime, method), figures in results.items():
            for seed in range(len(figures[FIGURES[0]])):
                rows.writerow(
                    [regime, method, seed, *(f"{figures[name][seed]:.6f}" for name in FIGURES)]
                )
    for suffix in ("png", "pdf"):
        with matplotlib.rc_context(STYLE):
            picture(results).savefig(folder / f"knfu_digits.{suffix}")


def _percent(value: tuple[float, float]) -> str:
    return f"{100 * value[0]:.1f} ± {100 * value[1]:.1f}"


def _points(value: tuple[float, float]) -> str:
    return f"{100 * value[0]:+.1f} ± {100 * value[1]:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, print it, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", choices=["digits", "orderings", "paper", "plugins", "attacks", "swing"]
    )
    parser.add_argument(
        "--seeds", type=int, help="paired seeds, 0 to N-1; digits and plugins 5, others 3"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="write tables and every seed's figures here, and keep runs below it",
    )
    parser.add_argument("--data", type=Path, help="folder of data sets; default: the hub")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="orderings, plug-ins or settings of swing by name"
    )
    given = parser.parse_args(arguments)
    seeds = given.seeds or (5 if given.what in ("digits", "plugins") else 3)
    if seeds < 2:
        parser.error("--seeds must be at least 2: an interval needs two runs")
    if given.what == "digits":
        results = digits(seeds)
        found = [f"- {line}." for line in conclusions(results)]
        text = "\n".join(
            [table(results), "", f"Accuracies in %; {seeds} paired seeds.", "", *found]
        )
        print(text)
        if given.out:
            write(results, text, given.out)
        return 0
    if given.out is None:
        parser.error(f"{given.what} needs --out FOLDER for its runs")
    wanted = given.only or list(swing_study.BY_NAME)
    if given.what == "swing" and (
        unknown := [name for name in wanted if name not in swing_study.BY_NAME]
    ):
        parser.error(f"--only: {', '.join(unknown)} is none of {', '.join(swing_study.BY_NAME)}")
    if given.what == "swing" and "plain" not in wanted:
        parser.error("--only must name 'plain', which the others are held against")
    console = Console(highlight=False, soft_wrap=True, stderr=True)
    try:
        if given.what == "attacks":
            text = break_even.report(seeds, given.out, given.jobs, console)
        elif given.what == "swing":
            measured = swing_study.carry_out(seeds, given.out, given.jobs, console, wanted)
            text = swing_page.write(measured, given.out)
        else:
            known = {"orderings": ORDERINGS, "paper": (FEDMD,), "plugins": PLUGINS}[given.what]
            names = [study.name for study in known] + list(
                OF_MODELS if given.what == "plugins" else ()
            )
            unknown = [name for name in given.only or () if name not in names]
            if unknown:
                parser.error(f"--only: {', '.join(unknown)} is none of {', '.join(names)}")
            chosen = [study for study in known if study.name in (given.only or names)]
            text = print_all(chosen, seeds, given.out, given.jobs, console, given.data)
            for name in OF_MODELS if given.what == "plugins" else ():
                if name in (given.only or names):
                    text += "\n" + OF_MODELS[name](seeds, given.out)
    except FedkdError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("reproduce: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
