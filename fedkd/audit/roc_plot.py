"""The plot of an audit: ROC curves on logarithmic axes, which show small false positive rates."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fedkd.audit.roc import Roc
from fedkd.report.method_colors import GREY
from fedkd.report.plots import STYLE

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's palette, which color-blind readers can tell apart."""
LINES = ("-", "--", "-.", ":")


def roc_picture(curves: Mapping[str, Roc], adversary: str) -> Figure:
    """Draw every attack's ROC curve, with chance as a grey diagonal.

    The axes start at 0.001, or at one false positive among all non-members if that is less.
    """
    figure = Figure(figsize=(4.6, 3.8), layout="constrained")
    ax = figure.subplots()
    least = min(1e-3, *(1 / roc.others for roc in curves.values())) if curves else 1e-3
    for index, (name, roc) in enumerate(curves.items()):
        ax.plot(
            np.maximum(roc.false_positive_rates, least),
            np.maximum(roc.true_positive_rates, least),
            LINES[index % len(LINES)],
            color=COLORS[index % len(COLORS)],
            drawstyle="steps-post",
            label=f"{name} ({roc.auc:.3f})",
        )
    ax.plot([least, 1], [least, 1], color=GREY, linewidth=0.8, label="chance (0.500)")
    ax.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1))
    ax.set_xlabel("False positive rate")
    ax.set_ylabel("True positive rate")
    ax.set_title(f"Membership inference by {adversary} (AUC)")
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.legend(frameon=False, fontsize=7, loc="lower right")
    return figure


def draw_roc(curves: Mapping[str, Roc], adversary: str, folder: Path) -> Path:
    """Write the plot as PNG and PDF, and return the path of the PNG."""
    with matplotlib.rc_context(STYLE):
        figure = roc_picture(curves, adversary)
        folder.mkdir(exist_ok=True)
        figure.savefig(folder / f"audit_roc_{adversary}.png")
        figure.savefig(folder / f"audit_roc_{adversary}.pdf")
    return folder / f"audit_roc_{adversary}.png"
