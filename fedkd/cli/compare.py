r"""Compare methods over settings and seeds: run them all, then write tables and plots.

    fedkd compare scenario=digits --methods local_only,fedmd,dsfl,knfu \
        --grid partition.alpha=0.1,1 --seeds 0,1,2 --jobs 2 --out results/compare
    fedkd compare --runs runs/2026-11-25_sweep --out results/compare

The second reads finished runs, such as those of
`fedkd sweep strategy=knfu,fedmd seed=0,1,2`: any folders, with all runs below them,
grouped into methods and settings by the settings in which they differ. In the first, a method is a
strategy, optionally with settings after it and a label before it; commas separate methods:

    --methods "fedmd, sharp=knfu strategy.beta=30, early=fedmd round_order=distill_first"

Called again with the same --out, it skips finished runs and resumes the others. A run that fails is
reported and does not stop the others. Exit status: 0, 1 (a run failed), 2 (bad input),
130 (Ctrl-C), 143 (SIGTERM), 138 (SIGUSR1, after the rounds at work).
docs/comparing.md says what the figures are.
"""

import argparse
import itertools
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from fedkd.cli.carrying_out import exit_status_of, run_tasks
from fedkd.cli.command import compose
from fedkd.cli.options import SEEDS, add_compare
from fedkd.errors import RunError, SettingError
from fedkd.experiment.jobs import RunTask, with_threads
from fedkd.report.comparison.between_methods import Pair, check_reference, pairs, table_of_pairs
from fedkd.report.comparison.figures import (
    Line,
    Options,
    Setting,
    baselines_of,
    check_metric,
    compare,
)
from fedkd.report.comparison.grouping import in_common, sort_runs
from fedkd.report.comparison.one_point import (
    common_points,
    note_on_point,
    point_of_comparison,
)
from fedkd.report.comparison.pictures import draw
from fedkd.report.comparison.run_reader import read_run, runs_below
from fedkd.report.comparison.stored_comparison import (
    Comparison,
    Folders,
    Question,
    write_question,
)
from fedkd.report.comparison.tables import Table, tables, write_csv
from fedkd.report.sinks import offline_runs
from fedkd.runtime.parallel import available_cores
from fedkd.runtime.working_folder import search_here
from fedkd.scenario.scenario import Scenario, with_effect
from fedkd.settings.schema import flat
from fedkd.settings.validators import at_least, share

RESERVED = ("strategy", "seed", "run_dir")
"""Settings that options of this command set."""


@dataclass(frozen=True)
class Method:
    """A strategy with settings of its own, under a label."""

    label: str
    strategy: str
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    method: Method
    setting: Setting
    seed: int
    task: RunTask


def split_commas(text: str) -> list[str]:
    """Return the parts of a text between commas, except commas in brackets.

    >>> split_commas("a, b x=[c,d]")
    ['a', 'b x=[c,d]']
    """
    return [part.strip() for part in re.split(r",(?![^\[{(]*[\]})])", text)]


def parse_methods(
    text: str, option: str = "--methods", reserved: Sequence[str] = RESERVED
) -> list[Method]:
    """Return the methods that a text names. Raises SettingError.

    Args:
        text: The methods, separated by commas.
        option: The option that gave the text, for messages.
        reserved: Settings that a method may not have.


    >>> parse_methods("fedmd, sharp=knfu strategy.beta=30")[1]
    Method(label='sharp', strategy='knfu', settings=('strategy.beta=30',))
    >>> [method.label for method in parse_methods("knfu,knfu strategy.beta=30")]
    ['knfu', 'knfu strategy.beta=30']
    """
    methods = []
    for part in split_commas(text):
        words = part.split()
        if not words:
            raise SettingError(
                f"{option} has an empty part: {text!r}; write it as in {option} first,second"
            )
        label, equals, strategy = words[0].partition("=")
        for word in words[1:]:
            _check_setting(word, option, reserved)
        methods.append(Method(label if equals else part, strategy or words[0], tuple(words[1:])))
    labels = [method.label for method in methods]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise SettingError(
            f"{option} names {twice!r} twice; give one of them a label, as in other={twice}"
        )
    return methods


def parse_grid(texts: Sequence[str]) -> list[Setting]:
    """Return all combinations of the settings' values, the first setting varying slowest.

    Without settings it is one empty combination. Raises SettingError.

    >>> parse_grid(["partition.alpha=0.1,1"])
    [(('partition.alpha', '0.1'),), (('partition.alpha', '1'),)]
    """
    axes = []
    for text in texts:
        _check_setting(text, "--grid", RESERVED)
        key, _, values = text.partition("=")
        axes.append([(key, value) for value in split_commas(values)])
    keys = [axis[0][0] for axis in axes]
    if len(set(keys)) < len(keys):
        raise SettingError(
            "--grid names a setting twice; give all of its values at once, as in"
            " partition.alpha=0.1,1"
        )
    return list(itertools.product(*axes))


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of a text such as ``0,1,2``. Raises SettingError."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise SettingError(
            f"--seeds must be numbers with commas between them, as in 0,1,2; got {text!r}"
        )
    seeds = [int(part) for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise SettingError(f"--seeds names a seed twice: {text}; each seed must be another run")
    return seeds


def _check_setting(text: str, option: str, reserved: Sequence[str]) -> None:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise SettingError(
            f"{option}: {text!r} is no setting; write key=value, as in strategy.beta=3"
        )
    if key in reserved:
        raise SettingError(f"{option}: {key} cannot be set here; it has an option of its own")


def plan(
    base: Sequence[str],
    methods: Sequence[Method],
    grid: Sequence[Setting],
    seeds: Sequence[int],
    out: Path,
    jobs: int,
) -> list[Cell]:
    """Return all runs of a comparison, each with its checked scenario and its folder.

    The runs of the first method come first: they compute the local-only baselines, which the runs
    of other methods with the same setting and seed find in the cache. Raises SettingError for
    mistakes that can be found before training.

    Args:
        base: Settings of all runs.
        methods: The methods.
        grid: Combinations of varied settings.
        seeds: The seeds.
        out: The folder of the comparison.
        jobs: Runs at a time.
    """
    for text in base:
        if text.partition("=")[0] in RESERVED or text.startswith("strategy."):
            raise SettingError(
                f"{text} cannot be set here; use --methods for strategies, --seeds, and --out"
            )
    cells = []
    threads = max(1, available_cores() // jobs)
    for method, setting in itertools.product(methods, grid):
        both = {key for key, _ in setting} & {text.partition("=")[0] for text in method.settings}
        if both:
            raise SettingError(
                f"method {method.label!r} and --grid both set {min(both)}; leave out one of them"
            )
        varied = [f"{key}={value}" for key, value in setting]
        given = ["report.console=false", "report.plots=false", *base]
        name = ", ".join([method.label, *varied])
        try:
            scenario = compose([*given, f"strategy={method.strategy}", *method.settings, *varied])
        except SettingError as error:
            raise SettingError(f"{name}: {error}") from error
        scenario = with_threads(scenario, threads)
        folder = out / "runs" / slug(method.label) / slug(",".join(varied) or "all")
        for seed in seeds:
            seeded = scenario.changed(federation=replace(scenario.federation, seed=seed))
            task = RunTask(f"{name}, seed {seed}", seeded, folder / f"seed{seed}")
            cells.append(Cell(method, setting, seed, task))
    folders = {cell.task.folder: cell.task.name for cell in cells}
    if len(folders) < len(cells):
        raise SettingError(
            "two methods or settings would share a folder; give the methods labels of letters and"
            " digits"
        )
    return cells


def slug(text: str) -> str:
    """Return a text as a valid folder name.

    >>> slug("knfu strategy.beta=3"), slug("models=[mlp*7,a.b:c]")
    ('knfu_strategy.beta=3', 'models=_mlp_7,a.b_c_')
    """
    return re.sub(r"[^\w.,=+-]", "_", text)


def _share_wandb_folder(cells: Sequence[Cell], out: Path) -> None:
    """Let all runs that log to W&B share one folder of it, unless the user has named one."""
    if any(cell.task.scenario.report.wandb != "disabled" for cell in cells):
        os.environ.setdefault("WANDB_DIR", str(out.absolute()))


def read_config(folder: Path) -> dict[str, Any]:
    """Return the settings of a run that change its figures, and its name, by dotted name.

    Raises RunError if they cannot be read.
    """
    try:
        config: dict[str, Any] = flat(yaml.safe_load((folder / "config.yaml").read_bytes()))
        return {
            **with_effect(config),
            "name": config["name"],
            "seed": int(config["seed"]),
            "strategy.name": config["strategy.name"],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise RunError(
            f"{folder / 'config.yaml'} is not the config of a run: {type(error).__name__}: {error}"
        ) from error


def compared(folders: Folders, question: Question, remarks: Sequence[str] = ()) -> Comparison:
    """Return what runs say of methods.

    The other point of a round follows the first, where all runs have measured at both.

    Args:
        folders: Run folders by method and setting, then by seed.
        question: What is asked for.
        remarks: Notes to add below the tables.
    """
    configs = [read_config(folder) for by_seed in folders.values() for folder in by_seed.values()]
    runs = {
        key: {seed: read_run(folder) for seed, folder in by_seed.items()}
        for key, by_seed in folders.items()
    }
    by_name = {
        ", ".join([key[0], *(f"{name}={value}" for name, value in key[1]), f"seed {seed}"]): run
        for key, by_seed in runs.items()
        for seed, run in by_seed.items()
    }
    point = point_of_comparison(by_name, question.after)
    length = min(run.length for by_seed in runs.values() for run in by_seed.values())
    at_points: dict[Options, list[Line]] = {}
    baselines: dict[Options, list[Line]] = {}
    made, first_pairs = list[Table](), list[Pair]()
    for after in dict.fromkeys([point, *common_points(by_name)]):
        options = Options(
            after=after,
            last=min(question.last, length),
            reach=question.reach,
            metric=question.metric,
        )
        check_metric(by_name, options)
        lines = at_points[options] = compare(runs, options)
        baselines[options] = baselines_of(lines, options)
        again = bool(made) and question.reach is None  # bytes are the same at both points
        first, *others = tables(lines, baselines[options], options)
        between = pairs(lines, options, question.against)
        first_pairs = first_pairs or between
        made += [
            table
            for table in (first, table_of_pairs(between, options), *others)
            if table is not None and not (again and table.title == "Communication")
        ]
    differs = note_on_point(by_name, point)
    notes = [*([] if differs is None else [differs]), *_notes(next(iter(at_points.values())))]
    return Comparison(
        folders=folders,
        common=in_common(configs, flat(Scenario.parse({}).to_dict())),
        tables=made,
        notes=[*notes, *remarks],
        at_points=at_points,
        baselines=baselines,
        pairs=first_pairs,
    )


def write(folders: Folders, question: Question, out: Path, remarks: Sequence[str]) -> str:
    """Write the tables, plots and page of a comparison, and return the tables as Markdown.

    Args:
        folders: Run folders by method and setting, then by seed.
        question: What is asked for.
        out: The folder of the comparison.
        remarks: Notes to add below the tables.
    """
    from fedkd.report.pages.sweep_page import write_sweep_page

    out.mkdir(parents=True, exist_ok=True)
    found = compared(folders, question, remarks)
    pictures = list[Path]()
    for options, lines in found.at_points.items():
        settings = dict.fromkeys(line.setting for line in lines)
        names = {
            s: "".join(f"_{slug(f'{key}={value}')}" for key, value in s) + f"_after_{options.after}"
            for s in settings
        }
        pictures += draw(lines, found.baselines[options], out / "plots", names)
    text = "\n".join([
        f"{found.common}\n",
        *(table.markdown() for table in found.tables),
        *(f"- {note}" for note in found.notes),
    ])  # fmt: skip
    images = "\n".join(f"\n![{path.stem}](plots/{path.name})" for path in pictures)
    (out / "comparison.md").write_text(f"# Comparison\n\n{text}\n{images}\n", encoding="utf-8")
    (out / "comparison.tex").write_text("\n".join(table.latex() for table in found.tables))
    write_csv(found.at_points, out)
    write_question(folders, question, out)
    write_sweep_page(out, found, remarks)
    return text


def _notes(lines: Sequence[Line]) -> list[str]:
    """Return notes for readers of the tables: versions, missing baselines, single seeds."""
    runs = [run for line in lines for run in line.runs.values()]
    versions = {
        name: sorted({run.versions.get(name, "?") for run in runs})
        for run in runs
        for name in run.versions
    }
    notes = [
        f"The runs are of several versions of {n}: {', '.join(v)}."
        for n, v in versions.items()
        if len(v) > 1
    ]
    without_baseline = [
        line.method
        for line in lines
        if line.figures["bytes_up"].mean and not line.figures["personal_gain"].seeds
    ]
    if without_baseline:
        names = ", ".join(dict.fromkeys(without_baseline))
        notes.append(
            f"Runs of {names} have no local-only baseline (baseline=none): nothing is said of their"
            " gains."
        )
    few = min(len(line.runs) for line in lines)
    if few < 2:
        notes.append("With one seed there is neither an interval nor a test.")
    return notes


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="fedkd compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_compare(made)
    return made


Found = tuple[dict[tuple[str, Setting], dict[int, Path]], list[str], bool]
"""Folders of finished runs by method and setting, then by seed; remarks on other runs; whether one
failed."""


def _run(given: argparse.Namespace, console: Console) -> Found:
    """Carry out the runs that are not complete, and return the finished ones."""
    if given.methods is None:
        raise SettingError(
            "give --methods to run, as in --methods local_only,knfu, or --runs FOLDER to read"
            " finished runs"
        )
    base = [*given.settings]
    for option in ("config", "config_dir"):
        if getattr(given, option) is not None:
            base += [f"--{option.replace('_', '-')}", getattr(given, option)]
    seeds, methods = parse_seeds(given.seeds or SEEDS), parse_methods(given.methods)
    check_reference(given.against, [method.label for method in methods])
    cells = plan(base, methods, parse_grid(given.grid), seeds, given.out, given.jobs)
    for cell in cells:
        if given.metric not in ("accuracy", *cell.task.scenario.measurement.metrics):
            raise SettingError(
                f"--metric {given.metric}: {cell.task.name} does not measure it; say"
                f" metrics=[{given.metric}] too"
            )
    _share_wandb_folder(cells, given.out)
    failed = run_tasks([cell.task for cell in cells], given.jobs, console)
    if offline_runs(given.out):
        upload = f"wandb sync {shlex.quote(str(given.out / 'wandb'))}/offline-run-*"
        console.print(f"W&B, to upload: {upload}", markup=False)
    failed_folders = {outcome.task.folder for outcome in failed}
    folders: dict[tuple[str, Setting], dict[int, Path]] = {}
    for cell in cells:
        if cell.task.folder not in failed_folders:
            folders.setdefault((cell.method.label, cell.setting), {})[cell.seed] = cell.task.folder
    remarks = [f"{outcome.task.name} failed: {outcome.error}." for outcome in failed]
    return folders, remarks, bool(failed)


def _read(given: argparse.Namespace) -> Found:
    """Return the finished runs below given folders."""
    options = ("methods", "grid", "seeds", "config", "config_dir")
    unused = [
        *given.settings,
        *(f"--{name.replace('_', '-')}" for name in options if getattr(given, name)),
    ]
    if unused:
        raise SettingError(f"--runs reads finished runs; leave out {' '.join(unused)}")
    done, others = runs_below(given.runs)
    remarks = [f"Left out, as it is not complete: {folder}." for folder in others]
    return sort_runs({folder: read_config(folder) for folder in done}), remarks, False


def _work(given: argparse.Namespace, console: Console) -> int:
    """Carry out what was asked for, and return the exit status."""
    at_least(1, **{"--jobs": given.jobs, "--last": given.last})
    if given.reach is not None:
        share(**{"--reach": given.reach})
    folders, remarks, failed = _read(given) if given.runs else _run(given, console)
    if folders:
        question = Question(
            after=given.after,
            last=given.last,
            reach=given.reach,
            against=given.against,
            metric=given.metric,
        )
        console.print(write(folders, question, given.out, remarks), markup=False)
        console.print(f"Tables, figures and pictures: {given.out}", markup=False)
        console.print(f"For a browser: {given.out / 'report.html'}", markup=False)
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = parser().parse_intermixed_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    search_here()
    return exit_status_of("compare", lambda: _work(given, console))


if __name__ == "__main__":
    sys.exit(main())
