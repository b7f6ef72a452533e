"""The picture of the study of swing in a federation: leakage against utility, a point a setting."""

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedkd.cli.studies.swing_figures import SwingFigures, over_seeds
from fedkd.report.method_colors import BLUE, GREY, ORANGE
from fedkd.report.plots import STYLE

TICKS = (-0.3, 0.0, 0.1, 0.3, 1.0, 3.0)
TITLES = {
    "server_student": "Student of the mean",
    "server_uploads": "Student of one client's uploads",
}
OFFSETS = {
    "plain": (-11, 6),
    "swing, oracle": (-11, 5),
    "swing, pattern": (5, -12),
    "temperature alone": (6, 6),
    "noise alone": (-11, -12),
    "uniform noise 2": (-9, -13),
    "dropped positions": (-19, -4),
    "top 1": (5, -12),
    "KnFu, beta 10": (6, 6),
    "KnFu, beta 100": (-4, 10),
}
"""Offsets of labels from their points, so that neighbors' do not cover one another; else (5, 4)."""


def picture(found: SwingFigures) -> Figure:
    """Draw excess exposure against the loss of quality with intervals; numbers name settings."""
    names = [n for n in found.measured if found.against(n) == "plain" and "visited" not in n]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axes = figure.subplots(1, 2, sharey=False)
        for ax, view in zip(axes, TITLES, strict=True):
            for index, name in enumerate(names, start=1):
                _point(ax, found, name, view, index)
            _decorate(ax, TITLES[view])
        axes[0].set_ylabel("Exposure above chance (bits)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, loc="outside right center", fontsize=8)
        return figure


def _point(ax: Axes, found: SwingFigures, name: str, view: str, index: int) -> None:
    leak, lost = over_seeds(found.excess(name, view)), over_seeds(found.loss(name))
    color = BLUE if name.startswith("swing") else GREY if name == "plain" else ORANGE
    ax.errorbar(
        lost[0],
        leak[0],
        xerr=[[lost[0] - lost[1]], [lost[2] - lost[0]]],
        yerr=[[leak[0] - leak[1]], [leak[2] - leak[0]]],
        fmt="o",
        color=color,
        markersize=4,
        linewidth=0.9,
        label=f"{index}  {name}",
    )
    ax.annotate(
        str(index),
        (lost[0], leak[0]),
        xytext=OFFSETS.get(name, (5, 4)),
        textcoords="offset points",
        fontsize=8,
    )


def _decorate(ax: Axes, title: str) -> None:
    ax.axhline(0, color="black", linewidth=0.6, linestyle=":")
    ax.set_xscale("symlog", linthresh=0.1, linscale=1.5)
    ax.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS], fontsize=8)
    ax.set_xticks([], minor=True)
    ax.set_xlim(-0.45, 4.0)
    ax.grid(axis="x", alpha=0.25, linewidth=0.6)
    ax.set_xlabel("Loss against plain, bits a token\n(linear to ±0.1, then logarithmic)")
    ax.set_title(title)
