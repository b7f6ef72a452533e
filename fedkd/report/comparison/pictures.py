"""Accuracy by round and by bytes, several methods over seeds: means with bands, for the screen and
for print.

Methods differ by color (Okabe and Ito's palette), marker and dashes, so that no one of the three is
needed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fedkd.report.comparison.figures import Line, Setting
from fedkd.report.comparison.statistics import interval
from fedkd.report.plots import BLUE, GREY, ORANGE, STYLE, TITLES
from fedkd.report.record_rows import ACCURACIES

LOOKS: Sequence[tuple[str, str, Any]] = (
    (BLUE, "o", "-"),
    (ORANGE, "s", "--"),
    ("#009E73", "^", "-."),
    ("#CC79A7", "D", (0, (1, 1))),
    ("#56B4E9", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#E69F00", "P", (0, (6, 2))),
    ("#000000", "X", (0, (3, 1))),
)
ALONE = (GREY, "", (0, (2, 2)))
"""How local-only training looks."""
MARKS = 10
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


def draw(
    lines: Sequence[Line], twins: Sequence[Line], folder: Path, names: Mapping[Setting, str]
) -> list[Path]:
    """Draw both pictures of each setting, as PNG and PDF; return the PNG files. ``names`` are file
    names by setting.
    """
    looks, drawn = _looks(lines), []
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for setting, end in names.items():
            ours, alone = (
                [line for line in some if line.setting == setting] for some in (lines, twins)
            )
            if not ours:
                continue
            title = ", ".join(f"{key}={value}" for key, value in ours[0].setting)
            for by in ("round", "bytes"):
                figure = accuracy(ours, alone, looks, by, title)
                path = folder / f"accuracy_by_{by}{end}.png"
                figure.savefig(path)
                figure.savefig(path.with_suffix(".pdf"))
                drawn.append(path)
    return drawn


def accuracy(
    lines: Sequence[Line],
    twins: Sequence[Line],
    looks: Mapping[str, tuple[str, str, Any]],
    by: str,
    title: str,
) -> Figure:
    """Draw both accuracies of a setting ``by`` round or by bytes: means over seeds, with 95 %
    t-intervals as bands.

    A point by bytes stands at the mean of what its round had cost by then. Who sends nothing is a
    level line there: its accuracy in the last round.
    """
    rows = -(-(len(lines) + len(twins)) // 4)
    figure = Figure(figsize=(7.0, 3.0 + 0.18 * (rows - 1)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    sums = [_mean(line, _traffic).cumsum() for line in lines]
    unit, unit_name = next(
        (u for u in UNITS if u[0] <= max((s[-1] for s in sums), default=1)), UNITS[-1]
    )
    for ax, name in zip(axes, ACCURACIES, strict=True):
        for line, total in zip(
            [*lines, *twins], [*sums, *(np.zeros(1) for _ in twins)], strict=True
        ):
            look = looks.get(line.method, ALONE)
            values = 100 * np.array([run.of_round(name) for run in line.runs.values()])
            if by == "round":
                _curve(ax, np.arange(1, values.shape[1] + 1), values, look, line.method)
            elif total[-1] > 0:
                _curve(ax, total / unit, values, look, line.method)
            else:
                _level(ax, values[:, -1], look, line.method)
        ax.set_title(TITLES[name])
        ax.set_xlabel(
            "Round" if by == "round" else f"Sent and received by all clients so far ({unit_name})"
        )
        if by == "round":
            ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.25, linewidth=0.6)
    axes[0].set_ylabel(f"Accuracy (%)\n{_over({len(line.runs) for line in lines})}")
    if title:
        figure.suptitle(title, fontsize=9)
    figure.legend(
        *axes[0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside lower center"
    )
    return figure


def _looks(lines: Sequence[Line]) -> dict[str, tuple[str, str, Any]]:
    """Return how each method looks, the same in all pictures; who sends nothing looks like
    local-only training.
    """
    sends = dict.fromkeys(line.method for line in lines if line.figures["bytes_up"].mean != 0)
    return {method: LOOKS[i % len(LOOKS)] for i, method in enumerate(sends)}


def _over(seeds: set[int]) -> str:
    """Return what is drawn over how many seeds, in words.

    >>> _over({1}), _over({3, 4})
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


def _curve(
    ax: Any, x: np.ndarray, values: np.ndarray, look: tuple[str, str, Any], label: str
) -> None:
    """Draw the mean of values [seeds, R] with its band, where there is one."""
    color, marker, dashes = look
    found = [interval(of_round) for of_round in values.T.tolist()]
    mean = np.array([np.nan if f.mean is None else f.mean for f in found])
    half = np.array([np.nan if f.half is None else f.half for f in found])
    low, high = np.maximum(mean - half, 0), np.minimum(mean + half, 100)
    ax.fill_between(x, low, high, color=color, alpha=0.07, linewidth=0)
    for edge in (low, high):  # where bands lie on one another, their edges still tell them apart
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


def _level(ax: Any, values: np.ndarray, look: tuple[str, str, Any], label: str) -> None:
    color, _, dashes = look
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
