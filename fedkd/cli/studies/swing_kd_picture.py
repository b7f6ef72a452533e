"""The frontier of the study of one teacher and a smaller student: leakage against utility."""

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedkd.cli.studies.swing_figures import SwingFigures, over_seeds
from fedkd.cli.studies.swing_kd_study import (
    DETECTORS,
    NOISES,
    PLAIN,
    PLAIN_FILLINGS,
    STRONGEST,
    SWEEP,
    SWEEP_FILLINGS,
    TEMPERATURES,
    name_of,
)
from fedkd.report.method_colors import BLUE, GREY, ORANGE
from fedkd.report.plots import STYLE

STUDENT = "server_student"
TICKS = (-0.1, 0.0, 0.1, 1.0)
LEAKS = (0, 0.5, 1, 2, 4, 8, 16)
OFFSETS = {NOISES[0]: (-20, 2), NOISES[1]: (4, -7), NOISES[2]: (4, 2), STRONGEST[1]: (4, -6)}
"""Of labels from their points, by noise, so that neighbors' do not cover one another."""
BELOW = {(TEMPERATURES[3], NOISES[1]): (-26, -8)}
"""Of those that would."""
COLORS = {NOISES[0]: "#56B4E9", NOISES[1]: BLUE, NOISES[2]: "#003B6F", STRONGEST[1]: "black"}
"""By noise."""
LEVELS = {
    PLAIN: ("Transfer text holds the secrets", ""),
    PLAIN_FILLINGS: ("Transfer text holds other fillings", ", other fillings"),
}
OTHERS = {
    "dropped positions": "D",
    "DP-SGD teacher": "s",
    DETECTORS["surprisal_gap"]: "^",
    DETECTORS["confidence"]: "v",
}
"""Markers of what is compared with the sweep."""


def frontier(found: SwingFigures, margin: float) -> Figure:
    """Draw exposure above chance against the loss of quality with intervals, a panel a level.

    Points of the sweep of equal noise are joined in the order of their temperatures, which stand
    beside them.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, (level, (title, at)) in zip(axes, LEVELS.items(), strict=True):
            _sweep(ax, found, SWEEP if level == PLAIN else SWEEP_FILLINGS, at)
            if level in found.measured:
                _point(ax, found, level, GREY, "o", "plain")
            for name, marker in OTHERS.items():
                if name + at in found.measured:
                    _point(ax, found, name + at, ORANGE, marker, name)
            _decorate(ax, title, margin)
        axes[0].set_ylabel("Exposure above chance (bits,\nlinear to 1, then logarithmic)")
        handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
        figure.legend(
            handles.values(), handles.keys(), frameon=False, loc="outside lower center", ncols=4,
            fontsize=8,
        )  # fmt: skip
        return figure


def _sweep(ax: Axes, found: SwingFigures, points: tuple[tuple[int, int], ...], at: str) -> None:
    for noise, color in COLORS.items():
        joined = []
        for temperature in sorted(t for t, n in points if n == noise):
            name = name_of(temperature, noise) + at
            if name in found.measured:
                x, y = _point(ax, found, name, color, "o", f"swing, noise {noise}")
                joined.append((x, y))
                ax.annotate(
                    f"T {temperature}",
                    (x, y),
                    xytext=BELOW.get((temperature, noise), OFFSETS[noise]),
                    textcoords="offset points",
                    fontsize=6,
                    color=color,
                )
        if joined:
            ax.plot(*zip(*joined, strict=True), color=color, linewidth=0.7)


def _point(
    ax: Axes, found: SwingFigures, name: str, color: str, marker: str, label: str
) -> tuple[float, float]:
    """Draw a setting with its intervals, and return where its point is.

    Args:
        ax: The panel.
        found: The study's figures.
        name: The setting.
        color: Its color.
        marker: Its marker.
        label: Its name in the legend.
    """
    leak, lost = over_seeds(found.excess(name, STUDENT)), over_seeds(found.loss(name))
    _, _, bars = ax.errorbar(
        lost[0],
        leak[0],
        xerr=[[lost[0] - lost[1]], [lost[2] - lost[0]]],
        yerr=[[leak[0] - leak[1]], [leak[2] - leak[0]]],
        fmt=marker,
        color=color,
        markersize=4,
        linewidth=0.8,
        label=label,
    )
    for bar in bars:
        bar.set_alpha(0.4)
    return lost[0], leak[0]


def _decorate(ax: Axes, title: str, margin: float) -> None:
    ax.axhline(0, color="black", linewidth=0.6, linestyle=":")
    ax.axvline(margin, color="black", linewidth=0.6, linestyle=":")
    ax.set_xscale("symlog", linthresh=0.1, linscale=1.5)
    ax.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS], fontsize=8)
    ax.set_xticks([], minor=True)
    ax.set_yscale("symlog", linthresh=1, linscale=0.8)
    ax.set_yticks(LEAKS, [f"{leak:g}" for leak in LEAKS], fontsize=8)
    ax.set_yticks([], minor=True)
    ax.set_ylim(-0.5, 20)
    ax.set_xlim(-0.1, 2.5)
    ax.grid(axis="x", alpha=0.25, linewidth=0.6)
    ax.set_xlabel("Loss against plain, bits a token\n(linear to 0.1, then logarithmic)")
    ax.set_title(title)
