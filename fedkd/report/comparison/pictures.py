"""Plots of a comparison: accuracy of several methods by round and by bytes, as means with bands.

Methods differ by color, by marker and by dashes, each of which suffices (``method_colors``).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fedkd.report.comparison.figures import Line, Setting
from fedkd.report.comparison.statistics import interval
from fedkd.report.method_colors import LOCAL_ONLY_STYLE, LineStyle, styles_of
from fedkd.report.plots import NAMING_STYLE, TITLES
from fedkd.report.record_rows import ACCURACIES

MARKS = 10
"""Markers on a line, about."""
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


def draw(
    lines: Sequence[Line], baselines: Sequence[Line], folder: Path, names: Mapping[Setting, str]
) -> list[Path]:
    """Write both plots of each setting, as PNG and PDF, and return the paths of the PNG files.

    Args:
        lines: The methods.
        baselines: Local-only training, by setting.
        folder: Where the files are written.
        names: Ends of the file names, by setting.
    """
    styles, drawn = styles_of(list(dict.fromkeys(line.method for line in lines))), []
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(NAMING_STYLE):
        for setting, end in names.items():
            methods, local_only = (
                [line for line in some if line.setting == setting] for some in (lines, baselines)
            )
            if not methods:
                continue
            after = next(iter(methods[0].runs.values())).after
            title = ", ".join(f"{key}={value}" for key, value in methods[0].setting)
            for by in ("round", "bytes"):
                figure = accuracy(methods, local_only, styles, by, title, f" after {after}")
                path = folder / f"accuracy_by_{by}{end}.png"
                figure.savefig(path)
                figure.savefig(path.with_suffix(".pdf"))
                drawn.append(path)
    return drawn


def accuracy(
    lines: Sequence[Line],
    baselines: Sequence[Line],
    styles: Mapping[str, LineStyle],
    by: str,
    title: str,
    when: str = "",
) -> Figure:
    """Draw both accuracies of a setting: means over seeds, with 95 % t-intervals as bands.

    By bytes, a round is drawn at the mean traffic until its end. A method that sends nothing is a
    horizontal line there: its accuracy in the last round.

    Args:
        lines: The methods.
        baselines: Local-only training.
        styles: Line styles by method.
        by: "round" or "bytes".
        title: Of the figure, or "".
        when: At which point of a round, in words.
    """
    rows = -(-(len(lines) + len(baselines)) // 4)
    figure = Figure(figsize=(7.0, 3.0 + 0.18 * (rows - 1)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    sums = [_mean(line, _traffic).cumsum() for line in lines]
    unit, unit_name = next(
        (u for u in UNITS if u[0] <= max((s[-1] for s in sums), default=1)), UNITS[-1]
    )
    for ax, name in zip(axes, ACCURACIES, strict=True):
        for line, total in zip(
            [*lines, *baselines], [*sums, *(np.zeros(1) for _ in baselines)], strict=True
        ):
            style = styles.get(line.method, LOCAL_ONLY_STYLE)
            values = 100 * np.array([run.of_round(name) for run in line.runs.values()])
            there = ~np.isnan(values).all(axis=0)  # the rounds that have figures
            if by == "round":
                x = np.arange(1, values.shape[1] + 1)
                _curve(ax, x[there], values[:, there], style, line.method)
            elif total[-1] > 0:
                _curve(ax, (total / unit)[there], values[:, there], style, line.method)
            else:
                _horizontal(ax, values[:, -1], style, line.method)
        ax.set_title(TITLES[name])
        ax.set_xlabel(
            "Round" if by == "round" else f"Sent and received by all clients so far ({unit_name})"
        )
        if by == "round":
            ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.25, linewidth=0.6)
    axes[0].set_ylabel(f"Accuracy{when} (%)\n{seeds_in_words({len(line.runs) for line in lines})}")
    if title:
        figure.suptitle(title, fontsize=9)
    figure.legend(
        *axes[0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside lower center"
    )
    return figure


def seeds_in_words(seeds: set[int]) -> str:
    """Return the meaning of lines and bands over these numbers of seeds, in words.

    >>> seeds_in_words({1}), seeds_in_words({3, 4})
    ('1 seed', 'mean and 95 % interval, 3 to 4 seeds')
    """
    if seeds == {1}:
        return "1 seed"
    count = " to ".join(str(n) for n in sorted({min(seeds), max(seeds)}))
    return f"mean and 95 % interval, {count} seeds"


def _traffic(run: Any) -> np.ndarray:
    total: np.ndarray = run.of_round("bytes_up") + run.of_round("bytes_down")
    return total


def _mean(line: Line, figure: Any) -> np.ndarray:
    mean: np.ndarray = np.mean([figure(run) for run in line.runs.values()], axis=0)
    return mean


def _curve(ax: Any, x: np.ndarray, values: np.ndarray, style: LineStyle, label: str) -> None:
    """Draw the mean over seeds of values [seeds, R], with the interval as a band.

    Args:
        ax: The axes.
        x: Positions [R].
        values: The values.
        style: Color, marker and dashes.
        label: For the legend.
    """
    color, marker, dashes = style
    intervals = [interval(of_round) for of_round in values.T.tolist()]
    mean = np.array([np.nan if i.mean is None else i.mean for i in intervals])
    half = np.array([np.nan if i.half is None else i.half for i in intervals])
    low, high = np.maximum(mean - half, 0), np.minimum(mean + half, 100)
    ax.fill_between(x, low, high, color=color, alpha=0.07, linewidth=0)
    for edge in (low, high):  # edges tell overlapping bands apart
        ax.plot(x, edge, color=color, linestyle=dashes, linewidth=0.6, alpha=0.6)
    ax.plot(
        x,
        mean,
        color=color,
        marker=marker,
        linestyle=dashes,
        label=label,
        markersize=3.5,
        linewidth=1.4,
        markevery=max(1, len(x) // MARKS),
    )


def _horizontal(ax: Any, values: np.ndarray, style: LineStyle, label: str) -> None:
    """Draw the mean over seeds of values [seeds] as a horizontal line, with its interval.

    Args:
        ax: The axes.
        values: The values.
        style: Color, marker (unused) and dashes.
        label: For the legend.
    """
    color, _, dashes = style
    found = interval(values.tolist())
    if found.mean is None:
        return
    if found.half is not None:
        ax.axhspan(
            found.mean - found.half,
            min(found.mean + found.half, 100),
            color=color,
            alpha=0.1,
            linewidth=0,
        )
    ax.axhline(found.mean, color=color, linestyle=dashes, linewidth=1.4, label=label)
