r"""Compare privacy mechanisms: accuracy and attack success by privacy budget, over paired seeds.

    fedkd privacy-report scenario=privacy_budget --epsilons 0.5,1,2,4,8,inf \
        --mechanisms dp_sgd,central_gaussian,gnmax,swing --seeds 0,1,2 --jobs 2 \
        --out results/privacy
    fedkd privacy-report --runs runs/2026-11-25_sweep --out results/privacy

The first carries out runs: called again with the same --out, it skips finished runs and resumes the
others. The second reads finished runs, such as those of
`fedkd sweep privacy.epsilon=...`: any folders, with all runs below them. A
mechanism may have settings of its own and a label, as those of fedkd compare have:

    --mechanisms "dp_sgd, tight=dp_sgd privacy.clip_norm=0.5, gaussian privacy.memoize=true"

Mechanisms without a budget (swing) are run once per seed. If the scenario audits its runs, the
server attacks, or the other clients if a mechanism trusts the server. Exit status: 0, 1 (a run
failed), 2 (bad input), 130 (Ctrl-C), 143 (SIGTERM), 138 (SIGUSR1). docs/privacy.md says what the
figures mean.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fedkd.cli.carrying_out import exit_status_of, run_tasks
from fedkd.cli.command import compose
from fedkd.cli.compare import Method, parse_methods, parse_seeds, read_config, slug
from fedkd.cli.options import add_privacy_report
from fedkd.errors import SettingError
from fedkd.experiment.jobs import Outcome, RunTask, with_threads
from fedkd.report.comparison.budget_picture import draw_budgets
from fedkd.report.comparison.budgets import (
    BudgetPoint,
    check_alike,
    entries,
    read_points,
    table,
    write_runs,
)
from fedkd.report.comparison.run_reader import runs_below
from fedkd.report.pages.sweep_page import BUDGETS
from fedkd.runtime.parallel import available_cores
from fedkd.runtime.working_folder import search_here
from fedkd.scenario.registry import find
from fedkd.scenario.scenario import Scenario
from fedkd.settings.validators import at_least


@dataclass(frozen=True)
class BudgetCell:
    """One run of a report."""

    label: str
    task: RunTask


def parse_epsilons(text: str) -> list[float]:
    """Return the budgets in a text such as ``0.5,1,inf``, ascending. Raises SettingError.

    >>> parse_epsilons("inf,0.5")
    [0.5, inf]
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise SettingError(
            f"--epsilons must be numbers with commas between them, as in 1,8,inf; got {text}"
        ) from error
    if not all(epsilon > 0 for epsilon in found):
        raise SettingError(f"--epsilons must be above 0, got {text}; inf stands for no protection")
    if len(set(found)) < len(found):
        raise SettingError(f"--epsilons names a budget twice: {text}")
    return sorted(found)


def plan(
    base: Sequence[str],
    mechanisms: Sequence[Method],
    epsilons: Sequence[float],
    seeds: Sequence[int],
    out: Path,
    jobs: int,
) -> list[BudgetCell]:
    """Return all runs of a report, each with its checked scenario and its folder.

    Raises SettingError for mistakes that can be found before training.

    Args:
        base: Settings of all runs.
        mechanisms: The mechanisms.
        epsilons: The budgets, for mechanisms that have one.
        seeds: The seeds.
        out: The folder of the report.
        jobs: Runs at a time.
    """
    for text in base:
        if text.partition("=")[0] in ("privacy", "seed", "run_dir") or text.startswith("privacy."):
            raise SettingError(
                f"{text} cannot be set here; use --mechanisms, --epsilons, --seeds, and --out"
            )
    threads = max(1, available_cores() // jobs)
    cells = []
    for mechanism in mechanisms:
        for epsilon in epsilons if _has_budget(mechanism) else [None]:
            name = (
                mechanism.label if epsilon is None else f"{mechanism.label} at epsilon {epsilon:g}"
            )
            try:
                scenario = with_threads(_compose(base, mechanism, epsilon), threads)
            except SettingError as error:
                raise SettingError(f"{name}: {error}") from error
            folder = out / "runs" / slug(mechanism.label)
            folder /= "all" if epsilon is None else f"epsilon={epsilon:g}"
            for seed in seeds:
                seeded = scenario.changed(federation=replace(scenario.federation, seed=seed))
                task = RunTask(f"{name}, seed {seed}", seeded, folder / f"seed{seed}")
                cells.append(BudgetCell(mechanism.label, task))
    if len({cell.task.folder for cell in cells}) < len(cells):
        raise SettingError(
            "two mechanisms would share a folder; give them labels of letters and digits"
        )
    return cells


def _has_budget(mechanism: Method) -> bool:
    """Return whether a mechanism takes a budget: it has one, and no setting that replaces it."""
    _, fields = find("privacy", mechanism.strategy)
    given = {text.partition("=")[0] for text in mechanism.settings}
    return "epsilon" in fields and not given & {
        f"privacy.{name}" for name in _instead_of_epsilon(fields)
    }


def _compose(base: Sequence[str], mechanism: Method, epsilon: float | None) -> Scenario:
    """Return the scenario of a mechanism at a budget, with the adversary that its audit lacks."""
    settings = ["report.console=false", "report.plots=false", "report.wandb=disabled", *base]
    budget = [] if epsilon is None else [f"privacy.epsilon={epsilon!r}"]
    privacy = [f"privacy={mechanism.strategy}", *mechanism.settings, *budget]
    scenario = compose([*settings, *privacy])
    audited = scenario.audit.name != "none"
    if audited and not any(text.startswith("audit.adversaries=") for text in base):
        protected = scenario.privacy.value.protects_from
        adversary = "clients" if protected and "server" not in protected else "server"
        scenario = compose([*settings, f"audit.adversaries=[{adversary}]", *privacy])
    return scenario


def _instead_of_epsilon(fields: Mapping[str, Any]) -> set[str]:
    """Return the settings that fix the noise, in place of a budget."""
    return {"sigma", "noise_multiplier", "label_epsilon", "epsilon"} & set(fields)


def write(found: Sequence[BudgetPoint], notes: Sequence[str], out: Path) -> str:
    """Write the table, the figures and the plot into ``out``; return the table as Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    made = table(found)
    pictures = draw_budgets(found, out / BUDGETS)
    text = "\n".join([made.markdown(), *(f"- {note}" for note in notes)])
    (out / "privacy.md").write_text(
        f"# Privacy report\n\n{text}\n\n![{made.title}]({pictures[0].name})\n"
    )
    (out / "privacy.tex").write_text(made.latex())
    write_runs(found, out / "privacy.csv")
    return text


def notes_on(found: Sequence[BudgetPoint], failed: Sequence[Outcome]) -> list[str]:
    """Return notes for readers of the report: failures, seeds, missing audits."""
    notes = [f"{outcome.task.name} failed: {outcome.error}." for outcome in failed]
    seeds = {tuple(entry.points) for entry in found}
    if len(seeds) > 1:
        notes.append("Not every line has the same seeds: lines are not paired throughout.")
    if min(len(entry.points) for entry in found) < 2:
        notes.append("With one seed there is no interval.")
    if not any(entry.figures["auc"].seeds for entry in found):
        notes.append("The runs were not audited (audit=none): nothing is said of attacks.")
    if not any(entry.figures["cost"].seeds for entry in found):
        notes.append(
            "There is no unprotected run (--epsilons with inf): nothing is said of the cost of"
            " privacy."
        )
    return notes


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="fedkd privacy-report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_privacy_report(made)
    return made


Found = tuple[dict[Path, str | None], list[Outcome]]
"""Labels of finished runs by folder, None where the run tells it itself; and failures."""


def _read(given: argparse.Namespace) -> Found:
    """Return the finished runs below given folders."""
    if given.settings:
        raise SettingError(f"--runs reads finished runs; leave out {' '.join(given.settings)}")
    return dict.fromkeys(runs_below(given.runs)[0]), []


def _run(given: argparse.Namespace, console: Console) -> Found:
    """Carry out the runs that are not complete, and return the finished ones."""
    base = [*given.settings]
    for option in ("config", "config_dir"):
        if getattr(given, option) is not None:
            base += [f"--{option.replace('_', '-')}", getattr(given, option)]
    reserved = ("privacy", "privacy.epsilon", "seed", "run_dir")
    mechanisms = parse_methods(given.mechanisms, "--mechanisms", reserved)
    epsilons, seeds = parse_epsilons(given.epsilons), parse_seeds(given.seeds)
    cells = plan(base, mechanisms, epsilons, seeds, given.out, given.jobs)
    failed = run_tasks([cell.task for cell in cells], given.jobs, console)
    failed_folders = {outcome.task.folder for outcome in failed}
    return {
        cell.task.folder: cell.label for cell in cells if cell.task.folder not in failed_folders
    }, failed


def _work(given: argparse.Namespace, console: Console) -> int:
    """Carry out what was asked for, and return the exit status."""
    at_least(1, **{"--jobs": given.jobs})
    folders, failed = _read(given) if given.runs else _run(given, console)
    if folders:
        if given.runs:
            check_alike({folder: read_config(folder) for folder in folders})
        found = entries(read_points(folders, given.after))
        console.print(write(found, notes_on(found, failed), given.out), markup=False)
        console.print(f"Table, figures and picture: {given.out}", markup=False)
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = parser().parse_intermixed_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    search_here()
    return exit_status_of("privacy_report", lambda: _work(given, console))


if __name__ == "__main__":
    sys.exit(main())
