"""The plot of accuracy and attack success over privacy budgets, for several mechanisms.

The axis is logarithmic. Runs without protection are drawn apart at its end; mechanisms without a
budget are horizontal bands.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from fedkd.report.comparison.budgets import UNPROTECTED, BudgetPoint
from fedkd.report.comparison.pictures import seeds_in_words
from fedkd.report.comparison.statistics import Interval
from fedkd.report.method_colors import GREY, STYLES, LineStyle
from fedkd.report.plots import STYLE

PANELS = (
    ("balanced", 100.0, "Clients' accuracy\n(%), balanced test", None),
    ("teacher", 100.0, "Accuracy of fused\nlabels (%)", None),
    ("auc", 1.0, "Attack AUC", 0.5),
    ("tpr", 100.0, "Attack TPR (%)\nat 1 % FPR", 1.0),
)
"""Figure, factor, label, and the value of guessing (None is not drawn: that of accuracy depends on
the classes)."""
STEP = 1.04
"""Factor between the marks of different mechanisms at one budget, so that they do not overlap."""
NOTE = "Noise is drawn from seeded streams: this simulates privacy, it protects nobody."


def draw_budgets(entries: Sequence[BudgetPoint], path: Path) -> list[Path]:
    """Write the plot to ``path`` (PNG) and to a PDF of the same name, and return both paths."""
    with matplotlib.rc_context(STYLE):
        figure = picture(entries)
        figure.savefig(path)
        figure.savefig(path.with_suffix(".pdf"))
    return [path, path.with_suffix(".pdf")]


def picture(entries: Sequence[BudgetPoint]) -> Figure:
    """Return the plot: a panel per measured figure, all over the same axis."""
    shown = [panel for panel in PANELS if any(entry.figures[panel[0]].seeds for entry in entries)]
    finite = sorted({e.budget for e in entries if e.budget is not None and math.isfinite(e.budget)})
    labels = list(dict.fromkeys(entry.label for entry in entries))
    figure = Figure(figsize=(6.4, 1.6 + 1.6 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    unprotected_x = _unprotected_position(finite)
    for ax, (name, factor, label, guessing) in zip(axes, shown, strict=True):
        for index, mechanism in enumerate(labels):
            own = [entry for entry in entries if entry.label == mechanism]
            shift = STEP ** (index - (len(labels) - 1) / 2)
            style = STYLES[index % len(STYLES)]
            _draw_mechanism(ax, own, style, name, factor=factor, apart=unprotected_x, shift=shift)
        if guessing is not None:
            ax.axhline(guessing, color=GREY, linestyle=(0, (1, 2)), linewidth=1, label="guessing")
        ax.set_ylabel(label)
        ax.set_xscale("log")
        ax.grid(axis="y", alpha=0.25, linewidth=0.6)
    _draw_axis(axes[-1], finite, unprotected_x, any(not entry.protected for entry in entries))
    seeds = seeds_in_words({len(entry.points) for entry in entries})
    axes[0].set_title(f"After {entries[0].first.after}; {seeds}", loc="left", fontsize=9)
    legend: dict[str, Any] = {}
    for ax in axes:
        handles, texts = ax.get_legend_handles_labels()
        legend |= dict(zip(texts, handles, strict=True))
    axes[-1].set_xlabel("Privacy budget epsilon of the whole run (log scale)")
    figure.legend(
        list(legend.values()),
        list(legend),
        frameon=False,
        ncols=2,
        loc="outside lower center",
        fontsize=8,
        title=NOTE,
        title_fontsize=8,
    )
    return figure


def _draw_mechanism(
    ax: Any,
    own: Sequence[BudgetPoint],
    line_style: LineStyle,
    name: str,
    *,
    factor: float,
    apart: float,
    shift: float,
) -> None:
    """Draw one mechanism: budgets as a line, no protection as a mark, no budget as a band.

    Args:
        ax: The axes.
        own: The mechanism's entries.
        line_style: Color, marker and dashes.
        name: The figure to draw.
        factor: Of its values.
        apart: The position of runs without protection.
        shift: Factor of positions.
    """
    color, marker, dashes = line_style
    text = _legend(own)
    known = [entry for entry in own if entry.figures[name].seeds]
    budgeted = [
        entry for entry in known if entry.budget is not None and math.isfinite(entry.budget)
    ]
    style = {
        "color": color,
        "marker": marker,
        "markersize": 4.5,
        "linewidth": 1.4,
        "capsize": 2.5,
        "elinewidth": 0.9,
    }
    if budgeted:
        x = [shift * entry.budget for entry in budgeted if entry.budget is not None]
        y, half = _scaled([entry.figures[name] for entry in budgeted], factor)
        ax.errorbar(x, y, half, linestyle=dashes, label=text, **style)
    for entry in known:
        y, half = _scaled([entry.figures[name]], factor)
        if not entry.protected:
            ax.errorbar(
                [apart * shift], y, half, linestyle="none", markerfacecolor="white", **style
            )
        elif entry.budget is None:
            ax.axhline(y[0], color=color, linestyle=dashes, linewidth=1.4, label=text)
            ax.axhspan(y[0] - half[0][0], y[0] + half[1][0], color=color, alpha=0.12, linewidth=0)


def _legend(own: Sequence[BudgetPoint]) -> str:
    """Return a mechanism's name with the unit and adversary of its epsilon."""
    for entry in own:
        if entry.first.spent is not None:
            return f"{entry.label} ({entry.first.unit}, against {entry.first.against})"
    return entry.label if entry.first.mechanism == UNPROTECTED else f"{entry.label} (no claim)"


def _scaled(
    found: Sequence[Interval], factor: float
) -> tuple[list[float], tuple[list[float], list[float]]]:
    """Return means and the lengths of intervals below and above them, scaled by ``factor``.

    Intervals end at 0 and 1, since the values are shares.
    """
    means = [math.nan if one.mean is None else one.mean for one in found]
    halves = [one.half or 0.0 for one in found]
    below = [factor * min(half, mean) for mean, half in zip(means, halves, strict=True)]
    above = [factor * min(half, 1 - mean) for mean, half in zip(means, halves, strict=True)]
    return [factor * mean for mean in means], (below, above)


def _unprotected_position(finite: Sequence[float]) -> float:
    """Return the position of runs without protection: 1.5 steps after the last budget."""
    if not finite:
        return 1.0
    step = (finite[-1] / finite[0]) ** (1 / max(1, len(finite) - 1)) if len(finite) > 1 else 2.0
    return float(finite[-1] * step**1.5)


def _draw_axis(ax: Any, finite: Sequence[float], apart: float, has_apart: bool) -> None:
    """Draw the ticks of the budgets and, if ``has_apart``, one for runs without protection.

    Args:
        ax: The axes.
        finite: The budgets, ascending.
        apart: The position of runs without protection.
        has_apart: Whether there are such runs.
    """
    ticks, texts = list(finite), [f"{budget:g}" for budget in finite]
    if has_apart:
        ticks, texts = [*ticks, apart], [*texts, "∞\n(unprotected)"]
    ax.set_xticks(ticks, texts)
    ax.set_xticks([], minor=True)
    if has_apart and finite:
        between = math.sqrt(finite[-1] * apart)
        for each in ax.figure.axes:
            each.axvline(between, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
    if finite:
        margin = (finite[-1] / finite[0]) ** 0.12 if len(finite) > 1 else 1.5
        ax.set_xlim(finite[0] / margin, (apart if has_apart else finite[-1]) * margin)
