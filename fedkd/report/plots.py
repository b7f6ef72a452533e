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
from fedkd.report.record_rows import ACCURACIES, Baseline, RunPlan, client_gains

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"  # of Okabe and Ito's palette
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "figure.dpi": 100,
    "savefig.dpi": 200,
}
TITLES = {
    "personal_accuracy": "Own label distribution",
    "global_accuracy": "Balanced test set",
}
MOST_NUMBERED = 20
"""The most clients or classes for which each is labeled."""


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
    with matplotlib.rc_context(STYLE):
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
        found["accuracy"] = lambda: accuracy_by_round(plan, records, baseline)
    found["partition"] = lambda: partition(plan)
    last = next((r for r in reversed(records) if r.weights is not None), None)
    if last is not None and last.weights is not None and plan.exchanges:
        weights, at = last.weights.numpy(), last.round
        found["weights"] = lambda: fusion_weights(plan, weights, at)
    if baseline is not None:
        found["gain"] = lambda: gain_by_client(plan, records[-1], baseline)
    return found


def draw(name: str, drawings: Mapping[str, Callable[[], Figure]]) -> Figure:
    """Return the plot of a name, which notebooks show as a picture. Raises SettingError."""
    if name not in drawings:
        raise unknown_name("plot", name, drawings)
    with matplotlib.rc_context(STYLE):
        return drawings[name]()


def accuracy_by_round(
    plan: RunPlan, records: Sequence[RoundRecord], baseline: Baseline | None
) -> Figure:
    """Draw both mean accuracies by round, with one standard deviation over clients as a band."""
    figure = Figure(figsize=(7.0, 2.9), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    rounds = [record.round for record in records]
    for ax, name in zip(axes, ACCURACIES, strict=True):
        for point, color, style in zip(plan.reported, (BLUE, GREEN), ("o-", "^-."), strict=False):
            found = [[getattr(c.after(point), name) for c in r.clients] for r in records]
            ours = np.array([[np.nan if v is None else v for v in values] for values in found])
            label = f"{plan.strategy}, after {point}"
            _band(ax, rounds, 100 * ours, color, style, label)
        if baseline is not None:
            alone = 100 * getattr(baseline, name)[: len(rounds)]
            _band(ax, rounds, alone, ORANGE, "s--", f"{plan.scenario['baseline']}, after training")
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
                    color="white" if dark else "black")  # fmt: skip
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


def fusion_weights(plan: RunPlan, weights: np.ndarray, round_number: int) -> Figure:
    """Draw the fusion weights beside the similarity of the clients' true label distributions."""
    shares = plan.label_counts / plan.label_counts.sum(axis=1, keepdims=True)
    similarity = 1 - np.abs(shares[:, None] - shares[None]).sum(axis=-1) / 2
    figure = Figure(figsize=(7.0, 3.1), layout=ConstrainedLayoutEngine(wspace=0.08))
    axes = figure.subplots(1, 2)
    for ax, values, title, label, top in (
        # Weights are often all near 1/K: on a scale up to 1 many clients would be one color.
        (axes[0], weights, f"Fusion weights, round {round_number} ({plan.strategy})",
         "Weight (scale ends at the largest)", np.nanmax(weights)),
        (axes[1], similarity, "Similarity of label distributions", "1 − total variation", 1.0),
    ):  # fmt: skip
        image = ax.imshow(values, cmap="viridis", vmin=0, vmax=top)
        ax.set_title(title)
        _client_ticks(ax.set_xticks, plan.clients, most=10)
        _client_ticks(ax.set_yticks, plan.clients, most=10)
        figure.colorbar(image, ax=ax, label=label, fraction=0.046)
        _frame(ax)
    axes[0].set_xlabel("Contributor (teaches)")
    axes[0].set_ylabel("Recipient (learns)")
    axes[1].set_xlabel("Client")
    axes[1].set_ylabel("Client")
    return figure


def gain_by_client(plan: RunPlan, last: RoundRecord, baseline: Baseline) -> Figure:
    """Draw each client's gain over local-only training, on both test sets; attackers have none."""
    figure = Figure(figsize=(7.0, 2.9), layout="constrained")
    ax = figure.subplots()
    x = np.arange(plan.clients)
    for offset, name, color in ((-0.2, ACCURACIES[0], BLUE), (0.2, ACCURACIES[1], ORANGE)):
        gain = 100 * np.array(
            [np.nan if v is None else v for v in client_gains(last, baseline, name, plan.after)]
        )
        ax.bar(x + offset, gain, width=0.4, color=color, label=TITLES[name])
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
