"""Report of the study of swing: a table, judged claims, every seed's figures and a picture.

Not for: figures and intervals (``swing_figures``), the page around them (``swing_page``).
"""

import csv
from pathlib import Path

import matplotlib
import numpy as np
from swing_figures import (
    above,
    below,
    bits,
    cut,
    excess,
    losses,
    mean,
    measured,
    percent,
    seeds_of,
    signed,
)
from swing_picture import picture
from swing_study import BY_NAME, SETTINGS, Results

from fedkd.report.plots import STYLE

CUT, LOSS = 0.8, 0.01
"""The claim: at least this share of the excess exposure is gone, at no more bits a token than
this."""
VIEWS = ("own_model", "server_uploads", "server_student", "peers")
CLAIMED = {
    "server_student": "the server's student",
    "server_uploads": "a student of one client's uploads",
}
FIXED, FRESH = "swing, 4 rounds, noise fixed", "swing, 4 rounds, noise fresh"


def table(results: Results) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| setting | own model | uploads | student | peers | cut, uploads | cut, student | bits a"
        " token | loss, bits |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in measured(results):
        exposures = [f"{excess(results, name, view).mean():.2f}" for view in VIEWS]
        tokens = np.mean([r["bits_by_model"] for r in seeds_of(results, name)])
        compared = ["–", "–", f"{tokens:.3f}", "–"]
        if BY_NAME[name].against != name:
            cuts = [
                percent(cut(results, name, view)) for view in ("server_uploads", "server_student")
            ]
            compared = [*cuts, f"{tokens:.3f}", signed(mean(losses(results, name)))]
        lines.append(f"| {name} | {' | '.join([*exposures, *compared])} |")
    return "\n".join(lines)


def validity(results: Results) -> list[str]:
    """Return whether there is anything to protect; the study is void where there is not."""
    plain = seeds_of(results, "plain")
    ceiling, chance = plain[0]["ceiling"], plain[0]["chance"]
    own = np.mean([r["exposures"]["own_model"] for r in plain])
    controls = np.mean([r["controls"]["own_model"] for r in plain])
    leak = mean(excess(results, "plain", "server_student"))
    valid = own >= 0.9 * ceiling and leak[1] > 1
    lines = [
        f"Validity: own models expose {own:.2f} of {ceiling:.2f} bits (controls that nobody held"
        f" {controls:.2f}, chance {chance:.2f}), and plain distillation leaks {bits(leak)} above"
        f" chance to the server's student:"
        f" {'valid' if valid else 'VOID, take more repeats or epochs'}"
    ]
    for name in ("plain, never visited (P0)", "plain, prefix visited (P1)"):
        if name in measured(results):
            student, uploads = (
                mean(excess(results, name, view)) for view in ("server_student", "server_uploads")
            )
            lines.append(f"{name}: {bits(student)} to the student, {bits(uploads)} from uploads")
    return lines


def detectors(results: Results) -> list[str]:
    """Return a line on each detector's recall and precision, at a score of 0.5."""
    lines = []
    for name in measured(results):
        found = [r["detector"] for r in seeds_of(results, name) if r["detector"]]
        if name.startswith("swing, ") and "rounds" not in name and found:
            recall = np.mean([one["recall"] for one in found])
            precisions = [one["precision"] for one in found if one["precision"] is not None]
            precision = f"{np.mean(precisions):.2f}" if precisions else "–"
            lines.append(f"Detector of {name!r}: recall {recall:.2f}, precision {precision}")
    return lines


def verdicts(results: Results) -> list[str]:
    """Return the study's claims, each judged, as far as their settings have results."""
    have, lines = measured(results), []
    asked = [n for n in have if n.startswith("swing, ") and "rounds" not in n]
    for name in [*asked, *(n for n in ("temperature alone", "noise alone") if n in have)]:
        lost = mean(losses(results, name))
        for view, words in CLAIMED.items():
            gone = cut(results, name, view)
            lines.append(
                f"{name} cuts the excess exposure to {words} by >= 80 %: {above(gone, CUT)}"
                f" ({percent(gone)})"
            )
        lines.append(f"{name} costs <= 0.01 bit a token: {below(lost, LOSS)} ({signed(lost)})")
    lines += [neighbors(results, n) for n in ("KnFu, beta 10", "KnFu, beta 100") if n in have]
    if FIXED in have and FRESH in have:
        for view, words in (
            ("server_student", "the last student"),
            ("server_uploads", "a student of the last upload"),
            ("server_history", "a student of all rounds' uploads"),
        ):
            back = mean(excess(results, FRESH, view) - excess(results, FIXED, view))
            lines.append(
                f"Exposure returns to {words} when noise is fresh each round: {above(back, 0)}"
                f" ({bits(back)})"
            )
    return lines


def neighbors(results: Results, name: str) -> str:
    """Return whether the nearest other client by KnFu's weights gives more than under the mean."""
    differences, weights = [], []
    for knfu, plain in zip(seeds_of(results, name), seeds_of(results, "plain"), strict=True):
        w = np.array(knfu["weights"])
        clients = range(len(w))
        nearest = [max((j for j in clients if j != i), key=lambda j: w[i, j]) for i in clients]
        weights += [w[i, j] for i, j in enumerate(nearest)]
        change = np.array(knfu["exposures"]["peers"]) - np.array(plain["exposures"]["peers"])
        # A client's figures are of the others' secrets, form by form, then by owner.
        others = [(i, j) for i in clients for j in clients if j != i]
        of_pair = change.reshape(len(w), -1, len(w) - 1).swapaxes(1, 2).reshape(len(others), -1)
        differences += [row for (i, j), row in zip(others, of_pair, strict=True) if j == nearest[i]]
    more = mean(np.concatenate(differences))
    return (
        f"{name} leaks more to the nearest semantic neighbor than the mean: {above(more, 0)}"
        f" ({bits(more)}; its weight there {np.mean(weights):.2f}, the mean's"
        f" {1 / len(w):.2f})"
    )


def summary(results: Results) -> str:
    """Return the table and the judged claims in Markdown."""
    seeds = len({seed for _, seed in results})
    missing = [s.name for s in SETTINGS if s.name not in measured(results)]
    notes = (
        f"Exposure in bits above chance; behind a figure its 95 % interval; {seeds} paired seeds."
    )
    if missing:
        notes += f" Not run: {'; '.join(missing)}."
    lines = [*validity(results), *detectors(results), *verdicts(results)]
    return "\n".join([table(results), "", notes, "", *(f"- {line}." for line in lines)])


def write_figures(results: Results, folder: Path) -> None:
    """Write every seed's figures (``swing.csv``) and the picture into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(BY_NAME)
    views = (*VIEWS[:2], "server_history", *VIEWS[2:])
    with (folder / "swing.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["setting", "seed", *(f"excess_{v}" for v in views), "bits_a_token", "seconds"]
        )
        for name, seed in sorted(results, key=lambda key: (names.index(key[0]), key[1])):
            one = results[name, seed]
            figures = [
                f"{np.mean(one['exposures'][v]) - one['chance']:.4f}"
                if v in one["exposures"]
                else ""
                for v in views
            ]
            rows.writerow(
                [
                    name,
                    seed,
                    *figures,
                    f"{np.mean(one['bits_by_model']):.4f}",
                    f"{one['seconds']:.1f}",
                ]
            )
    for suffix in ("png", "pdf"):
        with matplotlib.rc_context(STYLE):
            picture(results).savefig(folder / f"swing.{suffix}")
