"""The page of both studies of swing (docs/swing.md), printed from what they wrote.

    fedkd reproduce swing_kd --seeds 5 --out A
    fedkd reproduce swing --seeds 3 --out B
    python scripts/swing_page.py --one-teacher A --federation B

The third writes docs/swing.md, with each seed's figures and the pictures in docs/results. All
figures in the text are those of the runs; the words around them are those of swing_page.md.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from string import Template

from fedkd.cli.studies import swing_kd_report, swing_report
from fedkd.cli.studies.swing_figures import SwingFigures, in_bits, over_seeds, percent, signed
from fedkd.cli.studies.swing_kd_report import MARGIN, READINGS, cell, is_matched, points, verdicts
from fedkd.cli.studies.swing_study import Results, read_outcomes
from fedkd.errors import FedkdError
from fedkd.report.comparison.family_verdicts import ENOUGH

DOCS = Path(__file__).parent.parent / "docs"
TEMPLATE = Path(__file__).with_suffix(".md")
ROWS = (
    ("swing, T 10 and noise 2", "swing, T 10, noise 2", "swing, oracle"),
    ("swing, T 100 and noise 5", "swing, T 100, noise 5", ""),
    ("the same, other fillings", "swing, T 100, noise 5, other fillings", ""),
    ("T 100 alone", "swing, T 100, noise 0", ""),
    ("T 10 alone", "swing, T 10, noise 0", "temperature alone"),
    ("noise 2 alone", "swing, T 1, noise 2", "noise alone"),
    ("swing by `surprisal_gap`", "swing, surprisal gap", "swing, surprisal gap"),
    ("swing by `confidence`", "swing, confidence", "swing, confidence"),
    ("flagged positions dropped", "dropped positions", "dropped positions"),
    ("T 10 and noise 2, own labels", "swing, T 10, noise 2, own share 0.5", ""),
    ("DP-SGD teachers, epsilon 8", "DP-SGD teacher", "DP-SGD teachers"),
)
"""The table at the top: a row's words, and its setting in each study."""


def overview(one: SwingFigures, many: SwingFigures) -> str:
    """Return the table at the top of the page."""
    lines = [
        "| | one teacher: cut of exposure | cut above chance | loss | federation: cut above chance,"
        " student | student of uploads | loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for words, setting, federated in ROWS:
        cells = ["–"] * 6
        if setting in one.measured:
            for i, reading in enumerate(READINGS):
                cells[i] = cell(one, setting, reading).partition(" (p")[0]
            cells[2] = signed(over_seeds(one.loss(setting)))
        if federated in many.measured:
            for i, view in ((3, "server_student"), (4, "server_uploads")):
                cells[i] = percent(over_seeds(many.cut(federated, view)))
            cells[5] = signed(over_seeds(many.loss(federated)))
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def found_in_sweep(one: SwingFigures) -> str:
    """Return where in the sweep the claim holds, for each level of the transfer text."""
    found, lines = verdicts(one), []
    levels = {
        "Where the transfer text holds the secrets": [p for p in points(one) if "other" not in p],
        "Where it holds other fillings": [p for p in points(one) if "other" in p],
    }
    for where, names in levels.items():
        matched = [name for name in names if is_matched(one, name)]
        answers = []
        for reading, words in READINGS.items():
            by_verdict = {
                verdict: [n for n in matched if found[n, reading][0] == verdict]
                for verdict in ("holds", "not shown", "does NOT hold")
            }
            told = [f"{v} at {_short(there)}" for v, there in by_verdict.items() if there]
            answers.append(f"*at least 80 % of {words} is gone* {'; '.join(told) or 'not judged'}")
        lines.append(
            f"{where}, {len(matched)} of {len(names)} pairs of temperature and noise leave the"
            f" student within {MARGIN} bits a token of plain distillation, on average. Of these"
            f" (temperature/noise), {'. And '.join(answers)}."
        )
    return "\n".join(f"- {line}" for line in lines)


def _short(names: Sequence[str]) -> str:
    """Return points of the sweep as pairs.

    >>> _short(["swing, T 10, noise 2", "swing, T 100, noise 5, other fillings"])
    '10/2, 100/5'
    """
    words = [name.removesuffix(", other fillings").split() for name in names]
    return ", ".join(f"{parts[2].rstrip(',')}/{parts[4]}" for parts in words)


def page(one_teacher: Results, federation: Results, pictures: str = "") -> str:
    """Return the page in Markdown.

    Args:
        one_teacher: Results of the study of one teacher.
        federation: Results of the study of a federation.
        pictures: The folder of pictures and figures.
    """
    one = swing_kd_report.figures_of(one_teacher)
    many = swing_report.figures_of(federation)
    minutes = [
        sum(r["seconds"] for r in found.values()) / 60 for found in (one_teacher, federation)
    ]
    judged = "not judged" if many.seeds < ENOUGH else "judged"
    leaks = [
        in_bits(over_seeds(found.excess("plain", view)))
        for found, view in (
            (one, "server_student"),
            (many, "server_student"),
            (many, "server_uploads"),
        )
    ]
    text = Template(TEMPLATE.read_text()).substitute(
        overview=overview(one, many),
        sweep=found_in_sweep(one),
        one_summary=swing_kd_report.summary(one_teacher),
        federation_summary=swing_report.summary(federation),
        one_runs=f"{len(one_teacher)} runs, {minutes[0]:.0f} minutes",
        federation_runs=f"{len(federation)} runs, {minutes[1]:.0f} minutes",
        one_seeds=one.seeds,
        federation_seeds=many.seeds,
        federation_judged=judged,
        claims=len(swing_kd_report.claims(one)),
        one_leak=leaks[0],
        federation_leak=leaks[1],
        uploads_leak=leaks[2],
        pictures=pictures,
        margin=f"{MARGIN}",
    )
    return "\n\n".join(map(_wrapped, text.split("\n\n")))


def _wrapped(block: str) -> str:
    """Return a paragraph or list in lines of 120 characters, and other blocks as they are."""
    start = block.lstrip("\n")[:1]
    if start in "|#! ":
        return block
    if start != "-":
        return _fill(block)
    items = block.replace("\n  ", " ").split("\n")
    return "\n".join(_fill(item, "  ") for item in items)


def _fill(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, 120, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page of finished studies into the documents, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--one-teacher", type=Path, required=True, help="--out of fedkd reproduce swing_kd"
    )
    parser.add_argument(
        "--federation", type=Path, required=True, help="--out of fedkd reproduce swing"
    )
    given = parser.parse_args(arguments)
    try:
        one, many = read_outcomes(given.one_teacher), read_outcomes(given.federation)
    except FedkdError as error:
        print(f"swing_page: {error}", file=sys.stderr)
        return 1
    swing_kd_report.write_figures(one, DOCS / "results")
    swing_report.write_figures(many, DOCS / "results")
    (DOCS / "swing.md").write_text(page(one, many, "results/"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
