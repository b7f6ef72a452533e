"""Studies: methods over settings and seeds with claims about them, each judged by paired
differences.

A study is data: what its runs have in common, its methods and settings as ``compare.py`` writes
them, and claims. Runs are those of ``compare.py``: in parallel, resumable, figures from run folders
alone.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import compare
import numpy as np
from rich.console import Console

from fedkd.errors import RunError
from fedkd.report.comparison.run_reader import Run, mean_over_clients, read_run
from fedkd.report.comparison.statistics import Interval, interval

Key = tuple[str, str]
"""A method's label and a setting's values, with commas between them; the setting is empty where
nothing varies."""
Results = Mapping[Key, Mapping[str, np.ndarray]]
"""Figures of the last round [seeds], by method, setting and name."""
FIGURES = {
    "personal_accuracy": "own distribution",
    "global_accuracy": "balanced test",
    "bytes_up": "bytes up, a client and round",
    "entropy_bytes_up": "the same, entropy-coded",
    "personal_negative_transfer": "clients harmed, %",
    "gap": "test less training loss, nats",
}
ALWAYS = ("personal_accuracy", "global_accuracy", "bytes_up", "entropy_bytes_up")
"""Figures that are kept of every study; further ones of those whose tables show them."""
ACCURACIES = ("personal_accuracy", "global_accuracy")
PERCENT = (*ACCURACIES, "personal_negative_transfer")


@dataclass(frozen=True)
class Claim:
    """``ours`` less ``theirs``, in points or nats, is above ``least``; or ``least`` times fewer
    bytes.

    With ``beyond``, of two further keys, what counts is by how much this difference is above
    theirs.
    """

    text: str
    figure: str
    ours: Key
    theirs: Key
    least: float = 0.0
    beyond: tuple[Key, Key] | None = None
    """Not with bytes."""

    def judge(self, results: Results) -> str:
        """Return the claim with what was found: holds and does NOT hold are said where the 95 %
        interval says so.
        """
        ours, theirs = (results[key][self.figure] for key in (self.ours, self.theirs))
        if self.figure in PERCENT or self.figure == "gap":
            points = self.figure in PERCENT
            difference = ours - theirs
            if self.beyond is not None:
                first, second = (results[key][self.figure] for key in self.beyond)
                difference = difference - (first - second)
            found = interval(list(100 * difference if points else difference))
            beyond = "" if self.beyond is None else f", beyond that at {self.beyond[0][1]}"
            size = (
                f"{in_words(found, '+.1f')} points" if points else f"{in_words(found, '+.3f')} nats"
            )
            shown = f"{self.ours[0]} less {self.theirs[0]}{beyond}: {size}"
            wanted = "" if self.least == 0 else f"; asked for: above {self.least:+g}"
        else:
            found = interval(list(theirs / ours))
            shown = f"{self.theirs[0]} / {self.ours[0]}: {in_words(found, '.1f')}"
            wanted = f"; asked for: {self.least:g}"
        return f"{self.text}: **{verdict(found, self.least)}** ({shown}{wanted})."


@dataclass(frozen=True)
class Study:
    """A study. ``base`` are settings of all its runs, ``figures`` the columns of its table."""

    name: str
    title: str
    base: tuple[str, ...]
    methods: str
    claims: tuple[Claim, ...]
    grid: tuple[str, ...] = ()
    data: str = ""
    """Data set whose folder ``--data`` may give; empty for embedded data."""
    figures: tuple[str, ...] = ACCURACIES
    remark: str = ""
    baseline: str = "none"
    """local_only where a figure compares each client with its twin (``personal_negative_transfer``)."""

    def cells(
        self, seeds: int, out: Path, jobs: int, data: Path | None = None
    ) -> list[compare.Cell]:
        """Return the study's runs. ``data`` is a folder of data sets in the hub's layout. Raises
        SettingError.
        """
        base = [f"baseline={self.baseline}", *self.base]
        if self.data:
            base += [
                f"data={self.data}",
                *([f"data.path={data / self.data}"] if data is not None else []),
            ]
        methods, grid = compare.parse_methods(self.methods), compare.parse_grid(self.grid)
        return compare.plan(base, methods, grid, list(range(seeds)), out / self.name, jobs)


def verdict(found: Interval, least: float) -> str:
    """Return what an interval says of a figure being above ``least``.

    >>> [verdict(Interval(2.0, half, 3), 0.0) for half in (1.0, 3.0)], verdict(Interval(-2.0, 1.0, 3), 0.0)
    (['holds', 'not shown'], 'does NOT hold')
    """
    if found.mean is None or found.half is None:
        return "not shown"
    if found.mean - found.half > least:
        return "holds"
    return "does NOT hold" if found.mean + found.half < least else "not shown"


def carry_out(
    study: Study, seeds: int, out: Path, jobs: int, console: Console, data: Path | None = None
) -> Results:
    """Run what is not done yet and return the figures. Raises RunError where a run failed."""
    cells = study.cells(seeds, out, jobs, data)
    console.print(f"{study.name}: ", end="")
    failed = compare.run_cells(cells, jobs, console)
    if failed:
        raise RunError("; ".join(f"{outcome.task.name}: {outcome.error}" for outcome in failed))
    runs: dict[Key, list[Run]] = {}
    for cell in cells:
        setting = ", ".join(value for _, value in cell.setting)
        runs.setdefault((cell.method.label, setting), []).append(read_run(cell.task.folder))
    names = dict.fromkeys((*ALWAYS, *study.figures))
    return {
        key: {name: np.array([_last(run, name) for run in found]) for name in names}
        for key, found in runs.items()
    }


def _last(run: Run, name: str) -> float:
    """Return a run's figure: accuracies of the last round; bytes as means over rounds, a client."""
    if name == "personal_negative_transfer":
        return float(run.of_round(name)[-1])
    if name == "gap":
        return float(
            mean_over_clients(run.of_client("personal_nll") - run.of_client("train_loss"))[-1]
        )
    values = run.of_client(name)
    if name in PERCENT:
        return float(mean_over_clients(values)[-1])
    return float(np.nanmean(values))


def table(study: Study, results: Results) -> str:
    """Return the study's figures in Markdown: means over clients, then over seeds ± half of the 95
    % t-interval.
    """
    varied = [text.partition("=")[0] for text in study.grid]
    lines = [
        "| "
        + " | ".join(
            [", ".join(varied) or "setting", "method", *(FIGURES[name] for name in study.figures)]
        )
        + " |",
        "|" + "---|" * 2 + "---:|" * len(study.figures),
    ]
    for (method, setting), figures in sorted(
        results.items(), key=lambda item: _settings(results).index(item[0][1])
    ):
        shown = []
        for name in study.figures:
            if name in PERCENT:
                shown.append(in_words(interval(list(100 * figures[name])), ".1f"))
            elif name == "gap":
                shown.append(in_words(interval(list(figures[name])), ".3f"))
            else:
                shown.append(f"{figures[name].mean():,.0f}")
        lines.append("| " + " | ".join([setting or "–", method, *shown]) + " |")
    return "\n".join(lines)


def _settings(results: Results) -> list[str]:
    return list(dict.fromkeys(setting for _, setting in results))


def in_words(value: Interval, form: str) -> str:
    """Return an interval as text."""
    if value.mean is None:
        return "–"
    mean = f"{value.mean:{form}}"
    return mean if value.half is None else f"{mean} ± {value.half:{form.lstrip('+')}}"


def report(study: Study, results: Results, seeds: int) -> str:
    """Return a study in Markdown: its title, table and judged claims."""
    parts = [f"## {study.title}", table(study, results)]
    if study.remark:
        parts.append(study.remark)
    parts.append("\n".join(f"- {claim.judge(results)}" for claim in study.claims))
    parts.append(f"{seeds} paired seeds.")
    return "\n\n".join(part for part in parts if part) + "\n"


def write_csv(results: Results, path: Path) -> None:
    """Write every seed's figures, unrounded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        names = list(next(iter(results.values())))
        rows.writerow(["setting", "method", "seed", *names])
        for (method, setting), figures in results.items():
            for seed in range(len(figures[names[0]])):
                rows.writerow(
                    [setting, method, seed, *(repr(float(figures[name][seed])) for name in names)]
                )


def write_report(study: Study, results: Results, seeds: int, out: Path) -> str:
    """Write a study's report and every seed's figures, under its name, and return the report."""
    text = report(study, results, seeds)
    write_csv(results, out / f"{study.name}.csv")
    (out / f"{study.name}.md").write_text(text)
    return text


def print_all(
    studies: Sequence[Study],
    seeds: int,
    out: Path,
    jobs: int,
    console: Console,
    data: Path | None = None,
) -> str:
    """Carry studies out one after the other, write each one's figures, and return their reports."""
    texts = []
    for study in studies:
        results = carry_out(study, seeds, out, jobs, console, data)
        texts.append(write_report(study, results, seeds, out))
    return "\n".join(texts)
