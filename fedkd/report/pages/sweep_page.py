"""The page of several runs: a sweep's or a comparison's tables, tests and pictures."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np

from fedkd.report.comparison.between_methods import Pair
from fedkd.report.comparison.family_verdicts import ENOUGH, LEVEL
from fedkd.report.comparison.figures import Line, Setting
from fedkd.report.comparison.pictures import accuracy
from fedkd.report.comparison.statistics import Interval
from fedkd.report.comparison.stored_comparison import Comparison
from fedkd.report.comparison.tables import points
from fedkd.report.method_colors import styles_of
from fedkd.report.pages.gains_in_words import TEST_SETS
from fedkd.report.pages.inline_pictures import Picture, picture, stored_picture
from fedkd.report.pages.rendering import MOST_ROWS, Grid, label, render
from fedkd.report.record_rows import ACCURACIES
from fedkd.storage.atomic_files import write_whole

PAGE = "report.html"
BUDGETS = "privacy.png"
"""What fedkd privacy-report draws."""
MOST_PICTURES = 12
MOST_SENTENCES = 8


@dataclass(frozen=True)
class RunLine:
    """A run in the list of a page."""

    name: str
    link: str
    """To its own page; empty where it has none."""
    cells: Sequence[str]


@dataclass(frozen=True)
class ReportedRuns:
    """What a page of several runs says that no comparison does."""

    title: str
    runs: Mapping[Path, Sequence[str]]
    """All runs, each with its status or what is wrong with it, and the settings that vary."""
    varies: Sequence[str] = ()
    """The settings that vary."""
    notices: Sequence[str] = field(default=())
    """The runs that are left out, and why."""


def write_sweep_page(
    out: Path,
    found: Comparison | None,
    remarks: Sequence[str] = (),
    sweep: ReportedRuns | None = None,
) -> Path:
    """Write ``report.html`` into a folder and return its path.

    Args:
        out: The folder.
        found: The comparison of the runs; None where they cannot be compared.
        remarks: What is said of runs that are left out.
        sweep: What is known of the runs besides; by default those of the comparison.

    Raises:
        StorageError: The page cannot be written.
    """
    if sweep is None:
        assert found is not None
        sweep = ReportedRuns(out.resolve().name, _compared_runs(found), notices=remarks)
    write_whole(out / PAGE, [sweep_page(out, found, sweep).encode("utf-8", "replace")])
    return out / PAGE


def sweep_page(out: Path, found: Comparison | None, sweep: ReportedRuns) -> str:
    """Return the page of several runs, with links that lead from a folder to theirs."""
    lines = [] if found is None else found.lines
    described = [("Runs", str(len(sweep.runs)))]
    if lines:
        described.append(("Methods", ", ".join(dict.fromkeys(line.method for line in lines))))
        varied = dict.fromkeys(key for line in lines for key, _ in line.setting)
        varies = ", ".join(varied) or "nothing but the method and the seed"
        described += [("What varies", varies), ("In common", found.common if found else "")]
    elif sweep.varies:
        described.append(("What varies", ", ".join(sweep.varies)))
    verdicts = [] if found is None else verdicts_over_seeds(found)
    return render(
        "sweep.html",
        title=sweep.title,
        notices=sweep.notices,
        tone="open",
        verdicts=verdicts or ["The runs are listed below; there is no comparison of them."],
        described=described,
        tables=[] if found is None else _grids(found),
        notes=[] if found is None else [n for n in found.notes if n not in sweep.notices],
        pictures=[
            *stored_picture(out / BUDGETS, "By privacy budget", "Accuracy and attacks by budget."),
            *([] if found is None else _pictures(found)),
        ],
        run_header=("status", *sweep.varies),
        runs=_run_lines(out, sweep),
    )


def verdicts_over_seeds(found: Comparison) -> list[str]:
    """Return what the tests over seeds say, in sentences."""
    first = found.first
    said = [text for line in found.lines for text in _against_local(line)]
    said += [text for pair in found.pairs for text in _between(pair)]
    judged = [text for text in said if text]
    few = min((len(line.runs) for line in found.lines), default=0)
    head = f"Measured after {first.after} in the last round."
    if few < ENOUGH:
        count = "1 seed" if few == 1 else f"{few} seeds"
        head += f" With {count} nothing is judged: that takes {ENOUGH}. The tables have the means."
        head += "" if few == 1 else " Intervals are over seeds."
    elif not judged:
        head += " No difference is larger than chance explains: see the tables."
    more = len(judged) - MOST_SENTENCES
    end = [f"{more} more differences are in the tables."] if more > 0 else []
    return [*(judged[:MOST_SENTENCES] if judged else []), *end, head]


def _against_local(line: Line) -> list[str]:
    """Return where a method is better or worse than training alone, by its tests over seeds."""
    said = []
    for name in ACCURACIES:
        gain, p = line.figures[f"{name.removesuffix('_accuracy')}_gain"], line.holm[name]
        if gain.mean is None or p is None or gain.seeds < ENOUGH or p >= LEVEL:
            continue
        verb = "beats" if gain.mean > 0 else "loses to"
        said.append(
            f"{_named(line.method, line.setting)} {verb} local training by {_size(gain)} points"
            f" {TEST_SETS[name]} ({gain.seeds} seeds, {_p(p)})."
        )
    return said


def _between(pair: Pair) -> list[str]:
    """Return where a method is ahead of another or behind it."""
    words = {"holds": "is ahead of", "does NOT hold": "is behind"}
    return [
        f"{_named(pair.method, pair.setting)} {words[verdict.word]} {pair.other} by"
        f" {_size(pair.differences[name])} {_points_of(name)} ({len(pair.seeds)} seeds,"
        f" {verdict.p.replace('p 0', 'p = 0')})."
        for name, verdict in pair.verdicts.items()
        if verdict.word in words
    ]


def _points_of(name: str) -> str:
    """Return what a figure is counted in, and on which test set: ``points of macro_f1 on ...``."""
    where, _, metric = name.partition("_")
    of = "" if metric == "accuracy" else f" of {metric}"
    return f"points{of} {TEST_SETS[f'{where}_accuracy']}"


def _size(difference: Interval) -> str:
    """Return how large a difference is, whichever its sign: ``3.1 ± 1.2``."""
    return points(difference).lstrip("+−")


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _named(method: str, setting: Setting) -> str:
    return ", ".join([method, *(f"{key}={value}" for key, value in setting)])


def _grids(found: Comparison) -> list[Grid]:
    return [
        Grid(table.caption, table.header, table.lines, table.names, title=table.title).shortened()
        for table in found.tables
    ]


def _pictures(found: Comparison) -> list[Picture]:
    """Return accuracies by round and by bytes of each setting, at the first point."""
    lines, baselines = (
        [replace(line, method=label(line.method, 60)) for line in of]
        for of in (found.lines, found.baselines[found.first])
    )
    styles = styles_of(list(dict.fromkeys(line.method for line in lines)))
    made: list[Picture] = []
    for setting in dict.fromkeys(line.setting for line in lines):
        here = [line for line in lines if line.setting == setting]
        alone = [line for line in baselines if line.setting == setting]
        title = ", ".join(f"{key}={value}" for key, value in setting)
        for by in ("round", "bytes"):
            if len(made) == MOST_PICTURES:
                return made
            made.append(
                picture(
                    f"curve{len(made)}",
                    f"Accuracy by {by}" + (f", {title}" if title else ""),
                    _in_words([*here, *alone], by),
                    lambda here=here, alone=alone, by=by, title=title: accuracy(  # type: ignore[misc]
                        here, alone, styles, by, title, f" after {found.first.after}"
                    ),
                )
            )
    return made


def _in_words(lines: Sequence[Line], by: str) -> str:
    """Return where the curves end, for who does not see them."""
    ends = []
    for line in lines:
        values = [run.of_round(ACCURACIES[1])[-1] for run in line.runs.values()]
        known = [value for value in values if np.isfinite(value)]
        if known:
            ends.append(f"{line.method} ends at {100 * np.mean(known):.1f} %")
    return f"Line chart of accuracy by {by}; on the balanced test set {'; '.join(ends)}."


def _compared_runs(found: Comparison) -> dict[Path, Sequence[str]]:
    """Return the runs of a comparison in the order of its methods, each as it is named there."""
    return {
        folder: ("completed",) for by_seed in found.folders.values() for folder in by_seed.values()
    }


def _run_lines(out: Path, sweep: ReportedRuns) -> list[RunLine]:
    made = []
    for folder, cells in list(sweep.runs.items())[:MOST_ROWS]:
        path = Path(os.path.relpath(folder, out)).as_posix()
        link = quote(f"{path}/{PAGE}") if (folder / PAGE).is_file() else ""
        made.append(RunLine(path, link, cells))
    return made
