"""The page of the study of swing (docs/swing.md), printed from finished runs.

    python scripts/reproduce.py swing --seeds 3 --out FOLDER
    python scripts/swing_page.py --seeds 3 --runs FOLDER

The second writes docs/swing.md, with docs/results/swing.csv and its picture. All figures in the
text are those of the runs; the words around them are those of swing_page.md.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from string import Template

import swing_study
from rich.console import Console
from swing_figures import Range, bits, cut, excess, losses, mean, measured, percent, signed
from swing_report import CLAIMED, CUT, FIXED, FRESH, summary, write_figures
from swing_study import Results

from fedkd.errors import FedkdError

DOCS = Path(__file__).parent.parent / "docs"
COMMAND = "python scripts/reproduce.py swing --seeds 3 --out FOLDER"
TEMPLATE = Path(__file__).with_suffix(".md")
BEFORE = {
    "plain": ("6.96", "3.38", "", ""),
    "swing, oracle": ("2.80", "1.24", "60 %", "63 %"),
    "swing, surprisal gap": ("4.86", "1.75", "30 %", "48 %"),
    "swing, confidence": ("3.99", "1.23", "43 %", "63 %"),
    "temperature alone": ("3.49", "1.45", "50 %", "57 %"),
    "noise alone": ("6.83", "3.06", "2 %", "9 %"),
    "dropped positions": ("2.36", "1.03", "66 %", "70 %"),
    "top 1": ("6.49", "3.25", "7 %", "4 %"),
    "DP-SGD teachers": ("1.67", "0.59", "75 %", "82 %"),
}
"""Of the earlier edition, three seeds: excess to a student of uploads and of the mean, and their
cuts."""


def findings(results: Results) -> str:
    """Return the answers to the study's questions, with their figures."""
    have = measured(results)

    def cuts(name: str) -> str:
        views = [cut(results, name, view) for view in ("server_uploads", "server_student")]
        return (
            f"{percent(views[0])} of what a student of uploads gets, {percent(views[1])} of the"
            " server's student's"
        )

    def loss(name: str) -> str:
        return f"{signed(mean(losses(results, name)))} bits a token"

    lines = []
    if "swing, oracle" in have:
        answers = "; ".join(
            f"for {who}: {_answer(cut(results, 'swing, oracle', view))}"
            for view, who in CLAIMED.items()
        )
        lines.append(
            f"**By 80 %?** {answers[0].upper()}{answers[1:]}. Swing that knows where the secrets'"
            f" context is cuts {cuts('swing, oracle')}, at {loss('swing, oracle')}."
        )
    for name, words in (
        ("swing, surprisal gap", "With `surprisal_gap`, a detector that compares models?"),
        ("swing, confidence", "With `confidence`, another?"),
        ("temperature alone", "By temperature alone?"),
        ("noise alone", "By noise alone?"),
        ("dropped positions", "By not asking where the oracle flags?"),
        ("own share 0.5", "By learning the public text's own tokens too?"),
        ("DP-SGD teachers", "By DP-SGD teachers?"),
    ):
        if name in have:
            lines.append(f"**{words}** {cuts(name)}, at {loss(name)}.")
    if FIXED in have and FRESH in have:
        lines.append(f"**In four shorter rounds?** {cuts(FIXED)}, at {loss(FIXED)}.")
        back = [
            mean(excess(results, FRESH, view) - excess(results, FIXED, view))
            for view in ("server_history", "server_uploads")
        ]
        history = [excess(results, name, "server_history").mean() for name in (FRESH, FIXED)]
        lines.append(
            "**Does exposure return when noise is fresh each round?** A student of all of a"
            f" client's uploads gets {history[0]:.2f} bits, and {history[1]:.2f} where noise is"
            f" fixed: {bits(back[0])} more. A student of the last upload alone gets"
            f" {bits(back[1])} more."
        )
    return "\n".join(
        textwrap.fill(line, 120, initial_indent="- ", subsequent_indent="  ") for line in lines
    )


def _answer(found: Range) -> str:
    """Return whether a cut is as large as is claimed."""
    if found[1] >= CUT:
        return "yes"
    return "no" if found[2] < CUT else "not shown"


def comparison(results: Results) -> str:
    """Return a table of the main figures now and in the earlier edition."""
    lines = [
        "| setting | uploads, before | now | student, before | now | cuts before | cuts now |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, (uploads, student, *cuts) in BEFORE.items():
        if name not in measured(results):
            continue
        views = ("server_uploads", "server_student")
        now = [f"{excess(results, name, view).mean():.2f}" for view in views]
        gone = (
            ["–", "–"]
            if name == "plain"
            else [
                ", ".join(cuts),
                ", ".join(f"{round(100 * cut(results, name, view)[0])} %" for view in views),
            ]
        )
        cells = [name, uploads, now[0], student, now[1], *gone]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(results: Results, pictures: str = "") -> str:
    """Return the page in Markdown; ``pictures`` is the folder of the picture and figures."""
    seeds = len({seed for _, seed in results})
    minutes = sum(one["seconds"] for one in results.values()) / 60
    runs = f"The {len(results)} runs took {minutes:.0f} minutes of one core, which was shared."
    if seeds < 3:
        runs += f" Seeds 0 to {seeds - 1} only; the command above runs the rest."
    return Template(TEMPLATE.read_text()).substitute(
        findings=findings(results),
        command=COMMAND,
        runs=runs,
        summary=summary(results),
        pictures=pictures,
        comparison=comparison(results),
    )


def write(results: Results, folder: Path) -> str:
    """Write the page, figures and picture into a folder, and return the page."""
    write_figures(results, folder)
    text = page(results)
    (folder / "swing.md").write_text(text)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page of finished runs into the documents, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True, help="--out of reproduce.py swing")
    parser.add_argument("--seeds", type=int, default=3, help="paired seeds, 0 to N-1")
    given = parser.parse_args(arguments)
    try:
        console = Console(highlight=False, soft_wrap=True, stderr=True)
        results = swing_study.carry_out(given.seeds, given.runs, 1, console)
    except FedkdError as error:
        print(f"swing_page: {error}", file=sys.stderr)
        return 1
    write_figures(results, DOCS / "results")
    (DOCS / "swing.md").write_text(page(results, "results/"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
