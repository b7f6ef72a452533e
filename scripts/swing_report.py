"""What the study of swing found: paired bootstrap intervals, verdicts, a table and a picture.

An interval resamples secrets, or models, of all seeds together, each with its pair (SciPy's
bootstrap, 95 %): secrets of one seed share their models, so intervals are on the narrow side. Not
for: running anything (``swing_study``).
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from swing_study import BY_NAME, FORMS, SETTINGS, STUDY, Evaluation, Results

from fedkd.report.plots import BLUE, GREY, ORANGE, STYLE

CUT, LOSS = 0.8, 0.01
"""The claim: at least this share of the excess exposure is gone, at no more bits a token than
this."""
Range = tuple[float, float, float]
"""A figure and its 95 % interval."""
VIEWS = {"server_uploads": "uploads", "server_student": "student", "peers": "peers"}


TICKS = (0.0, 0.05, 0.1, 0.3, 1.0, 3.0)
ASIDE = {
    "plain": (-10, 6),
    "swing, oracle": (-12, 3),
    "temperature alone": (5, 6),
    "noise alone": (-12, -12),
    "dropped positions": (-18, -4),
    "uniform noise 2": (-10, -12),
    "top 1": (-18, 0),
    "KnFu, beta 10": (6, 6),
}
"""Where a point's number stands beside it, in points, so that neighbors' do not cover one another;
else (5, 4)."""


def excess(results: Results, name: str, adversary: str) -> np.ndarray:
    """Return the bits above chance of every secret, seeds one after the other."""
    return np.concatenate(
        [np.array(r["exposures"][adversary]) - r["chance"] for r in _seeds(results, name)]
    )


def losses(results: Results, name: str) -> np.ndarray:
    """Return bits a token above the setting that it is held against, of the server's student and
    each client.
    """
    pairs = zip(_seeds(results, name), _seeds(results, BY_NAME[name].against), strict=True)
    return np.concatenate(
        [np.array(x["bits_by_model"]) - np.array(y["bits_by_model"]) for x, y in pairs]
    )


def mean(values: np.ndarray) -> Range:
    """Return a mean with its bootstrap interval."""
    return _interval((values,), lambda x, axis: np.mean(x, axis=axis))


def cut(results: Results, name: str, adversary: str) -> Range:
    """Return the share of the excess exposure that is gone, of the setting's that it is held
    against.
    """
    pair = (excess(results, name, adversary), excess(results, BY_NAME[name].against, adversary))
    return _interval(pair, lambda x, y, axis: 1 - np.mean(x, axis=axis) / np.mean(y, axis=axis))


def _interval(data: tuple[np.ndarray, ...], statistic: Callable[..., Any]) -> Range:
    found = float(statistic(*data, axis=0))
    if (len(data) == 1 and np.ptp(data[0]) == 0) or (len(data) == 2 and np.array_equal(*data)):
        return found, found, found
    between = stats.bootstrap(
        data,
        statistic,
        paired=True,
        n_resamples=5000,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return found, float(between.low), float(between.high)


def _seeds(results: Results, name: str) -> list[Evaluation]:
    return [results[key] for key in sorted(results) if key[0] == name]


def measured(results: Results) -> list[str]:
    """Return the names of the settings with results, in their order, where what they are held
    against has them too.
    """
    have = {name for name, _ in results}
    return [s.name for s in SETTINGS if s.name in have and s.against in have]


def table(results: Results) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| setting | own model | uploads | student | peers | cut, uploads | cut, student | bits a"
        " token | loss, bits |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in measured(results):
        exposures = [f"{excess(results, name, view).mean():.2f}" for view in ("own_model", *VIEWS)]
        bits = np.mean([r["bits_by_model"] for r in _seeds(results, name)])
        compared = ["–", "–", f"{bits:.3f}", "–"]
        if BY_NAME[name].against != name:
            cuts = [
                _percent(cut(results, name, view)) for view in ("server_uploads", "server_student")
            ]
            compared = [*cuts, f"{bits:.3f}", _signed(mean(losses(results, name)))]
        lines.append(f"| {name} | {' | '.join([*exposures, *compared])} |")
    return "\n".join(lines)


def detectors(results: Results) -> list[str]:
    """Return a line on each detector's recall and precision of the secrets' context, at a score of
    0.5.
    """
    found = []
    for name in measured(results):
        if name.startswith("swing, ") and "rounds" not in name:
            recall, precision = (
                np.mean([r["found"][x] for r in _seeds(results, name)])
                for x in ("recall", "precision")
            )
            found.append(f"Detector of {name!r}: recall {recall:.2f}, precision {precision:.2f}")
    return found


def validity(results: Results) -> list[str]:
    """Return whether there is anything to protect; the study is void where there is not."""
    ceiling = np.log2(FORMS[0].size - STUDY.clients + 1)
    own = np.mean([r["exposures"]["own_model"] for r in _seeds(results, "plain")])
    controls = np.mean([r["controls"]["own_model"] for r in _seeds(results, "plain")])
    leak = mean(excess(results, "plain", "server_student"))
    valid = own >= 0.9 * ceiling and leak[1] > 1
    lines = [
        f"Validity: own models expose {own:.2f} of {ceiling:.2f} bits (controls that nobody held"
        f" {controls:.2f}, chance"
        f" {_seeds(results, 'plain')[0]['chance']:.2f}), and plain distillation leaks"
        f" {_bits(leak)} above chance to the"
        f" server's student: {'valid' if valid else 'VOID, take more repeats or epochs'}"
    ]
    for name in ("plain, never visited (P0)", "plain, prefix visited (P1)"):
        if name in measured(results):
            student, uploads = (
                mean(excess(results, name, view)) for view in ("server_student", "server_uploads")
            )
            lines.append(f"{name}: {_bits(student)} to the student, {_bits(uploads)} from uploads")
    return lines


def verdicts(results: Results) -> list[str]:
    """Return the answers to the study's questions, as far as the settings that they need have
    results.
    """
    have, lines = measured(results), []
    asked = [n for n in have if n.startswith("swing, ") and "rounds" not in n]
    for name in [*asked, *(n for n in ("temperature alone", "noise alone") if n in have)]:
        lost = mean(losses(results, name))
        for view, words in (
            ("server_student", "the server's student"),
            ("server_uploads", "a student of uploads"),
        ):
            gone = cut(results, name, view)
            lines.append(
                f"{name} cuts the excess exposure to {words} by >= 80 %: {_above(gone, CUT)}"
                f" ({_percent(gone)})"
            )
        lines.append(f"{name} costs <= 0.01 bit a token: {_below(lost, LOSS)} ({_signed(lost)})")
    for name in ("KnFu, beta 10", "KnFu, beta 100"):
        if name in have:
            lines.append(neighbors(results, name))
    fixed, fresh = "swing, 4 rounds, noise fixed", "swing, 4 rounds, noise fresh"
    if fixed in have and fresh in have:
        for view, words in (
            ("server_student", "the last student"),
            ("server_uploads", "who keeps all uploads"),
        ):
            back = mean(excess(results, fresh, view) - excess(results, fixed, view))
            lines.append(
                f"Exposure returns to {words} when noise is fresh each round: {_above(back, 0)}"
                f" ({_bits(back)})"
            )
    return lines


def neighbors(results: Results, name: str) -> str:
    """Return whether a client's nearest other client by KnFu's weights gives it more than under the
    mean.
    """
    differences, weights = [], []
    clients = STUDY.clients
    for knfu, plain in zip(_seeds(results, name), _seeds(results, "plain"), strict=True):
        w = np.array(knfu["weights"])
        nearest = [
            max((j for j in range(clients) if j != i), key=lambda j: w[i, j])
            for i in range(clients)
        ]
        weights += [w[i, j] for i, j in enumerate(nearest)]
        pairs = [(i, j) for _ in FORMS for i in range(clients) for j in range(clients) if j != i]
        chosen = np.array([j == nearest[i] for i, j in pairs])
        change = np.array(knfu["exposures"]["peers"]) - np.array(plain["exposures"]["peers"])
        differences.append(change[chosen])
    more = mean(np.concatenate(differences))
    return (
        f"{name} leaks more to the nearest semantic neighbor than the mean: {_above(more, 0)}"
        f" ({_bits(more)}; its"
        f" weight there {np.mean(weights):.2f}, the mean's {1 / clients:.2f})"
    )


def picture(results: Results) -> Figure:
    """Draw leakage to the server's student against utility, a point a setting, with intervals;
    numbers name them.
    """
    names = [n for n in measured(results) if BY_NAME[n].against == "plain" and "visited" not in n]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axes = figure.subplots(1, 2, sharey=False)
        views = {
            "server_student": "Student of the mean",
            "server_uploads": "Student of one client's uploads",
        }
        for ax, (view, title) in zip(axes, views.items(), strict=True):
            for round_number, name in enumerate(names, start=1):
                leak = mean(excess(results, name, view))
                lost = mean(losses(results, name))
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
                    label=f"{round_number}  {name}",
                )
                aside = ASIDE.get(name, (5, 4))
                ax.annotate(
                    str(round_number),
                    (lost[0], leak[0]),
                    xytext=aside,
                    textcoords="offset points",
                    fontsize=8,
                )
            ax.axhline(0, color="black", linewidth=0.6, linestyle=":")
            ax.set_xscale("symlog", linthresh=0.1, linscale=1.5)
            ax.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS], fontsize=8)
            ax.set_xticks([], minor=True)
            ax.set_xlim(-0.04, 3.5)
            ax.grid(axis="x", alpha=0.25, linewidth=0.6)
            ax.set_xlabel("Loss against plain, bits a token\n(linear up to 0.1, then logarithmic)")
            ax.set_title(title)
        axes[0].set_ylabel("Exposure above chance (bits)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, loc="outside right center", fontsize=8)
        return figure


def report(results: Results, folder: Path) -> str:
    """Write table, figures by seed and picture into a folder; return the text."""
    seeds = len({seed for _, seed in results})
    missing = [s.name for s in SETTINGS if s.name not in measured(results)]
    lines = [*validity(results), *detectors(results), *verdicts(results)]
    notes = (
        f"Exposure in bits above chance; behind a figure its 95 % interval; {seeds} paired seeds."
    )
    if missing:
        notes += f" Not run: {'; '.join(missing)}."
    text = "\n".join([table(results), "", notes, "", *(f"- {line}." for line in lines)])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "swing.md").write_text(text + "\n")
    with (folder / "swing.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            [
                "setting",
                "seed",
                *(f"excess_{v}" for v in ("own_model", *VIEWS)),
                "bits_a_token",
                "seconds",
            ]
        )
        for name, seed in sorted(results, key=lambda key: (list(BY_NAME).index(key[0]), key[1])):
            one = results[name, seed]
            figures = [np.mean(one["exposures"][v]) - one["chance"] for v in ("own_model", *VIEWS)]
            figures += [np.mean(one["bits_by_model"]), one["seconds"]]
            rows.writerow([name, seed, *(f"{x:.4f}" for x in figures)])
    for suffix in ("png", "pdf"):
        with matplotlib.rc_context(STYLE):
            picture(results).savefig(folder / f"swing.{suffix}")
    return text


def _above(value: Range, threshold: float) -> str:
    return (
        "**holds**"
        if value[1] >= threshold
        else "**does NOT hold**"
        if value[2] < threshold
        else "**not shown**"
    )


def _below(value: Range, threshold: float) -> str:
    return (
        "**holds**"
        if value[2] <= threshold
        else "**does NOT hold**"
        if value[1] > threshold
        else "**not shown**"
    )


def _percent(value: Range) -> str:
    return "{:.0f} % [{:.0f}, {:.0f}]".format(*(100 * x for x in value))


def _signed(value: Range) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*value)


def _bits(value: Range) -> str:
    return "{:.2f} bits [{:.2f}, {:.2f}]".format(*value)
