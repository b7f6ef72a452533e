"""Studies of KnFu: readings of its rule, its counterparts, and where local training wins.

The paper's text was not at hand, only its abstract: KnFu beats its counterparts, and local training
can be preferable where local data are large and highly heterogeneous. ``readings_at`` tries the
rules that the abstract permits on digits, ``COUNTERPARTS`` holds the default and the nearest of
them against other methods on three other data sets, on which it was not chosen, and ``AXES`` varies
the amount of data and its skew. Runs are those of ``studies``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from fedkd.cli.studies.study import (
    ByPoint,
    Results,
    Study,
    StudyClaim,
    carry_out,
    in_words,
    write_reports,
)
from fedkd.report.comparison.statistics import interval
from fedkd.report.method_colors import styles_of
from fedkd.report.plots import STYLE

ACCURACIES = ("personal_accuracy", "global_accuracy")
WHERE = {"personal_accuracy": "own distribution", "global_accuracy": "balanced test"}
BASE = (
    "clients=10",
    "test.global_size=1000",
    "test.private_size=100",
    "partition=inner_dirichlet",
    "models=[mlp]",
    "public.size=300",
    "rounds=5",
    "train.epochs=5",
    "train.batch_size=50",
    "distill.epochs=5",
    "distill.batch_size=50",
    "engine.workers=1",
)
NEAREST = "strategy.divergence=tv strategy.beta=10"
"""The reading of KnFu with the paper's beta that shows the abstract's behavior best on digits."""
OTHERS = (
    "mean=dsfl strategy.aggregation=mean",
    "fedmd",
    "dsfl",
    "ktpfl",
    "selective_fd",
)
NAMES_OF_OTHERS = tuple(method.partition("=")[0] for method in OTHERS)
KNFU = ("knfu", f"nearest=knfu {NEAREST}")

SIZES = (20, 100, 500, 2500)
SKEWS = ("0.1", "1")
AXES = Study(
    name="knfu_axes",
    title="KnFu: from how much data on does local training win?",
    data="mnist",
    base=BASE,
    methods=", ".join(("local_only", OTHERS[0], "fedmd", *KNFU)),
    grid=(f"partition.alpha={','.join(SKEWS)}", f"samples_per_client={','.join(map(str, SIZES))}"),
    claims=(
        *(
            StudyClaim(
                f"Strong skew and much data, own distribution: local training beats {method}",
                "personal_accuracy",
                ("local_only", "0.1, 2500"),
                (method, "0.1, 2500"),
            )
            for method in ("mean", "fedmd", "knfu", "nearest")
        ),
        *(
            StudyClaim(
                f"Mild skew and little data, own distribution: {method} beats local training",
                "personal_accuracy",
                (method, "1, 20"),
                ("local_only", "1, 20"),
            )
            for method in ("mean", "fedmd", "knfu", "nearest")
        ),
    ),
)


@dataclass(frozen=True)
class DataSet:
    """A data set of the study of counterparts, and how its runs differ from those on MNIST."""

    name: str
    seeds: int
    """Seeds, as a multiple of those asked for."""
    settings: tuple[str, ...] = ()
    """Settings instead of those of ``BASE``."""


DATA_SETS = (
    DataSet("mnist", 2),
    DataSet("fashion_mnist", 1),
    DataSet("cifar10", 1, ("models=[cnn]", "public.size=500")),
)


def counterparts(data: DataSet) -> Study:
    """Return the study of KnFu and its counterparts on a data set."""
    changed = {text.partition("=")[0]: text for text in (*BASE, *data.settings)}
    return Study(
        name=f"knfu_{data.name}",
        title=f"KnFu and its counterparts on {data.name}",
        data=data.name,
        base=(*changed.values(), "partition.alpha=0.3", "samples_per_client=200"),
        methods=", ".join(("local_only", *OTHERS, *KNFU)),
        figures=(*ACCURACIES, "effective_neighbors"),
        claims=tuple(
            StudyClaim(f"{ours} beats {theirs}, {WHERE[figure]}", figure, (ours, ""), (theirs, ""))
            for figure in ACCURACIES
            for ours in ("knfu", "nearest")
            for theirs in ("local_only", *NAMES_OF_OTHERS)
        ),
    )


COUNTERPARTS = {data: counterparts(data) for data in DATA_SETS}

BETAS = ("1", "10", "100")
DIVERGENCES = ("kl", "js", "tv", "cosine")
ESTIMATES = ("mean_soft_label", "argmax_histogram")
SCALES = ("none", "largest")
LITTLE, MUCH = "1, 20", "0.1, null"
"""Mild skew with little data, where fusion should pay, and strong skew with all digits, where
not."""


def readings() -> dict[str, str]:
    """Return the readings of KnFu's rule by label: the settings of each."""
    return {
        f"{divergence}_{estimate.partition('_')[0]}_{scale}_{beta}": (
            f"strategy.divergence={divergence} strategy.epd={estimate}"
            f" strategy.scale={scale} strategy.beta={beta}"
        )
        for divergence in DIVERGENCES
        for estimate in ESTIMATES
        for scale in SCALES
        for beta in BETAS
    }


def readings_at(setting: str) -> Study:
    """Return the study of readings in one setting of skew and data."""
    alpha, samples = setting.split(", ")
    settings = (f"partition.alpha={alpha}", f"samples_per_client={samples}")
    methods = ("local_only", OTHERS[0], "fedmd", *(f"{k}=knfu {v}" for k, v in readings().items()))
    return Study(
        name=f"knfu_readings_{alpha}_{samples}",
        title=f"Readings of KnFu's rule at {setting}",
        base=("scenario=knfu_digits", "engine.workers=1", "rounds=5", *settings),
        methods=", ".join(methods),
        figures=(*ACCURACIES, "effective_neighbors"),
        claims=(),
    )


@dataclass(frozen=True)
class Reading:
    """How near a reading comes to the abstract, at one point of a round, on own distributions.

    Differences are over paired seeds, in points.
    """

    label: str
    over_best: np.ndarray
    """With little data and mild skew: it less the best of the mean, FedMD and local training."""
    under_local: np.ndarray
    """With much data and strong skew: local training less it."""
    neighbors: tuple[float, float]
    """Effective neighbors in both settings."""

    @property
    def distance(self) -> float:
        """Points by which it misses the abstract: what it lacks on each side, added up."""
        lacking = (-float(self.over_best.mean()), -float(self.under_local.mean()))
        return sum(max(0.0, points) for points in lacking)


def rank(little: Results, much: Results) -> list[Reading]:
    """Return the readings, nearest to the abstract first; ties by what they gain over the best.

    The abstract says that KnFu beats its counterparts, and that local training can win where data
    are large and highly heterogeneous.
    """

    def own(results: Results, method: str) -> np.ndarray:
        return 100 * results[method, ""]["personal_accuracy"]

    best = max(("mean", "fedmd", "local_only"), key=lambda method: own(little, method).mean())
    found = [
        Reading(
            label,
            own(little, label) - own(little, best),
            own(much, "local_only") - own(much, label),
            (_neighbors(little, label), _neighbors(much, label)),
        )
        for label in readings()
    ]
    return sorted(found, key=lambda reading: (reading.distance, -reading.over_best.mean()))


def _neighbors(results: Results, label: str) -> float:
    return float(results[label, ""]["effective_neighbors"].mean())


def table_of_readings(little: ByPoint, much: ByPoint) -> str:
    """Return the readings at both points of a round as Markdown, nearest to the abstract first."""
    parts = []
    for point in little:
        ranked = rank(little[point], much[point])
        parts += [
            f"After {point}, own distributions, points:",
            "\n".join(
                [
                    "| divergence, EPD, scale, beta | over the best with little data |"
                    " local training over it with much | effective neighbors, both |",
                    "|---|---:|---:|---:|",
                    *(
                        f"| {', '.join(reading.label.split('_'))} |"
                        f" {in_words(interval(list(reading.over_best)), '+.1f')} |"
                        f" {in_words(interval(list(reading.under_local)), '+.1f')} |"
                        f" {reading.neighbors[0]:.1f}, {reading.neighbors[1]:.1f} |"
                        for reading in ranked
                    ),
                ]
            ),
        ]
    return "\n\n".join(parts)


def gains(results: Results, method: str, alpha: str, figure: str) -> list[np.ndarray]:
    """Return a method's gain over local training by size [sizes][seeds], in points.

    Args:
        results: Figures at one point of a round.
        method: The method's label.
        alpha: The skew.
        figure: The accuracy's name.
    """
    return [
        100
        * (
            results[method, f"{alpha}, {size}"][figure]
            - results["local_only", f"{alpha}, {size}"][figure]
        )
        for size in SIZES
    ]


def crossing(gain: Sequence[float], sizes: Sequence[int] = SIZES) -> float | None:
    """Return the amount of data at which a gain turns negative for good, or None if it does not.

    Interpolated in the logarithm of the amount; the smallest one where the gain is never positive.

    >>> crossing([4.0, 2.0, -2.0], [10, 100, 1000])
    316.2...
    >>> crossing([4.0, -2.0, 2.0], [10, 100, 1000]) is None
    True
    >>> crossing([-1.0, -2.0, -2.0], [10, 100, 1000])
    10.0
    """
    if gain[-1] >= 0:
        return None
    positive = [i for i, value in enumerate(gain) if value >= 0]
    if not positive:
        return float(sizes[0])
    low = positive[-1]
    share = gain[low] / (gain[low] - gain[low + 1])
    ends = np.log(sizes[low]), np.log(sizes[low + 1])
    return float(np.exp(ends[0] + share * (ends[1] - ends[0])))


SHOWN = ("mean", "fedmd", "knfu", "nearest")
STYLES = styles_of(("knfu", "fedmd", "mean", "nearest"))


def picture(by_point: ByPoint) -> Figure:
    """Draw gains over local training by the amount of data, a row a point, a column a skew."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 2.7 * len(by_point)), layout="constrained")
        axes = figure.subplots(len(by_point), len(SKEWS), sharex=True, sharey=True, squeeze=False)
        for row, (point, results) in zip(axes, by_point.items(), strict=True):
            for ax, alpha in zip(row, SKEWS, strict=True):
                _panel(ax, results, alpha)
                ax.set_title(f"alpha {alpha}, after {point}")
        for ax in axes[-1]:
            ax.set_xlabel("samples a client")
        for ax in axes[:, 0]:
            ax.set_ylabel("gain over local training,\nown distribution, points")
        labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(*labels, frameon=False, ncols=4, loc="outside lower center")
        return figure


def _panel(ax: Axes, results: Results, alpha: str) -> None:
    ax.axhline(0, color="black", linewidth=0.8)
    for method, (color, marker, dashes) in ((name, STYLES[name]) for name in SHOWN):
        found = [interval(list(g)) for g in gains(results, method, alpha, "personal_accuracy")]
        means = [float(one.mean or 0) for one in found]
        halves = [one.half or 0 for one in found]
        look = {"color": color, "marker": marker, "linestyle": dashes, "ms": 3, "capsize": 2}
        ax.errorbar(SIZES, means, halves, label=method, **look)
        zero = crossing(means)
        if zero is not None and zero > SIZES[0]:
            ax.plot([zero], [0], marker="x", color=color, ms=8, mew=2)
    ax.set_xscale("log")
    ax.set_xticks(SIZES, [str(size) for size in SIZES])
    ax.minorticks_off()
    ax.grid(axis="y", alpha=0.25, linewidth=0.6)


def crossings(by_point: ByPoint) -> str:
    """Return as Markdown where each method falls below local training, by skew and point."""
    lines = [
        "| own distribution | alpha | " + " | ".join(SHOWN) + " |",
        "|---|---|" + "---:|" * len(SHOWN),
    ]
    for point, results in by_point.items():
        for alpha in SKEWS:
            shown = []
            for method in SHOWN:
                means = [
                    float(g.mean()) for g in gains(results, method, alpha, "personal_accuracy")
                ]
                shown.append(_in_words(crossing(means)))
            lines.append(f"| after {point} | {alpha} | " + " | ".join(shown) + " |")
    return "\n".join(["Samples a client from which on local training is ahead:", "", *lines])


def _in_words(zero: float | None) -> str:
    if zero is None:
        return f"above {SIZES[-1]:,}"
    return f"below {SIZES[0]}" if zero <= SIZES[0] else f"about {zero:,.0f}"


NAMES = ("readings", *(f"{data.name}" for data in DATA_SETS), "axes")
"""Parts of the study, in the sequence in which they are carried out."""


def run(
    seeds: int,
    out: Path,
    jobs: int,
    console: Console,
    *,
    data: Path | None = None,
    only: Sequence[str] = NAMES,
) -> str:
    """Carry out the parts that are not complete, and return their reports as Markdown.

    Raises FedkdError where a run failed.

    Args:
        seeds: Paired seeds, from 0 on; MNIST's counterparts have twice as many.
        out: The folder that takes runs, tables and pictures.
        jobs: Runs at a time.
        console: Where progress is printed.
        data: A folder of data sets in the hub's layout, or None for the hub.
        only: Parts by name.
    """
    parts = []
    if "readings" in only:
        found = {
            setting: carry_out(readings_at(setting), seeds, out, jobs, console)
            for setting in (LITTLE, MUCH)
        }
        title = "## Which reading of KnFu's rule behaves as the abstract says?"
        where = f"Little: alpha and samples {LITTLE}; much: {MUCH} (null: all)."
        table = table_of_readings(found[LITTLE], found[MUCH])
        text = f"{title}\n\n{where}\n\n{table}\n"
        text += f"\n{seeds} paired seeds.\n"
        (out / "knfu_readings.md").write_text(text)
        parts.append(text)
    held = [
        (study, carry_out(study, seeds * data_set.seeds, out, jobs, console, data))
        for data_set, study in COUNTERPARTS.items()
        if data_set.name in only
    ]
    parts += write_reports(held, out)
    if "axes" in only:
        by_point = carry_out(AXES, seeds, out, jobs, console, data)
        text = f"{write_reports([(AXES, by_point)], out)[0]}\n{crossings(by_point)}\n"
        (out / f"{AXES.name}.md").write_text(text)
        for suffix in ("png", "pdf"):
            with matplotlib.rc_context(STYLE):
                picture(by_point).savefig(out / f"{AXES.name}.{suffix}")
        parts.append(text)
    return "\n".join(parts)
