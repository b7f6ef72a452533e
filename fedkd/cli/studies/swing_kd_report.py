"""Report of the study of swing between a teacher and a smaller student.

A table by level of the transfer text, the claim judged at every point of the sweep in both of its
readings, the frontier as a picture, each seed's figures. Not for: figures and intervals
(``swing_figures``), the page around them (``swing_page``).
"""

from pathlib import Path

import matplotlib
import numpy as np

from fedkd.cli.studies.swing_figures import (
    SwingClaim,
    SwingFigures,
    judged,
    over_seeds,
    percent,
    signed,
)
from fedkd.cli.studies.swing_kd_picture import frontier
from fedkd.cli.studies.swing_kd_study import (
    DETECTORS,
    ONE_TEACHER,
    PLAIN,
    SWEEP,
    SWEEP_FILLINGS,
    name_of,
)
from fedkd.cli.studies.swing_report import detectors, write_csv
from fedkd.cli.studies.swing_study import Results
from fedkd.report.comparison.family_verdicts import ENOUGH
from fedkd.report.plots import STYLE

CUT = 0.8
"""The claim: at least this share of exposure is gone."""
MARGIN = 0.05
"""Utility is matched where the student's bits a token are at most this above plain's."""
STUDENT, TEACHER = "server_student", "own_model"
READINGS = {False: "exposure", True: "what is above chance"}


def figures_of(results: Results) -> SwingFigures:
    """Return the figures of the study's results; the student's utility counts."""
    return SwingFigures(ONE_TEACHER, results, utility="student_bits")


def points(found: SwingFigures) -> list[str]:
    """Return the settings of the sweep at both levels that have results."""
    names = [name_of(*point) for point in SWEEP]
    names += [f"{name_of(*point)}, other fillings" for point in SWEEP_FILLINGS]
    return [name for name in names if name in found.measured]


def is_matched(found: SwingFigures, name: str) -> bool:
    """Return whether the mean over seeds of a student's loss is within the margin."""
    return bool(found.loss(name).mean() <= MARGIN)


def utility(found: SwingFigures, name: str) -> str:
    """Return whether a student is as good as plain distillation's, in words."""
    _, low, high = over_seeds(found.loss(name))
    if high <= MARGIN:
        return "matched"
    if low > MARGIN:
        return "worse"
    return "within, on average" if is_matched(found, name) else "worse, on average"


def table(found: SwingFigures) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| setting | teacher | student | above chance | cut of exposure | cut above chance | bits a"
        " token | loss, bits | utility |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name in found.measured:
        cells = [
            *(f"{found.exposure(name, view).mean():.2f}" for view in (TEACHER, STUDENT)),
            f"{found.excess(name, STUDENT).mean():.2f}",
        ]
        tokens = f"{found.bits(name).mean():.3f}"
        if found.against(name) == name:
            cells += ["–", "–", tokens, "–", "–"]
        else:
            cuts = [cell(found, name, reading) for reading in READINGS]
            lost = signed(over_seeds(found.loss(name)))
            cells += [*cuts, tokens, lost, utility(found, name)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def claims(found: SwingFigures) -> list[SwingClaim]:
    """Return the claim in both readings at every point of the sweep."""
    return [
        SwingClaim(
            f"Cut by {name} of {words}",
            found.cut(name, STUDENT, above_chance=reading),
            CUT,
            percent,
        )
        for name in points(found)
        for reading, words in READINGS.items()
    ]


def verdicts(found: SwingFigures) -> dict[tuple[str, bool], tuple[str, str]]:
    """Return the verdict on each point in each reading, and its p-value (``judged``)."""
    keys = [(name, reading) for name in points(found) for reading in READINGS]
    return dict(zip(keys, judged(claims(found)), strict=True))


def cell(found: SwingFigures, name: str, reading: bool) -> str:
    """Return a cut with its interval, and what is said of it, as a cell of a table."""
    cut = percent(over_seeds(found.cut(name, STUDENT, above_chance=reading)))
    verdict, p_value = verdicts(found).get((name, reading), ("", ""))
    return f"{cut}, {verdict} ({p_value})" if verdict else cut


def validity(found: SwingFigures) -> list[str]:
    """Return whether there is anything to protect, and how exact exposures are."""
    first = found.outcomes(PLAIN)[0]
    own, leak = found.exposure(PLAIN, TEACHER).mean(), found.excess(PLAIN, STUDENT).mean()
    controls = np.mean([one["controls"][STUDENT] for one in found.outcomes(PLAIN)])
    valid = own >= 0.9 * first["ceiling"] and leak > 1
    widest = max(
        one["sampling"][STUDENT]["high"] - one["sampling"][STUDENT]["low"]
        for one in found.results.values()
    )
    return [
        f"Validity: teachers expose {own:.2f} of {first['ceiling']:.2f} bits, and plain"
        f" distillation's students {leak:.2f} bits above chance ({first['chance']:.2f}; secrets"
        f" that nobody held, {controls:.2f}): {'valid' if valid else 'VOID'}",
        "Sampling: the 95 % bounds of a run's mean exposure to its student are at most"
        f" {widest:.2f} bits apart",
    ]


def notes(found: SwingFigures) -> str:
    """Return what a table's figures are, and what is missing in it."""
    text = (
        f"Exposure in bits; behind a figure its 95 % t-interval over {found.seeds} paired seeds."
        f" Utility is *matched* where the interval of the loss ends at {MARGIN} bits a token or"
        f" below. *Holds*: {100 * CUT:.0f} % or more are gone, by a t-test with Holm's correction"
        f" over the {len(claims(found))} claims of the table (p); *does NOT hold*: less are."
    )
    if found.seeds < ENOUGH:
        text += f" {ENOUGH} seeds would be judged; these are not."
    if found.missing:
        text += f" Not run: {'; '.join(found.missing)}."
    return text


def summary(results: Results) -> str:
    """Return the table and the judged claims in Markdown."""
    found = figures_of(results)
    lines = [f"- {line}." for line in (*validity(found), *detectors(found, DETECTORS.values()))]
    return "\n".join([table(found), "", notes(found), "", *lines])


def write_figures(results: Results, folder: Path) -> None:
    """Write every seed's figures (``swing_kd.csv``) and the frontier into a folder."""
    found = figures_of(results)
    write_csv(found, (TEACHER, STUDENT), folder / "swing_kd.csv")
    for suffix in ("png", "pdf"):
        with matplotlib.rc_context(STYLE):
            frontier(found, MARGIN).savefig(folder / f"swing_kd.{suffix}")


def write(results: Results, folder: Path) -> str:
    """Write the report, figures and frontier into a folder, and return the report."""
    write_figures(results, folder)
    text = summary(results)
    (folder / "swing_kd.md").write_text(f"{text}\n\n![Leakage against utility](swing_kd.png)\n")
    return text
