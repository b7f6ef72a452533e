"""What an audit says: tables for a person, files for a program, and the entry of a run's
summary.
"""

import csv
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from fedkd.audit.audit_run import AttackResult, AuditResult, Judgment
from fedkd.audit.roc import LEVELS, Rate
from fedkd.audit.roc_plot import draw_roc
from fedkd.audit.verdicts import LIMITS, Verdict
from fedkd.errors import StorageError
from fedkd.report.console import NO_TERMINAL_WIDTH
from fedkd.report.folder import jsonable

WORST_FIRST: tuple[Verdict, ...] = ("VIOLATION", "consistent", "uninformative", "no claim")


def write(studies: Sequence[AuditResult], run_dir: Path, *, plots: bool = True) -> None:
    """Write the audit's files in place of an earlier one's. Raises StorageError where the disk does
    not take them.
    """
    attacks = [
        {"adversary": s.adversary, **attack_row(attack)} for s in studies for attack in _all(s)
    ]
    claims = [
        {"audit_of": s.adversary, **claim_row(judgment)}
        for s in studies
        for judgment in s.judgments
    ]
    values = {"audits": [_plain(study) for study in studies], "limits": list(LIMITS)}
    try:
        (run_dir / "audit.json").write_text(
            json.dumps(jsonable(values), indent=2, allow_nan=False) + "\n"
        )
        for name, rows in (("audit.csv", attacks), ("audit_claims.csv", claims)):
            with (run_dir / name).open("w", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["adversary"])
                writer.writeheader()
                writer.writerows(rows)
        for study in studies:
            if study.curves and plots:
                draw_roc(study.curves, study.adversary, run_dir / "plots")
    except OSError as error:
        raise StorageError(f"the audit of {run_dir} cannot be written: {error.strerror}") from error


def _plain(study: AuditResult) -> dict[str, Any]:
    return {
        "adversary": study.adversary,
        "confidence": study.confidence,
        "candidates": study.canaries,
        "ceiling": study.ceiling,
        "claims": [claim_row(judgment) for judgment in study.judgments],
        "attacks": [dataclasses.asdict(attack) for attack in _all(study)],
        "labels": {
            str(client): dataclasses.asdict(found) for client, found in study.labels.items()
        },
        "skipped": list(study.skipped),
    }


def summary_entry(studies: Sequence[AuditResult]) -> dict[str, Any]:
    """Return the ``audit`` of a run's summary: the first adversary's figures, then every
    adversary's by name.

    ``verdict`` is the worst of all. ``attack`` is the one with the largest AUC, whose interval
    allows for the choice; figures that could not be measured are None.
    """
    each = {study.adversary: _headline(study) for study in studies}
    first = each[studies[0].adversary]
    return {**first, "verdict": worst(v["verdict"] for v in each.values()), "by_adversary": each}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the gravest verdict; without any, nothing is claimed.

    >>> worst(["no claim", "VIOLATION", "consistent"])
    'VIOLATION'
    """
    return min(verdicts, key=WORST_FIRST.index, default="no claim")


def _headline(study: AuditResult) -> dict[str, Any]:
    best = max(study.attacks, key=lambda attack: attack.auc, default=None)
    rate = Rate(None) if best is None else best.rates[LEVELS.index(0.01)]
    blind = study.blind
    labels = list(study.labels.values())
    claimed = [
        j.claim.epsilon
        for j in study.judgments
        if j.verdict != "no claim" and j.claim.epsilon is not None
    ]
    return {
        "adversary": study.adversary,
        "candidates": study.canaries,
        "confidence": study.confidence,
        "attack": None if best is None else best.name,
        "auc": None if best is None else best.auc,
        "auc_low": None if best is None else best.auc_low,
        "auc_high": None if best is None else best.auc_high,
        "tpr_at_1_percent_fpr": rate.value,
        "tpr_at_1_percent_fpr_low": rate.low,
        "tpr_at_1_percent_fpr_high": rate.high,
        "blind_auc": None if blind is None else blind.auc,
        "blind_auc_low": None if blind is None else blind.auc_low,
        "blind_auc_high": None if blind is None else blind.auc_high,
        "label_total_variation": _mean([found.total_variation for found in labels]),
        "blind_label_total_variation": _mean([found.blind_total_variation for found in labels]),
        "lower_bound": max((attack.one_run for attack in study.attacks), default=None),
        "ceiling": study.ceiling,
        "claimed_epsilon": min(claimed, default=None),
        "verdict": worst(j.verdict for j in study.judgments),
        "attacks": {
            attack.name: {
                "auc": attack.auc,
                "tpr_at_1_percent_fpr": attack.rates[LEVELS.index(0.01)].value,
            }
            for attack in study.attacks
        },
    }


def amend_summary(run_dir: Path, entry: Mapping[str, Any]) -> None:
    """Write an audit's entry into a stored run's summary, whole or not at all. Raises
    StorageError.
    """
    path, partial = run_dir / "summary.json", run_dir / "summary.json.partial"
    summary = {**json.loads(path.read_text()), "audit": entry}
    try:
        partial.write_text(json.dumps(jsonable(summary), indent=2, allow_nan=False) + "\n")
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error


def show(studies: Sequence[AuditResult]) -> None:
    """Print every adversary's tables, what was left out, and the known limits."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(highlight=False, soft_wrap=True, width=NO_TERMINAL_WIDTH)
    for study in studies:
        _show(study, console)
    if any(study.attacks for study in studies):
        console.print(
            "* Clopper-Pearson and Gaussian bounds as if candidates were independent; no verdict"
            " rests on them.",
            markup=False,
        )
    for line in LIMITS:
        console.print(line, markup=False)


def _show(study: AuditResult, console: Console) -> None:
    if study.attacks:
        title = f"Attacks by {study.adversary} on {study.canaries} candidates, {study.confidence:.0%} for all bounds"
        names = [
            "attack",
            "AUC",
            "interval",
            *(f"TPR {level:.1%}" for level in LEVELS),
            "eps >=",
            "CP*",
            "GDP*",
        ]
        rows = [
            [
                a.name,
                f"{a.auc:.3f}",
                f"{a.auc_low:.3f}-{a.auc_high:.3f}",
                *map(_rate, a.rates),
                f"{a.one_run:.2f}",
                _two(a.clopper_pearson),
                _two(a.gaussian),
            ]
            for a in _all(study)
        ]
        console.print(_table(title, names, rows))
    if study.labels:
        found = study.labels.values()
        mean = [
            sum(getattr(f, n) for f in found) / len(found)
            for n in ("kl", "total_variation", "blind_total_variation")
        ]
        console.print(
            f"Label distributions from uploads: KL {mean[0]:.3f}, total variation {mean[1]:.3f}"
            " (without uploads"
            f" {mean[2]:.3f}), means over {len(found)} clients."
        )
    names = [
        "mechanism",
        "unit",
        "against",
        "claimed eps",
        "delta",
        "audited eps >=",
        "ceiling",
        "verdict",
    ]
    rows = [
        [
            j.claim.mechanism,
            j.claim.unit,
            j.claim.adversary,
            _two(j.claim.epsilon),
            f"{j.claim.delta or ''}",
            _two(j.lower_bound),
            _two(j.ceiling),
            j.verdict,
        ]
        for j in study.judgments
    ]
    console.print(_table(f"Claimed against audited by {study.adversary}", names, rows))
    for reason in study.skipped:
        console.print(f"Not done: {reason}", markup=False)


def attack_row(attack: AttackResult) -> dict[str, Any]:
    """Return an attack's row of ``audit.csv``; what could not be measured is empty."""
    row: dict[str, Any] = {
        "attack": attack.name,
        "auc": attack.auc,
        "auc_low": attack.auc_low,
        "auc_high": attack.auc_high,
        "chance": attack.chance,
    }
    for level, rate in zip(LEVELS, attack.rates, strict=True):
        row |= {
            f"tpr_at_{level}": rate.value,
            f"tpr_at_{level}_low": rate.low,
            f"tpr_at_{level}_high": rate.high,
        }
    return row | {
        "one_run": attack.one_run,
        "clopper_pearson": attack.clopper_pearson,
        "gaussian": attack.gaussian,
    }


def claim_row(judgment: Judgment) -> dict[str, Any]:
    """Return a claim's row of ``audit_claims.csv``."""
    values = dataclasses.asdict(judgment)
    claim: dict[str, Any] = values.pop("claim")
    return claim | values


def _all(study: AuditResult) -> list[AttackResult]:
    return [*study.attacks, *([] if study.blind is None else [study.blind])]


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for index, name in enumerate(names):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _rate(rate: Rate) -> str:
    return "-" if rate.value is None else f"{rate.value:.3f}"


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
