"""Tables of a comparison: Markdown, LaTeX with booktabs, and CSV with unrounded figures."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedkd.report.comparison.figures import SELECTIONS, Line, Options, figures, known_figures
from fedkd.report.comparison.statistics import Interval, Paired
from fedkd.report.console import size
from fedkd.report.record_rows import ACCURACIES, METRIC_FIGURES, VALIDATION

NOTHING = "–"
"""A figure that is not known."""
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "%": r"\%",
        "&": r"\&",
        "#": r"\#",
        "_": r"\_",
        "$": r"\$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "–": "--",
        "−": "$-$",
        "<": "$<$",
        ">": "$>$",
        "≥": r"$\ge$",
    }
)


@dataclass(frozen=True)
class Table:
    """A table of text."""

    title: str
    caption: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    names: int
    """The number of columns, from the first, that name a line; the others hold figures."""

    def markdown(self) -> str:
        """Return the table for a Markdown document."""
        rule = ["---"] * self.names + ["---:"] * (len(self.header) - self.names)
        rows = [self.header, tuple(rule), *self.lines]
        body = "\n".join(
            "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows
        )
        return f"## {self.title}\n\n{body}\n\n{self.caption}\n"

    def latex(self) -> str:
        """Return the table for a LaTeX document that uses the package booktabs."""

        def row(cells: Sequence[str]) -> str:
            return " & ".join(cell.translate(LATEX) for cell in cells) + r" \\"

        columns = "l" * self.names + "r" * (len(self.header) - self.names)
        caption = f"{self.title}. {self.caption}".translate(LATEX)
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering\small",
                r"\setlength{\tabcolsep}{4pt}",
                rf"\caption{{{caption}}}",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                row(self.header),
                r"\midrule",
                *map(row, self.lines),
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )


def tables(lines: Sequence[Line], baselines: Sequence[Line], options: Options) -> list[Table]:
    """Return all tables of a comparison, with local-only baselines below the methods."""
    made = [
        _accuracy(lines, baselines, options),
        _tests(lines, options),
        _selections(lines, baselines, options),
        _negative_transfer(lines, options),
        _communication(lines, options),
        _calibration(lines, options),
        _metrics(lines, options),
    ]
    return [table for table in made if table is not None]


def _accuracy(lines: Sequence[Line], baselines: Sequence[Line], options: Options) -> Table:
    def cells(line: Line) -> Iterable[str]:
        yield str(len(line.runs))
        for name in ACCURACIES:
            test_set = name.removesuffix("_accuracy")
            yield percent(line.figures[name])
            yield points(line.figures[f"{test_set}_gain"])
            yield p_value(line.holm[name])
            yield share(line.figures[f"{test_set}_negative_transfer"])

    head = ("gain", "p", "harmed %")
    return _table(
        f"Accuracy after {options.after} in the last round, and gain over local-only training",
        "Accuracy in % and gain in points, means over clients, then over seeds ± half of the 95 %"
        " t-interval. Gains are over the local-only baseline of the same run, which has one model a"
        " round, after its training. p: paired t-test over"
        f" seeds that the mean gain is 0, with Holm's correction over {_tests_in_words(lines)}."
        " Harmed: share of the clients whose accuracy is below their baseline's."
        f" {NOTHING}: cannot be said.",
        ("seeds", "own distribution", *head, "balanced test", *head),
        [*lines, *baselines],
        cells,
    )


def _tests_in_words(lines: Sequence[Line]) -> str:
    """Return the tests that Holm's correction counts, in words."""
    own, balanced = (sum(line.holm[name] is not None for line in lines) for name in ACCURACIES)
    return (
        f"the {own} tests of its column"
        if own == balanced
        else f"the tests of its column ({own} and {balanced})"
    )


def _tests(lines: Sequence[Line], options: Options) -> Table | None:
    if not any(line.tests[name] != Paired(None, None) for line in lines for name in ACCURACIES):
        return None

    def cells(line: Line) -> Iterable[str]:
        for name in ACCURACIES:
            yield from map(
                p_value, (line.tests[name].t, line.holm[name], line.tests[name].wilcoxon)
            )

    return _table(
        f"Tests of the gain over local-only training, after {options.after}",
        "Two-sided p-values, paired by seed with the local-only baseline, in the last round:"
        f" t-test; the same with Holm's correction over {_tests_in_words(lines)}, over methods and"
        " settings; Wilcoxon's signed-rank test, not corrected, which with n seeds cannot be below"
        " 2/2^n.",
        tuple(f"{s}, {test}" for s in ("own", "balanced") for test in ("t", "t, Holm", "Wilcoxon")),
        lines,
        cells,
    )


def _selections(lines: Sequence[Line], baselines: Sequence[Line], options: Options) -> Table:
    validated = any(line.figures[VALIDATION].seeds for line in lines)
    shown = SELECTIONS if validated else SELECTIONS[:2]
    names = {
        "last": "last",
        "mean_of_last": f"mean of last {options.last}",
        "validation_best": "validation-best",
    }

    def cells(line: Line) -> Iterable[str]:
        for name in ACCURACIES:
            for selection in shown:
                yield percent(line.figures[name if selection == "last" else f"{name}_{selection}"])

    explanation = (
        "Validation-best: the round of the best mean accuracy on the clients' validation splits;"
        " no test set has a part in the choice."
        if validated
        else "There is no validation-best round: the runs have no validation split"
        " (test.validation_fraction=0), and no round is chosen by a test set."
    )
    return _table(
        f"Accuracy after {options.after} by the choice of the round",
        f"Accuracy in %, mean over seeds ± half of the 95 % t-interval. {explanation}",
        tuple(f"{test_set}, {names[s]}" for test_set in ("own", "balanced") for s in shown),
        [*lines, *baselines],
        cells,
    )


def _negative_transfer(lines: Sequence[Line], options: Options) -> Table | None:
    runs = [run for line in lines for run in line.runs.values()]
    architectures = list(dict.fromkeys(name for run in runs for name in run.architectures))
    if not any(line.figures["personal_negative_transfer"].seeds for line in lines):
        return None

    def cells(line: Line) -> Iterable[str]:
        for end in ("", *(f"_{name}" for name in architectures)):
            both = [
                line.figures.get(f"{test_set}_negative_transfer{end}")
                for test_set in ("personal", "global")
            ]
            yield " / ".join(NOTHING if one is None else share(one) for one in both)

    return _table(
        f"Clients harmed after {options.after}, by architecture",
        "Share in % of the clients that are below their local-only baseline in the last round, on"
        " the own distribution / on the balanced test, mean over seeds.",
        ("all clients", *architectures),
        lines,
        cells,
    )


def _communication(lines: Sequence[Line], options: Options) -> Table:
    reach = options.reach

    def cells(line: Line) -> Iterable[str]:
        yield traffic(line.figures["bytes_up"])
        yield traffic(line.figures["bytes_down"])
        for test_set in ("personal", "global") if reach is not None else ():
            found = line.figures[f"{test_set}_bytes_to_reach"]
            yield (
                f"{traffic(found)} ({found.seeds}/{len(line.runs)})"
                if found.seeds
                else f"never (0/{len(line.runs)})"
            )

    caption, header = "Bytes of all clients as encoded, mean over seeds.", ["up", "down"]
    if reach is not None:
        at = f"{100 * reach:g} %"
        caption += (
            f" To {at}: up and down until the mean accuracy after {options.after} is first ≥ {at},"
            " mean over the seeds that reach it (so many of all)."
        )
        header += [f"to {at}, own", f"to {at}, balanced"]
    return _table("Communication", caption, tuple(header), lines, cells)


def _calibration(lines: Sequence[Line], options: Options) -> Table | None:
    shown = {
        "global_ece": "ECE",
        "global_nll": "NLL",
        "personal_nll": "NLL, own",
        "teacher_accuracy": "teacher accuracy",
        "teacher_ece": "teacher ECE",
        "teacher_nll": "teacher NLL",
    }
    if not any(line.figures[name].seeds for line in lines for name in shown):
        return None
    return _table(
        f"Calibration after {options.after} in the last round",
        "Expected calibration error (15 bins, in %) and negative log-likelihood (nats) of clients"
        " on the balanced test set, and of their teachers on the public set; means over clients,"
        " then over seeds ± half of the 95 % t-interval.",
        tuple(shown.values()),
        lines,
        lambda line: [
            decimal(line.figures[name]) if name.endswith("nll") else percent(line.figures[name])
            for name in shown
        ],
    )


def _metrics(lines: Sequence[Line], options: Options) -> Table | None:
    shown = [name for name in known_figures(lines) if name in METRIC_FIGURES]
    if not shown:
        return None
    header = tuple(
        f"{name.removeprefix(prefix)}, {word}"
        for name in shown
        for prefix, word in (("personal_", "own"), ("global_", "balanced"))
        if name.startswith(prefix)
    )
    return _table(
        f"Metrics after {options.after} in the last round",
        "In %, on the clients' own label distributions and on the balanced test set; means over the"
        " clients for which each is defined, then over seeds ± half of the 95 % t-interval.",
        header,
        lines,
        lambda line: [percent(line.figures[name]) for name in shown],
    )


def _table(
    title: str,
    caption: str,
    header: tuple[str, ...],
    lines: Sequence[Line],
    cells: Callable[[Line], Iterable[str]],
) -> Table:
    """Return a table, with lines grouped by setting in the order of first appearance.

    Args:
        title: Its title.
        caption: Its caption.
        header: The names of the columns of figures.
        lines: What is compared.
        cells: Returns the figures of a line.
    """
    settings = list(dict.fromkeys(line.setting for line in lines))
    keys = tuple(key for key, _ in settings[0]) if settings else ()
    grouped = [line for setting in settings for line in lines if line.setting == setting]
    rows = tuple(
        (*(value for _, value in line.setting), line.method, *cells(line)) for line in grouped
    )
    return Table(title, caption, (*keys, "method", *header), rows, len(keys) + 1)


def percent(found: Interval) -> str:
    """Return a share in %: ``81.2 ± 1.3``."""
    return _shown(found, 100, ".1f")


def points(found: Interval) -> str:
    """Return a difference of shares in points: ``+3.1 ± 1.3``."""
    return _shown(found, 100, "+.1f")


def decimal(found: Interval) -> str:
    """Return a figure with two decimals: ``0.61 ± 0.04``."""
    return _shown(found, 1, ".2f")


def share(found: Interval) -> str:
    """Return a share of clients in whole %, without an interval."""
    return NOTHING if found.mean is None else f"{100 * found.mean:.0f}"


def traffic(found: Interval) -> str:
    """Return bytes in a readable unit, without an interval."""
    return NOTHING if found.mean is None else size(found.mean)


def p_value(p: float | None) -> str:
    """Return a p-value to three digits.

    >>> p_value(0.0421), p_value(0.00004), p_value(None)
    ('0.042', '<0.001', '–')
    """
    if p is None:
        return NOTHING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _shown(found: Interval, factor: float, form: str) -> str:
    if found.mean is None:
        return NOTHING
    middle = format(factor * found.mean, form).replace("-", "−")
    return (
        middle
        if found.half is None
        else f"{middle} ± {format(factor * found.half, form.replace('+', ''))}"
    )


def write_csv(at_points: Mapping[Options, Sequence[Line]], folder: Path) -> None:
    """Write ``comparison.csv``, a row per method and setting, and ``runs.csv``, a row per run.

    There is one of each at every point of the round. An empty cell is a figure that is not known.
    """
    line_rows, run_rows = [], []
    known = known_figures([line for of in at_points.values() for line in of])
    for options, line in ((options, line) for options, of in at_points.items() for line in of):
        named = {**dict(line.setting), "method": line.method, "after": options.after}
        row: dict[str, object] = {**named, "seeds": len(line.runs)}
        for name in known:
            found = line.figures[name]
            row |= {name: found.mean, f"{name}_half": found.half, f"{name}_seeds": found.seeds}
        for name in ACCURACIES:
            gain = f"{name.removesuffix('_accuracy')}_gain"
            row |= {f"{gain}_p": line.tests[name].t, f"{gain}_p_holm": line.holm[name]}
            row |= {f"{gain}_p_wilcoxon": line.tests[name].wilcoxon}
        line_rows.append(row)
        for seed, run in line.runs.items():
            own = {name: value for name, value in figures(run, options).items() if value == value}
            run_rows.append({**named, "seed": seed, **own})
    _write(folder / "comparison.csv", line_rows)
    _write(folder / "runs.csv", run_rows)


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        table.writeheader()
        table.writerows(rows)
