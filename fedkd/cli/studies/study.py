"""Studies: methods over settings and seeds, with claims that are judged by paired differences.

A study is data: the settings that its runs share, its methods and varied settings in the notation
of ``fedkd compare``, and claims. Runs are carried out as by ``fedkd compare``: in parallel and
resumable, with figures from the run folders.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from rich.console import Console

from fedkd.cli import compare
from fedkd.cli.carrying_out import run_tasks
from fedkd.errors import RunError
from fedkd.report.comparison.family_verdicts import judge
from fedkd.report.comparison.one_point import common_points
from fedkd.report.comparison.run_reader import Run, mean_over_clients, read_run
from fedkd.report.comparison.statistics import Interval, interval
from fedkd.settings.measuring_points import MEASURING_POINTS, MeasuringPoint

Key = tuple[str, str]
"""A method's label, and the values of the varied settings with commas between them, perhaps ""."""
Results = Mapping[Key, Mapping[str, np.ndarray]]
"""Figures of the last round at one point of it [seeds], by method, setting and name."""
ByPoint = Mapping[MeasuringPoint, Results]
"""The results at each point of a round that all methods of a study have."""
FIGURES = {
    "personal_accuracy": "own distribution",
    "global_accuracy": "balanced test",
    "bytes_up": "bytes up, a client and round",
    "entropy_bytes_up": "the same, entropy-coded",
    "personal_negative_transfer": "clients harmed, %",
    "gap": "test less training loss, nats",
    "effective_neighbors": "effective neighbors",
    "global_accuracy of even": "balanced test, clients 0, 2, ...",
    "global_accuracy of odd": "balanced test, clients 1, 3, ...",
    "personal_accuracy of even": "own distribution, clients 0, 2, ...",
    "personal_accuracy of odd": "own distribution, clients 1, 3, ...",
}
"""Headings of tables; behind "of" stand the clients whose mean it is, otherwise all."""
CLIENTS = {"": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}
ALWAYS = ("personal_accuracy", "global_accuracy", "bytes_up", "entropy_bytes_up")
"""Figures stored for every study, in addition to those that its table shows."""
ACCURACIES = ("personal_accuracy", "global_accuracy")
PERCENT = (
    *ACCURACIES,
    "personal_negative_transfer",
    *(name for name in FIGURES if name.partition(" of ")[2] in ("even", "odd")),
)
AT_POINTS = (*PERCENT, "gap")
"""Figures of a model, which is another at each point of a round."""


@dataclass(frozen=True)
class StudyClaim:
    """A claim that one method is better than another by more than ``least``.

    It is about the difference ``ours`` minus ``theirs``, in points or nats, or about the ratio
    ``theirs`` / ``ours`` of bytes. With ``beyond``, two further keys, it is about the difference of
    the two differences.
    """

    text: str
    figure: str
    ours: Key
    theirs: Key
    least: float = 0.0
    beyond: tuple[Key, Key] | None = None
    """Not for bytes."""

    def excess(self, results: Results) -> np.ndarray:
        """Return by how much the figure is above ``least`` at one point [seeds]."""
        ours, theirs = (results[key][self.figure] for key in (self.ours, self.theirs))
        if self.figure not in AT_POINTS:
            return theirs / ours - self.least
        difference = ours - theirs
        if self.beyond is not None:
            first, second = (results[key][self.figure] for key in self.beyond)
            difference = difference - (first - second)
        return (100 * difference if self.figure in PERCENT else difference) - self.least

    def shown(self, results: Results) -> str:
        """Return the figure at one point with its 95 % interval, and what is asked of it."""
        found = interval(list(self.excess(results) + self.least))
        if self.figure not in AT_POINTS:
            ratio = f"{self.theirs[0]} / {self.ours[0]}: {in_words(found, '.1f')}"
            return f"{ratio}; asked for: {self.least:g}"
        beyond = "" if self.beyond is None else f", beyond that at {self.beyond[0][1]}"
        form, unit = ("+.1f", "points") if self.figure in PERCENT else ("+.3f", "nats")
        wanted = "" if self.least == 0 else f"; asked for: above {self.least:+g}"
        size = f"{in_words(found, form)} {unit}"
        return f"{self.ours[0]} less {self.theirs[0]}{beyond}: {size}{wanted}"


def judged(claims: Sequence[tuple[StudyClaim, ByPoint]]) -> tuple[list[str], int]:
    """Return each claim with its verdict at each point of a round, and how many were tested.

    All of them are one family (``family_verdicts.judge``); the intervals shown are not corrected.
    """
    asked: list[tuple[int, str, Results]] = []
    for i, (claim, by_point) in enumerate(claims):
        if claim.figure in AT_POINTS:
            asked += [(i, f"after {point}: ", results) for point, results in by_point.items()]
        else:
            asked.append((i, "", _any(by_point)))
    verdicts = judge([list(claims[i][0].excess(results)) for i, _, results in asked])
    said: list[list[str]] = [[] for _ in claims]
    for (i, when, results), verdict in zip(asked, verdicts, strict=True):
        shown = "; ".join(part for part in (claims[i][0].shown(results), verdict.p) if part)
        said[i].append(f"{when}**{verdict.word}** ({shown})")
    tested = sum(verdict.p_value is not None for verdict in verdicts)
    lines = [
        f"{claim.text}{_mark(claim)} {'; '.join(parts)}."
        for (claim, _), parts in zip(claims, said, strict=True)
    ]
    return lines, tested


def _mark(claim: StudyClaim) -> str:
    return ";" if claim.figure in AT_POINTS else ":"


def _any(by_point: ByPoint) -> Results:
    return next(iter(by_point.values()))


@dataclass(frozen=True)
class Study:
    """A study: methods, settings and claims."""

    name: str
    title: str
    base: tuple[str, ...]
    """Settings of all runs."""
    methods: str
    """In the notation of ``fedkd compare``."""
    claims: tuple[StudyClaim, ...]
    grid: tuple[str, ...] = ()
    """Varied settings with their values, in the notation of ``fedkd compare``."""
    data: str = ""
    """Data set whose folder ``--data`` may give; empty for embedded data."""
    figures: tuple[str, ...] = ACCURACIES
    """Columns of the table."""
    remark: str = ""
    baseline: str = "none"
    """local_only for figures that compare clients with it (``personal_negative_transfer``)."""

    def cells(
        self, seeds: int, out: Path, jobs: int, data: Path | None = None
    ) -> list[compare.Cell]:
        """Return the study's runs. Raises SettingError.

        Args:
            seeds: The number of seeds.
            out: The folder of all studies.
            jobs: Runs at a time.
            data: A folder of data sets in the hub's layout, or None for the hub.
        """
        methods, grid = compare.parse_methods(self.methods), compare.parse_grid(self.grid)
        base = self.settings(data)
        return compare.plan(base, methods, grid, list(range(seeds)), out / self.name, jobs)

    def settings(self, data: Path | None = None) -> list[str]:
        """Return the settings of all runs; ``data`` is a folder of data sets, or None."""
        found = [f"baseline={self.baseline}", *self.base]
        if self.data:
            found.append(f"data={self.data}")
            found += [] if data is None else [f"data.path={data / self.data}"]
        return found


def carry_out(
    study: Study, seeds: int, out: Path, jobs: int, console: Console, data: Path | None = None
) -> ByPoint:
    """Carry out the runs that are not complete, and return all figures at each point.

    Raises RunError if a run failed.

    Args:
        study: The study.
        seeds: The number of seeds.
        out: The folder of all studies.
        jobs: Runs at a time.
        console: Where progress is printed.
        data: A folder of data sets, or None for the hub.
    """
    cells = study.cells(seeds, out, jobs, data)
    console.print(f"{study.name}: ", end="")
    failed = run_tasks([cell.task for cell in cells], jobs, console)
    if failed:
        raise RunError("; ".join(f"{outcome.task.name}: {outcome.error}" for outcome in failed))
    runs: dict[Key, list[Run]] = {}
    for cell in cells:
        setting = ", ".join(value for _, value in cell.setting)
        runs.setdefault((cell.method.label, setting), []).append(read_run(cell.task.folder))
    names = dict.fromkeys((*ALWAYS, *study.figures))
    points = common_points({f"{key[0]} {key[1]}": run for key, of in runs.items() for run in of})
    return {
        point: {
            key: {name: np.array([_last(run.at(point), name) for run in found]) for name in names}
            for key, found in runs.items()
        }
        for point in points
    }


def _last(run: Run, name: str) -> float:
    """Return a run's figure at a point: of the last round, or mean bytes a client and round."""
    if name == "personal_negative_transfer":
        return float(run.of_round(name)[-1])
    if name == "gap":
        return float(
            mean_over_clients(run.of_client("personal_nll") - run.of_client("train_loss"))[-1]
        )
    figure, _, whose = name.partition(" of ")
    values = run.of_client(figure)[:, CLIENTS[whose]]
    if name in PERCENT:
        return float(mean_over_clients(values)[-1])
    return float(np.nanmean(values))


def table(study: Study, results: Results) -> str:
    """Return the study's figures as a Markdown table.

    They are means over clients, then over seeds, ± half the width of the 95 % t-interval.
    """
    varied = [text.partition("=")[0] for text in study.grid]
    header = [", ".join(varied) or "setting", "method", *(FIGURES[n] for n in study.figures)]
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * 2 + "---:|" * len(study.figures),
    ]
    settings = _settings(results)
    by_setting = sorted(results.items(), key=lambda item: settings.index(item[0][1]))
    for (method, setting), figures in by_setting:
        shown = []
        for name in study.figures:
            if name in PERCENT:
                shown.append(in_words(interval(list(100 * figures[name])), ".1f"))
            elif name == "gap":
                shown.append(in_words(interval(list(figures[name])), ".3f"))
            elif name == "effective_neighbors":
                shown.append(f"{figures[name].mean():.1f}")
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


def reports(studies: Sequence[tuple[Study, ByPoint]]) -> list[str]:
    """Return the studies' reports in Markdown, their claims judged as one family.

    Each has a table for each point of a round, and its claims. Claims on methods that are not among
    the figures are left out.
    """
    claims = [
        [(claim, by_point) for claim in study.claims if _keys(claim) <= set(_any(by_point))]
        for study, by_point in studies
    ]
    lines, tested = judged([pair for of in claims for pair in of])
    told = iter(lines)
    return [
        _report(study, by_point, [next(told) for _ in of], tested)
        for (study, by_point), of in zip(studies, claims, strict=True)
    ]


def _keys(claim: StudyClaim) -> set[Key]:
    return {claim.ours, claim.theirs, *(claim.beyond or ())}


def _report(study: Study, by_point: ByPoint, lines: Sequence[str], tested: int) -> str:
    parts = [f"## {study.title}"]
    for point, results in by_point.items():
        parts += [f"After {point}:", table(study, results)]
    if study.remark:
        parts.append(study.remark)
    parts.append("\n".join(f"- {line}" for line in lines))
    seeds = len(next(iter(next(iter(_any(by_point).values())).values())))
    family = f" Verdicts: Holm's correction over {tested} tests." if tested and lines else ""
    parts.append(f"{seeds} paired seeds.{family}")
    return "\n\n".join(part for part in parts if part) + "\n"


def write_csv(by_point: ByPoint, path: Path) -> None:
    """Write each seed's figures, unrounded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        names = list(next(iter(next(iter(by_point.values())).values())))
        rows.writerow(["after", "setting", "method", "seed", *names])
        for point, results in by_point.items():
            for (method, setting), figures in results.items():
                for seed in range(len(figures[names[0]])):
                    found = (repr(float(figures[name][seed])) for name in names)
                    rows.writerow([point, setting, method, seed, *found])


def read_csv(path: Path) -> ByPoint:
    """Return the figures that ``write_csv`` wrote. Raises RunError where they cannot be read."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found: dict[MeasuringPoint, dict[Key, dict[str, list[float]]]] = {}
        for row in rows:
            of = found.setdefault(as_point(row.pop("after")), {})
            key = (row.pop("method"), row.pop("setting"))
            del row["seed"]
            for name, value in row.items():
                of.setdefault(key, {}).setdefault(name, []).append(float(value))
    except OSError as error:
        raise RunError(
            f"{path}, the figures of a study, cannot be read: {error.strerror}"
        ) from error
    except (KeyError, ValueError, csv.Error) as error:
        raise RunError(
            f"{path} holds no figures of a study: {type(error).__name__}: {error}"
        ) from error
    return {
        point: {
            key: {name: np.array(values) for name, values in figures.items()}
            for key, figures in of.items()
        }
        for point, of in found.items()
    }


def as_point(text: str) -> MeasuringPoint:
    """Return the measuring point that a text names. Raises ValueError."""
    return MEASURING_POINTS[MEASURING_POINTS.index(cast(MeasuringPoint, text))]


def report_stored(studies: Sequence[Study], folder: Path) -> str:
    """Return the reports of studies from the figures in a folder; nothing is run.

    Raises RunError where figures cannot be read.
    """
    return "\n".join(reports([(s, read_csv(folder / f"{s.name}.csv")) for s in studies]))


def write_reports(studies: Sequence[tuple[Study, ByPoint]], out: Path) -> list[str]:
    """Write studies' reports and each seed's figures, and return the reports (``reports``)."""
    made = reports(studies)
    for (study, by_point), text in zip(studies, made, strict=True):
        write_csv(by_point, out / f"{study.name}.csv")
        (out / f"{study.name}.md").write_text(text)
    return made


def print_all(
    studies: Sequence[Study],
    seeds: int,
    out: Path,
    jobs: int,
    console: Console,
    data: Path | None = None,
) -> str:
    """Carry out studies one after the other, write their reports, and return them as one text.

    Args:
        studies: The studies.
        seeds: The number of seeds.
        out: The folder of all studies.
        jobs: Runs at a time.
        console: Where progress is printed.
        data: A folder of data sets, or None for the hub.
    """
    found = []
    for study in studies:
        by_point = carry_out(study, seeds, out, jobs, console, data)
        write_csv(by_point, out / f"{study.name}.csv")
        found.append((study, by_point))
    return "\n".join(write_reports(found, out))
