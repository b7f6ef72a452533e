"""Report of the study of swing in a federation: a table, what was asked, each seed's figures.

Not for: figures and intervals (``swing_figures``), the page around them (``swing_page``).
"""

import csv
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np

from fedkd.cli.studies.swing_figures import (
    SwingClaim,
    SwingFigures,
    in_bits,
    judge,
    over_seeds,
    percent,
    signed,
)
from fedkd.cli.studies.swing_picture import picture
from fedkd.cli.studies.swing_study import FEDERATION, Results
from fedkd.report.comparison.family_verdicts import ENOUGH
from fedkd.report.plots import STYLE

CUT, LOSS = 0.8, 0.01
"""What is asked: is at least this share of the excess exposure gone, at no more bits a token than
this?"""
VIEWS = ("own_model", "server_uploads", "server_student", "peers")
ASKED = {
    "server_student": "the server's student",
    "server_uploads": "a student of one client's uploads",
}
FIXED, FRESH = "swing, 4 rounds, noise fixed", "swing, 4 rounds, noise fresh"


def figures_of(results: Results) -> SwingFigures:
    """Return the figures of the federation's results."""
    return SwingFigures(FEDERATION, results)


def table(found: SwingFigures) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| setting | own model | uploads | student | peers | cut, uploads | cut, student | bits a"
        " token | loss, bits |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in found.measured:
        exposures = [f"{found.excess(name, view).mean():.2f}" for view in VIEWS]
        tokens = found.bits(name).mean()
        compared = ["–", "–", f"{tokens:.3f}", "–"]
        if found.against(name) != name:
            cuts = [
                percent(over_seeds(found.cut(name, view)))
                for view in ("server_uploads", "server_student")
            ]
            compared = [*cuts, f"{tokens:.3f}", signed(over_seeds(found.loss(name)))]
        lines.append(f"| {name} | {' | '.join([*exposures, *compared])} |")
    return "\n".join(lines)


def validity(found: SwingFigures) -> list[str]:
    """Return whether there is anything to protect; the study is void where there is not."""
    unprotected = found.outcomes("plain")
    ceiling, chance = unprotected[0]["ceiling"], unprotected[0]["chance"]
    own = found.exposure("plain", "own_model").mean()
    controls = np.mean([r["controls"]["own_model"] for r in unprotected])
    leak = over_seeds(found.excess("plain", "server_student"))
    valid = own >= 0.9 * ceiling and leak[0] > 1
    lines = [
        f"Validity: own models expose {own:.2f} of {ceiling:.2f} bits (controls that nobody held"
        f" {controls:.2f}, chance {chance:.2f}), and plain distillation leaks {in_bits(leak)} above"
        f" chance to the server's student:"
        f" {'valid' if valid else 'VOID, take more repeats or epochs'}"
    ]
    for name in ("plain, never visited (P0)", "plain, prefix visited (P1)"):
        if name in found.measured:
            student, uploads = (
                in_bits(over_seeds(found.excess(name, view)))
                for view in ("server_student", "server_uploads")
            )
            lines.append(f"{name}: {student} to the student, {uploads} from uploads")
    return lines


def swung(found: SwingFigures) -> list[str]:
    """Return the settings with results that are swing in one round, one for each detector."""
    return [n for n in found.measured if n.startswith("swing, ") and "rounds" not in n]


def detectors(found: SwingFigures, names: Iterable[str]) -> list[str]:
    """Return a line on each detector's recall and precision, at a score of 0.5."""
    lines = []
    for name in [name for name in names if name in found.measured]:
        shares = [r["detector"] for r in found.outcomes(name) if r["detector"]]
        if shares:
            recall = np.mean([one["recall"] for one in shares])
            precisions = [one["precision"] for one in shares if one["precision"] is not None]
            precision = f"{np.mean(precisions):.2f}" if precisions else "–"
            lines.append(f"Detector of {name!r}: recall {recall:.2f}, precision {precision}")
    return lines


def claims(found: SwingFigures) -> list[SwingClaim]:
    """Return what is claimed of swing, as far as its settings have results."""
    have, asked = found.measured, list[SwingClaim]()
    for name in [*swung(found), *(n for n in ("temperature alone", "noise alone") if n in have)]:
        for view, words in ASKED.items():
            text = f"Cut by {name} of the excess exposure to {words}"
            asked.append(SwingClaim(text, found.cut(name, view), CUT, percent))
        text = f"Loss by {name} in bits a token"
        asked.append(SwingClaim(text, found.loss(name), LOSS, signed, at_least=False))
    return asked


def differences(found: SwingFigures) -> list[SwingClaim]:
    """Return what is asked beside the table: of KnFu's neighbors, and of noise that is fresh."""
    have, asked = found.measured, list[SwingClaim]()
    asked += [neighbors(found, n) for n in ("KnFu, beta 10", "KnFu, beta 100") if n in have]
    if FIXED in have and FRESH in have:
        for view, words in (
            ("server_student", "the last student"),
            ("server_uploads", "a student of the last upload"),
            ("server_history", "a student of all rounds' uploads"),
        ):
            back = found.excess(FRESH, view) - found.excess(FIXED, view)
            text = f"Change of exposure to {words} where noise is fresh each round and not fixed"
            asked.append(SwingClaim(text, back, 0, in_bits))
    return asked


def neighbors(found: SwingFigures, name: str) -> SwingClaim:
    """Return that the nearest other client by KnFu's weights gives more than under the mean."""
    by_seed, weights = [], []
    for knfu, mean in zip(found.outcomes(name), found.outcomes("plain"), strict=True):
        w = np.array(knfu["weights"])
        clients = range(len(w))
        nearest = [max((j for j in clients if j != i), key=lambda j: w[i, j]) for i in clients]
        weights += [w[i, j] for i, j in enumerate(nearest)]
        change = np.array(knfu["exposures"]["peers"]) - np.array(mean["exposures"]["peers"])
        # A client's figures are of the others' secrets, form by form, then by owner.
        others = [(i, j) for i in clients for j in clients if j != i]
        of_pair = change.reshape(len(w), -1, len(w) - 1).swapaxes(1, 2).reshape(len(others), -1)
        by_seed.append(
            np.mean([r for (i, j), r in zip(others, of_pair, strict=True) if j == nearest[i]])
        )
    text = (
        f"Change of exposure to the nearest semantic neighbor by {name} against the mean (its"
        f" weight there {np.mean(weights):.2f}, the mean's {1 / len(w):.2f})"
    )
    return SwingClaim(text, np.array(by_seed), 0, in_bits)


def notes(found: SwingFigures) -> str:
    """Return what a table's figures are, and what is missing in it."""
    text = (
        f"Exposure in bits above chance; behind a figure its 95 % t-interval over {found.seeds}"
        " paired seeds."
    )
    if found.seeds < ENOUGH:
        text += f" {ENOUGH} seeds would be judged; these are not."
    if found.missing:
        text += f" Not run: {'; '.join(found.missing)}."
    return text


def summary(results: Results) -> str:
    """Return the table and what was asked in Markdown."""
    found = figures_of(results)
    # Unjudged, the claims' figures are those of the table.
    asked = [*(claims(found) if found.seeds >= ENOUGH else []), *differences(found)]
    lines = [*validity(found), *detectors(found, swung(found)), *judge(asked)]
    return "\n".join([table(found), "", notes(found), "", *(f"- {line}." for line in lines)])


def write_csv(found: SwingFigures, views: tuple[str, ...], path: Path) -> None:
    """Write every seed's figures.

    Args:
        found: The study's figures.
        views: Adversaries, a column each.
        path: The file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(found.study.by_name)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["setting", "seed", *(f"excess_{v}" for v in views), "bits_a_token", "seconds"]
        )
        for name, seed in sorted(found.results, key=lambda key: (names.index(key[0]), key[1])):
            one = found.results[name, seed]
            excess = [
                f"{np.mean(one['exposures'][v]) - one['chance']:.4f}"
                if v in one["exposures"]
                else ""
                for v in views
            ]
            tokens = f"{np.mean(one[found.utility]):.4f}"
            rows.writerow([name, seed, *excess, tokens, f"{one['seconds']:.1f}"])


def write_figures(results: Results, folder: Path) -> None:
    """Write every seed's figures (``swing.csv``) and the picture into a folder."""
    found = figures_of(results)
    write_csv(found, (*VIEWS[:2], "server_history", *VIEWS[2:]), folder / "swing.csv")
    for suffix in ("png", "pdf"):
        with matplotlib.rc_context(STYLE):
            picture(found).savefig(folder / f"swing.{suffix}")


def write(results: Results, folder: Path) -> str:
    """Write the report, figures and picture into a folder, and return the report."""
    write_figures(results, folder)
    text = summary(results)
    (folder / "swing.md").write_text(f"{text}\n\n![Leakage against utility](swing.png)\n")
    return text
