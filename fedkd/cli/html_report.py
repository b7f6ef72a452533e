"""Write ``report.html``, a page for a browser: of a run, a sweep, a comparison, any of its files.

    fedkd report runs/2026-11-25_digits
    fedkd report results/compare

The page of a folder with several runs has the tables, tests and pictures of fedkd compare, and
links to the page of each run, which is made as well. Runs that are not finished or damaged are
named. Nothing that a folder names is imported or run. Exit status: 0, 1 (a run or a file is
damaged), 2 (bad input).
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkd.cli.compare import compared, read_config
from fedkd.errors import FedkdError, SettingError
from fedkd.report.comparison.grouping import differing, sort_runs
from fedkd.report.comparison.run_reader import read_run, run_folders, status
from fedkd.report.comparison.stored_comparison import STORED, Comparison, Question, read_question
from fedkd.report.pages.run_page import write_run_page
from fedkd.report.pages.sweep_page import ReportedRuns, write_sweep_page
from fedkd.runtime.standard_streams import flush_output, notice
from fedkd.settings.validators import user_path

DAMAGED = "damaged"
"""How the reason of a run begins that cannot be read."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="fedkd report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="a run's, a sweep's or a comparison's folder")
    parser.add_argument(
        "--only-summary",
        action="store_true",
        help="of several runs: leave the page of each run as it is, or unmade",
    )
    given = parser.parse_args(arguments)
    try:
        folder = user_path(given.folder, "folder")
        if not folder.is_dir():
            raise SettingError(f"{folder}: there is no such folder")
        if any((folder / name).is_file() for name in ("config.yaml", "summary.json")):
            print(f"Report: {write_run_page(folder)}")
            return 0
        damaged = _report_runs(folder, with_each=not given.only_summary)
        flush_output()
        return int(bool(damaged))
    except SettingError as error:
        notice(str(error))
        return 2
    except (FedkdError, OSError) as error:
        notice(str(error))
        return 1


def _report_runs(folder: Path, *, with_each: bool) -> list[str]:
    """Write the page of the runs in and below a folder; return what is damaged.

    Raises SettingError where there is no run, RunError where the file of a comparison is damaged.
    """
    remarks: list[str] = []
    if (folder / STORED).is_file():
        folders, question = read_question(folder)
        runs = [run for by_seed in folders.values() for run in by_seed.values()]
    else:
        folders, question, runs = {}, Question(), run_folders(folder)
    if not runs:
        raise SettingError(f"{folder}: there is no run in or below it, nor a comparison")
    configs, left_out, damaged = _readable(runs)
    if with_each:
        for run in _shown_progress(runs):
            if left_out.get(run, "").startswith(DAMAGED):
                continue
            try:
                write_run_page(run)
            except FedkdError as error:
                damaged.append(str(error))
    notices = [f"{_shown(run, folder)}: {reason}" for run, reason in left_out.items()]
    try:
        found = _compared(folders, question, configs)
    except FedkdError as error:  # such as two runs of one seed: the list is what is left
        found, remarks = None, [f"The runs are not compared: {error}"]
    varies = differing(configs.values()) if configs else []
    sweep = ReportedRuns(
        title=folder.resolve().name,
        runs={
            run: (left_out.get(run, "completed"), *_values(configs.get(run), varies))
            for run in runs
        },
        varies=varies,
        notices=[*notices, *remarks],
    )
    page = write_sweep_page(folder, found, sweep=sweep)
    print(f"Report: {page}")
    said = "\n".join(sweep.notices)
    for text in (*sweep.notices, *(text for text in damaged if text not in said)):
        notice(text)
    return damaged


def _shown_progress(runs: Sequence[Path]) -> Iterable[Path]:
    """Return runs in turn, with a bar on a terminal for as long as it takes."""
    from rich.console import Console
    from rich.progress import track

    screen = Console(stderr=True)
    off = len(runs) < 2 or not screen.is_terminal
    return track(runs, description="Pages", console=screen, transient=True, disable=off)


def _readable(runs: Sequence[Path]) -> tuple[dict[Path, Any], dict[Path, str], list[str]]:
    """Return the settings of finished runs, why the others are left out, and what is damaged."""
    configs, left_out, damaged = dict[Path, Any](), dict[Path, str](), list[str]()
    for run in runs:
        try:
            state = status(run)
            if state != "completed":
                left_out[run] = f"not finished ({state or 'it has no summary'})"
                continue
            config = read_config(run)
            read_run(run)
            configs[run] = config
        except FedkdError as error:
            left_out[run] = f"{DAMAGED}: {error}"
            damaged.append(str(error))
    return configs, left_out, damaged


def _compared(
    folders: Mapping[tuple[str, Any], Mapping[int, Path]],
    question: Question,
    configs: Mapping[Path, Any],
) -> Comparison | None:
    """Return the comparison of the runs that can be read; None where there are none."""
    if not configs:
        return None
    if not folders:
        return compared(sort_runs(dict(configs)), question)
    known = {
        key: {seed: run for seed, run in by_seed.items() if run in configs}
        for key, by_seed in folders.items()
    }
    return compared({key: by_seed for key, by_seed in known.items() if by_seed}, question)


def _values(config: Mapping[str, Any] | None, names: Sequence[str]) -> list[str]:
    return [str((config or {}).get(name, "–")) for name in names]


def _shown(run: Path, folder: Path) -> str:
    return str(run.relative_to(folder)) if run.is_relative_to(folder) else str(run)
