"""Plots of a run, as PNG and PDF, in colors that color-blind readers can tell apart.

Each function draws one matplotlib Figure; ``draw_run`` writes them all.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fedkd.errors import unknown_name
from fedkd.federation.round_records import RoundRecord
from fedkd.report.method_colors import GREY, LOCAL_ONLY_STYLE, style_of
from fedkd.report.record_rows import ACCURACIES, Baseline, RunPlan, client_gains, last_measured
from fedkd.settings.measuring_points import MEASURING_POINTS

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "figure.dpi": 100,
    "savefig.dpi": 200,
}
NAMING_STYLE: Any = {**STYLE, "text.parse_math": False}
"""For pictures with names that others choose, where a dollar is a dollar; logarithmic axes need
``STYLE``."""
TITLES = {
    "personal_accuracy": "Own label distribution",
    "global_accuracy": "Balanced test set",
}
MOST_NUMBERED = 20
"""The most clients or classes for which each is labeled."""
MOST_WRITTEN = 12
"""The most clients for which a weight is written into its cell."""
WEIGHT_PARTS = ("weights", "similarity")
CELL_INK = "#111111"
"""Of figures on light cells, whatever is behind the picture."""


def draw_run(
    plan: RunPlan, records: Sequence[RoundRecord], baseline: Baseline | None, folder: Path
) -> list[Path]:
    """Draw every plot that the run has data for, and return the paths of the PNG files.

    Args:
        plan: The run's.
        records: The rounds'.
        baseline: Local-only training, or None.
        folder: Where the files are written.
    """
    drawings = drawings_of(plan, records, baseline)
    folder.mkdir(exist_ok=True)
    with matplotlib.rc_context(NAMING_STYLE):
        for name, draw in drawings.items():
            figure = draw()
            figure.savefig(folder / f"{name}.png")
            figure.savefig(folder / f"{name}.pdf")
    return [folder / f"{name}.png" for name in drawings]


def drawings_of(
    plan: RunPlan, records: Sequence[RoundRecord], baseline: Baseline | None
) -> dict[str, Callable[[], Figure]]:
    """Return what draws each plot that a run has data for, by the plot's name."""
    found: dict[str, Callable[[], Figure]] = {}
    if plan.sends_metrics:
        found["accuracy"] = lambda: accuracy_by_round(
            plan, records, baseline, measured_on(records) or ACCURACIES
        )
    found["partition"] = lambda: partition(plan)
    last = next((r for r in reversed(records) if r.weights is not None), None)
    if last is not None and last.weights is not None and plan.exchanges:
        weights, at = last.weights.numpy(), last.round
        found["weights"] = lambda: fusion_weights(plan, weights, at)
    if baseline is not None:
        on = (measured_on(records) or ACCURACIES)[0]
        end = last_measured(records, on, plan.after)
        found["gain"] = lambda: gain_by_client(plan, end, baseline)
    return found


def measured_on(records: Sequence[RoundRecord]) -> list[str]:
    """Return the accuracies that some round has, one a test set."""
    points = [c.after(point) for r in records for c in r.clients for point in MEASURING_POINTS]
    return [name for name in ACCURACIES if any(getattr(p, name) is not None for p in points)]


def draw(name: str, drawings: Mapping[str, Callable[[], Figure]]) -> Figure:
    """Return the plot of a name, which notebooks show as a picture. Raises SettingError."""
    if name not in drawings:
        raise unknown_name("plot", name, drawings)
    with matplotlib.rc_context(NAMING_STYLE):
        return drawings[name]()


def accuracy_by_round(
    plan: RunPlan,
    records: Sequence[RoundRecord],
    baseline: Baseline | None,
    test_sets: Sequence[str] = ACCURACIES,
) -> Figure:
    """Draw mean accuracies by round, with one standard deviation over clients as a band.

    The method has one color at both points of a round, and local-only training is gray.

    Args:
        plan: The run's.
        records: The rounds'.
        baseline: Local-only training, or None.
        test_sets: The accuracies that are drawn, one beside the other.
    """
    figure = Figure(figsize=(3.5 * len(test_sets), 2.9), layout="constrained")
    axes = figure.subplots(1, len(test_sets), sharey=True, squeeze=False)[0]
    rounds = [record.round for record in records]
    (color, _, _), (grey, _, _) = style_of(plan.strategy), LOCAL_ONLY_STYLE
    for ax, name in zip(axes, test_sets, strict=True):
        for point, style in zip(plan.reported, ("o-", "^:"), strict=False):
            found = [[getattr(c.after(point), name) for c in r.clients] for r in records]
            ours = np.array([[np.nan if v is None else v for v in values] for values in found])
            label = f"{plan.strategy}, after {point}"
            _band(ax, rounds, 100 * ours, color, style, label)
        if baseline is not None:
            alone = 100 * getattr(baseline, name)[: len(rounds)]
            _band(ax, rounds, alone, grey, "s--", f"{plan.scenario['baseline']}, after training")
        ax.set_title(TITLES[name])
        ax.set_xlabel("Round")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.25, linewidth=0.6)
    axes[0].set_ylabel("Accuracy (%)\nmean ± s.d. over clients")
    axes[0].legend(frameon=False, loc="best")
    return figure


def _band(
    ax: Any, x: Sequence[int], values: np.ndarray, color: str, style: str, label: str
) -> None:
    """Draw the mean over clients of values [rounds, K], with one standard deviation as a band.

    Args:
        ax: The axes.
        x: The rounds.
        values: NaN where a client has none.
        color: Of line and band.
        style: Marker and dashes.
        label: For the legend.
    """
    there = ~np.isnan(values).all(axis=1)  # rounds without figures do not break the curve
    x, values = [one for one, is_there in zip(x, there, strict=True) if is_there], values[there]
    known = ~np.isnan(values)
    counts = np.maximum(known.sum(axis=1), 1)
    mean = np.where(known, values, 0).sum(axis=1) / counts
    std = np.sqrt(np.where(known, (values - mean[:, None]) ** 2, 0).sum(axis=1) / counts)
    ax.fill_between(
        x, mean - std, np.minimum(mean + std, 100), color=color, alpha=0.15, linewidth=0
    )
    ax.plot(x, mean, style, color=color, label=label, markersize=3.5, linewidth=1.5)


def partition(plan: RunPlan) -> Figure:
    """Draw the numbers of training samples, or texts, by class and client."""
    counts = plan.label_counts.T
    classes, clients = counts.shape
    figure = Figure(
        figsize=(min(7.0, 2.2 + 0.42 * clients), min(7.0, 1.4 + 0.3 * classes)),
        layout="constrained",
    )
    ax = figure.subplots()
    image = ax.imshow(counts, cmap="Blues", aspect="auto", vmin=0)
    if clients <= MOST_NUMBERED and classes <= MOST_NUMBERED:
        for row, column in np.ndindex(counts.shape):
            dark = counts[row, column] > counts.max() / 2
            ax.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7,
                    color="white" if dark else CELL_INK)  # fmt: skip
    _client_ticks(ax.set_xticks, clients)
    if classes <= 2 * MOST_NUMBERED:
        ax.set_yticks(range(classes), plan.class_names)
    ax.set_xlabel("Client")
    ax.set_ylabel("Class")
    ax.set_title(
        f"Training {plan.dealt} by class and client ({plan.scenario['partition']['name']})"
    )
    figure.colorbar(image, ax=ax, label=plan.dealt.capitalize())
    _frame(ax)
    return figure


def fusion_weights(
    plan: RunPlan,
    weights: np.ndarray,
    round_number: int,
    parts: Sequence[str] = WEIGHT_PARTS,
) -> Figure:
    """Draw the fusion weights beside the similarity of the clients' true label distributions.

    What a client weighs for itself would hide all others on one scale: it is written, and the scale
    ends at the largest weight that another has.

    Args:
        plan: The run's.
        weights: [K, K], NaN for clients without a teacher.
        round_number: Their round.
        parts: Which of ``WEIGHT_PARTS`` are drawn.
    """
    figure = Figure(figsize=(3.5 * len(parts), 3.1), layout=ConstrainedLayoutEngine(wspace=0.08))
    axes = dict(zip(parts, figure.subplots(1, len(parts), squeeze=False)[0], strict=True))
    if "weights" in axes:
        ax, percent = axes["weights"], 100 * weights
        others = np.where(np.eye(plan.clients, dtype=bool), np.nan, percent)
        top = np.nanmax(others) if np.isfinite(others).any() else 0.0
        _square(ax, others, top if top > 0 else 1.0, "Weight of another client (%)", plan.clients)
        _write_own_weights(ax, np.diagonal(percent))
        ax.set_title(f"Who teaches whom, round {round_number} ({plan.strategy})")
        ax.set_xlabel("Teaches")
        ax.set_ylabel("Learns")
    if "similarity" in axes:
        shares = plan.label_counts / plan.label_counts.sum(axis=1, keepdims=True)
        similarity = 1 - np.abs(shares[:, None] - shares[None]).sum(axis=-1) / 2
        similarity[np.eye(plan.clients, dtype=bool)] = np.nan  # 1, which would end the scale
        ax, top = axes["similarity"], np.nanmax(similarity, initial=1e-9)
        _square(ax, similarity, top, "1 − total variation", plan.clients)
        ax.set_title("Similarity of label distributions")
        ax.set_xlabel("Client")
        ax.set_ylabel("Client")
    return figure


def _square(ax: Any, values: np.ndarray, top: float, label: str, clients: int) -> None:
    """Draw a value for each pair of clients.

    Args:
        ax: The axes.
        values: [K, K]; NaN is light gray.
        top: The end of the scale, which begins at 0.
        label: Of the scale.
        clients: K.
    """
    shades = matplotlib.colormaps["viridis"].with_extremes(bad="#e4e4e4")
    image = ax.imshow(values, cmap=shades, vmin=0, vmax=top)
    _client_ticks(ax.set_xticks, clients, most=10)
    _client_ticks(ax.set_yticks, clients, most=10)
    ax.figure.colorbar(image, ax=ax, label=label, fraction=0.046)
    _frame(ax)


def _write_own_weights(ax: Any, own: np.ndarray) -> None:
    """Write each client's weight for itself, in %, on the diagonal, or their range below it."""
    known = own[~np.isnan(own)]
    if len(own) <= MOST_WRITTEN:
        for client, weight in enumerate(own):
            text = "" if np.isnan(weight) else f"{weight:.0f}"
            ax.text(client, client, text, ha="center", va="center", fontsize=7, color=CELL_INK)
    elif len(known):
        said = f"gray: itself, {known.min():.0f} to {known.max():.0f} %"
        ax.text(0.02, 0.02, said, transform=ax.transAxes, fontsize=7, color=CELL_INK,
                bbox={"facecolor": "#e4e4e4", "edgecolor": "none", "pad": 2})  # fmt: skip


def gain_by_client(plan: RunPlan, last: RoundRecord, baseline: Baseline) -> Figure:
    """Draw each client's gain over local-only training, on both test sets; attackers have none."""
    figure = Figure(figsize=(7.0, 2.9), layout="constrained")
    ax = figure.subplots()
    x = np.arange(plan.clients)
    color, _, _ = style_of(plan.strategy)
    for offset, name, hatch in ((-0.2, ACCURACIES[0], ""), (0.2, ACCURACIES[1], "////")):
        gain = 100 * np.array(
            [np.nan if v is None else v for v in client_gains(last, baseline, name, plan.after)]
        )
        face = "none" if hatch else color
        ax.bar(x + offset, gain, width=0.38, facecolor=face, edgecolor=color, hatch=hatch,
               linewidth=0.6, label=TITLES[name])  # fmt: skip
    ax.axhline(0, color=GREY, linewidth=0.8)
    _client_ticks(ax.set_xticks, plan.clients)
    if plan.clients <= MOST_NUMBERED:
        names = [
            "attacks" if i in plan.attackers else _short(name)
            for i, name in enumerate(plan.architectures)
        ]
        ax.set_xticks(x, [f"{i}\n{name}" for i, name in enumerate(names)], fontsize=8)
    ax.set_xlabel("Client")
    ax.set_ylabel(f"Gain over {plan.scenario['baseline']}\n(points of accuracy)")
    when = f"after {plan.after} of round {last.round}"
    ax.set_title(f"Gain by client {when} ({plan.strategy})")
    ax.grid(axis="y", alpha=0.25, linewidth=0.6)
    ax.legend(frameon=False)
    return figure


def _client_ticks(set_ticks: Any, clients: int, most: int = MOST_NUMBERED) -> None:
    step = max(1, -(-clients // most))
    set_ticks(range(0, clients, step))


def _short(name: str) -> str:
    return name.rpartition(":")[2][:8]


def _frame(ax: Any) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(True)
