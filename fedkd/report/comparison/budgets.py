"""Compare runs by mechanism and privacy budget, over paired seeds.

Accuracy, what was spent, and how an attack did.

A run says by its own files which mechanism and budget it had. Runs that are put on one axis must
differ in nothing else. Not for: running them (``fedkd.cli.privacy_report``), and drawing
(``budget_picture``).
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from fedkd.errors import RunError, SettingError
from fedkd.report.comparison import grouping
from fedkd.report.comparison.one_point import After, point_of_comparison
from fedkd.report.comparison.run_reader import Run, read_run
from fedkd.report.comparison.statistics import Interval, interval
from fedkd.report.comparison.tables import NOTHING, Table, decimal, percent, points
from fedkd.settings.measuring_points import MeasuringPoint

UNPROTECTED = "none"
MAY_DIFFER = ("privacy", *grouping.IDENTITY)
"""Settings in which the runs of one report may differ, apart from who attacks."""
FIGURES = ("balanced", "own", "teacher", "cost", "auc", "tpr")
"""``cost``: accuracy on the balanced test less that of the unprotected run of the same seed."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run: its mechanism, its budget and its figures.

    A budget is inf without protection, None where the mechanism has none.
    """

    label: str
    mechanism: str
    budget: float | None
    seed: int
    after: MeasuringPoint
    """The point of a round at which the accuracies are."""
    balanced: float
    own: float
    teacher: float
    auc: float
    """Of the best attack of the adversary ``attacker``; NaN where nothing was attacked."""
    tpr: float
    """Its true positive rate at a false positive rate of 1 %; NaN where there were too few to
    say."""
    attacker: str
    unit: str
    against: str
    spent: float | None
    """Epsilon of the system at the end, by the ledger."""
    delta: float | None
    accountant: str
    sigma: float | None


@dataclass(frozen=True, kw_only=True)
class BudgetPoint:
    """A mechanism at a budget: means and intervals over seeds, and what is claimed there."""

    label: str
    budget: float | None
    points: Mapping[int, Point]
    """By seed."""
    figures: Mapping[str, Interval]

    @property
    def first(self) -> Point:
        """Any of the runs, for what they share."""
        return next(iter(self.points.values()))

    @property
    def protected(self) -> bool:
        """Whether a mechanism was at work."""
        return self.budget != math.inf and self.first.mechanism != UNPROTECTED


def read_points(labels: Mapping[Path, str | None], after: After) -> list[Point]:
    """Return the figures of finished runs, all at one point of the round (``one_point``).

    ``labels`` are by folder, None for the mechanism's name. Raises SettingError or RunError.
    """
    runs = {str(folder): read_run(folder) for folder in labels}
    point = point_of_comparison(runs, after)
    return [
        _point(folder, runs[str(folder)].at(point), label, point)
        for folder, label in labels.items()
    ]


def _point(folder: Path, run: Run, label: str | None, after: MeasuringPoint) -> Point:
    """Return the mechanism, the budget and the figures of a run. Raises RunError.

    Args:
        folder: Its folder.
        run: Its figures at a point of the round.
        label: Its name in the report; None is its mechanism's.
        after: The point.
    """
    try:
        summary = json.loads((folder / "summary.json").read_bytes())
        config = yaml.safe_load((folder / "config.yaml").read_bytes())
        privacy, audit, chosen = summary["privacy"], summary.get("audit") or {}, config["privacy"]
        return Point(
            label=label or chosen["name"],
            mechanism=chosen["name"],
            budget=_budget(chosen),
            seed=summary["seed"],
            after=after,
            balanced=float(run.of_round("global_accuracy")[-1]),
            own=float(run.of_round("personal_accuracy")[-1]),
            teacher=float(run.of_round("teacher_accuracy")[-1]),
            auc=_number(audit.get("auc")),
            tpr=_number(audit.get("tpr_at_1_percent_fpr")),
            attacker=audit.get("adversary") or "",
            unit=privacy.get("unit") or "",
            against=privacy.get("adversary") or "",
            spent=privacy["epsilon"],
            delta=privacy.get("delta"),
            accountant=privacy.get("accountant") or "",
            sigma=privacy.get("sigma"),
        )
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RunError(
            f"{folder} does not hold a run of this version: {type(error).__name__}: {error}"
        ) from error


def check_alike(configs: Mapping[Path, Mapping[str, Any]]) -> None:
    """Raise SettingError where runs differ in more than mechanism, budget and seed.

    It names the settings.

    ``configs`` are settings by their dotted names. Clients that see other teachers than the
    server's uploads are attackers of their own: who attacks may differ.
    """
    first: dict[str, Any] | None = None
    for folder, config in configs.items():
        rest = {k: v for k, v in config.items() if k.partition(".")[0] not in MAY_DIFFER}
        rest.pop("audit.adversaries", None)
        if first is None:
            first, where = rest, folder
            continue
        different = [key for key in sorted(first | rest) if first.get(key) != rest.get(key)]
        if different:
            shown = ", ".join(
                f"{key} is {first.get(key)!r} and {rest.get(key)!r}" for key in different[:5]
            )
            raise SettingError(
                f"{where} and {folder} differ in more than privacy and seed: {shown}"
            )


def entries(found: Sequence[Point]) -> list[BudgetPoint]:
    """Return the runs by mechanism and budget, budgets in rising sequence.

    Raises SettingError for two runs of one seed.

    ``cost`` is paired: each run is compared with an unprotected one of its seed, of its own label
    where there is one.
    """
    bare: dict[tuple[str | None, int], float] = {}
    for point in found:
        if point.budget == math.inf or point.mechanism == UNPROTECTED:
            bare.setdefault((point.label, point.seed), point.balanced)
            bare.setdefault((None, point.seed), point.balanced)
    grouped: dict[tuple[str, float | None], dict[int, Point]] = {}
    for point in found:
        by_seed = grouped.setdefault((point.label, point.budget), {})
        if point.seed in by_seed:
            raise SettingError(
                f"two runs are {point.label} at epsilon={point.budget} with seed {point.seed}"
            )
        by_seed[point.seed] = point
    labels = list(dict.fromkeys(point.label for point in found))
    keys = sorted(
        grouped, key=lambda key: (labels.index(key[0]), math.inf if key[1] is None else key[1])
    )
    return [
        BudgetPoint(
            label=label,
            budget=budget,
            points=dict(sorted(grouped[label, budget].items())),
            figures=_figures(list(grouped[label, budget].values()), bare),
        )
        for label, budget in keys
    ]


def table(found: Sequence[BudgetPoint]) -> Table:
    """Return all entries as a table, a line each."""
    attacked = any(entry.figures["auc"].seeds for entry in found)
    header = [
        "epsilon",
        "spent",
        "unit",
        "against",
        "seeds",
        "balanced test",
        "cost",
        "own distribution",
        "teacher",
    ]
    lines = []
    for entry in found:
        figures, first = entry.figures, entry.first
        spent = [point.spent for point in entry.points.values() if point.spent is not None]
        line = [
            entry.label,
            budget_text(entry),
            f"{max(spent):.3g} ({first.accountant})" if spent else NOTHING,
            first.unit or NOTHING,
            first.against or NOTHING,
            str(len(entry.points)),
            percent(figures["balanced"]),
            points(figures["cost"]),
            percent(figures["own"]),
            percent(figures["teacher"]),
        ]
        if attacked:
            line += [decimal(figures["auc"]), decimal(figures["tpr"]), first.attacker or NOTHING]
        lines.append(tuple(line))
    if attacked:
        header += ["attack AUC", "TPR at 1 % FPR", "by"]
    return Table(
        f"Accuracy after {found[0].first.after} by privacy budget",
        caption(found),
        ("mechanism", *header),
        tuple(lines),
        2,
    )


def caption(found: Sequence[BudgetPoint]) -> str:
    """Return what a reader of the table or the picture must know."""
    deltas = sorted(
        {
            point.delta
            for entry in found
            for point in entry.points.values()
            if point.delta is not None
        }
    )
    said = f" delta {', '.join(f'{delta:g}' for delta in deltas)}." if deltas else ""
    return (
        f"Accuracy in % after {found[0].first.after} of the last round, means over clients, then"
        " over paired seeds ± half of the 95 % t-interval."
        " Cost: points of the balanced test against the unprotected run of the same seed. Spent:"
        " the largest epsilon of"
        f" any client by the run's ledger, and its accountant;{said} Epsilon inf: no protection."
        " No claim: a heuristic."
        " An epsilon holds for its unit and against its adversary alone: those of different units"
        " or adversaries are"
        " not comparable. Noise is drawn from seeded streams: this simulates privacy, it protects"
        " nobody."
    )


def budget_text(entry: BudgetPoint) -> str:
    """Return a budget as it is written: ``0.5``, ``inf``, ``no claim``, or that of given noise."""
    if entry.budget is not None:
        return f"{entry.budget:g}"
    if entry.first.mechanism == UNPROTECTED:
        return "inf"
    return "no claim" if entry.first.spent is None else "noise given"


def write_runs(found: Sequence[BudgetPoint], path: Path) -> None:
    """Write every run's figures, unrounded, a row a run; an empty cell is unknown."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([field.name for field in fields(Point)])
        for entry in found:
            for point in entry.points.values():
                rows.writerow(
                    ""
                    if value is None or (isinstance(value, float) and math.isnan(value))
                    else value
                    for value in asdict(point).values()
                )


def _figures(
    some: Sequence[Point], bare: Mapping[tuple[str | None, int], float]
) -> dict[str, Interval]:
    found = {name: [getattr(point, name) for point in some] for name in FIGURES if name != "cost"}
    costs = [
        point.balanced - bare.get((point.label, point.seed), bare.get((None, point.seed), math.nan))
        for point in some
    ]
    return {name: interval(values) for name, values in {**found, "cost": costs}.items()}


def _budget(chosen: Mapping[str, Any]) -> float | None:
    epsilon = chosen.get("epsilon")
    return None if epsilon is None else float(epsilon)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
