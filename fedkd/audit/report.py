"""Output of an audit: printed tables, files, and the entry in a run's summary."""

import csv
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from fedkd.audit.audit_result import AttackResult, AuditResult, Judgment
from fedkd.audit.roc import LEVELS, Rate
from fedkd.audit.roc_plot import draw_roc
from fedkd.audit.verdicts import LIMITS, WORST_FIRST, Verdict, in_words
from fedkd.errors import StorageError
from fedkd.report.folder import jsonable, write_summary
from fedkd.report.pages.privacy_in_words import audit_in_words
from fedkd.report.run_checksums import amended
from fedkd.report.run_output import RunOutput

Emit = Callable[[str | Table], None]
"""Prints or logs a line or a table."""
UNBROKEN = {"verdict": len("uninformative"), "mechanism": len("central_gaussian")}
"""The longest words of columns whose words are not broken."""


def write(results: Sequence[AuditResult], run_dir: Path, *, plots: bool = True) -> None:
    """Write the audit's files, replacing those of an earlier audit. Raises StorageError."""
    attacks = [
        {"adversary": r.adversary, **attack_row(attack)}
        for r in results
        for attack in _attacks_with_blind(r)
    ]
    claims = [
        {"audit_of": r.adversary, **claim_row(judgment)}
        for r in results
        for judgment in r.judgments
    ]
    values = {"audits": [_to_dict(result) for result in results], "limits": list(LIMITS)}
    try:
        (run_dir / "audit.json").write_text(
            json.dumps(jsonable(values), indent=2, allow_nan=False) + "\n"
        )
        for name, rows in (("audit.csv", attacks), ("audit_claims.csv", claims)):
            with (run_dir / name).open("w", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["adversary"])
                writer.writeheader()
                writer.writerows(rows)
        for result in results:
            if result.curves and plots:
                draw_roc(result.curves, result.adversary, run_dir / "plots")
    except OSError as error:
        raise StorageError(f"the audit of {run_dir} cannot be written: {error.strerror}") from error


def _to_dict(result: AuditResult) -> dict[str, Any]:
    return {
        "adversary": result.adversary,
        "confidence": result.confidence,
        "candidates": result.canaries,
        "ceiling": result.ceiling,
        "claims": [claim_row(judgment) for judgment in result.judgments],
        "attacks": [dataclasses.asdict(attack) for attack in _attacks_with_blind(result)],
        "labels": {
            str(client): dataclasses.asdict(found) for client, found in result.labels.items()
        },
        "contradictions": list(contradictions(result)),
        "skipped": list(result.skipped),
    }


def summary_entry(results: Sequence[AuditResult]) -> dict[str, Any]:
    """Return the ``audit`` of a run's summary: the first adversary's figures, then all by name.

    ``verdict`` is the worst of all. ``attack`` is the one with the largest AUC, whose interval is
    corrected for that choice. Figures that could not be measured are None.
    """
    each = {result.adversary: _headline(result) for result in results}
    first = each[results[0].adversary]
    return {**first, "verdict": worst(v["verdict"] for v in each.values()), "by_adversary": each}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the gravest of the verdicts, "no claim" without any.

    >>> worst(["no claim", "VIOLATION", "uninformative"])
    'VIOLATION'
    """
    return min(verdicts, key=WORST_FIRST.index, default="no claim")


def _headline(result: AuditResult) -> dict[str, Any]:
    best = max(result.attacks, key=lambda attack: attack.auc, default=None)
    rate = Rate(None) if best is None else best.rates[LEVELS.index(0.01)]
    blind = result.blind
    labels = list(result.labels.values())
    claimed = [
        j.claim.epsilon
        for j in result.judgments
        if j.verdict != "no claim" and j.claim.epsilon is not None
    ]
    return {
        "adversary": result.adversary,
        "candidates": result.canaries,
        "confidence": result.confidence,
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
        "lower_bound": max((attack.one_run for attack in result.attacks), default=None),
        "ceiling": result.ceiling,
        "power": next((j.power for j in result.judgments), None),
        "claimed_epsilon": min(claimed, default=None),
        "verdict": worst(j.verdict for j in result.judgments),
        "attacks": {
            attack.name: {
                "auc": attack.auc,
                "tpr_at_1_percent_fpr": attack.rates[LEVELS.index(0.01)].value,
            }
            for attack in result.attacks
        },
    }


def amend_summary(run_dir: Path, entry: Mapping[str, Any]) -> None:
    """Write an audit's entry into a stored run's summary, atomically. Raises StorageError."""
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    with amended(run_dir):
        write_summary(run_dir, {**summary, "audit": entry})


def show(results: Sequence[AuditResult], emit: Emit | None = None) -> None:
    """Print every adversary's tables, what they say in words, and the known limits.

    ``emit`` takes each line and table in place of the standard output.
    """
    emit = _printed if emit is None else emit
    for result in results:
        _show(result, emit)
    for statement in audit_in_words(summary_entry(results)) if results else ():
        emit(statement.text)
    if any(result.attacks for result in results):
        emit(
            "* Clopper-Pearson and Gaussian bounds as if candidates were independent; no verdict"
            " rests on them."
        )
    for line in LIMITS:
        emit(line)


def _printed(what: str | Table) -> None:
    RunOutput("normal").print(what)


def _show(result: AuditResult, emit: Emit) -> None:
    if result.attacks:
        emit(_attack_table(result))
    if result.labels:
        emit(_label_line(result))
    emit(_claim_table(result))
    for line in contradictions(result):
        emit(line)
    if any(j.verdict.startswith("consistent") for j in result.judgments):
        emit(f"Power: {in_words(result.judgments[0].power)}.")
    for reason in result.skipped:
        emit(f"Not done: {reason}")


def contradictions(result: AuditResult) -> tuple[str, ...]:
    """Return what an audit found that does not go with a claim against this adversary.

    A sign that something is wrong, and no bound: verdicts do not rest on it. Under a claim no
    client's label counts can be read off its uploads to the record.
    """
    claimed = [j.claim for j in result.judgments if j.verdict != "no claim"]
    exact = [client for client, found in result.labels.items() if found.exact]
    if not claimed or not exact or len(exact) < len(result.labels):
        return ()
    return (
        f"CONTRADICTS the claim of epsilon {claimed[0].epsilon:.4g}: the label counts of all"
        f" {len(exact)} clients stand in their uploads, right to the record.",
    )


def _attack_table(result: AuditResult) -> Table:
    title = (
        f"Attacks by {result.adversary} on {result.canaries} candidates,"
        f" {result.confidence:.0%} for all bounds"
    )
    rates = [f"TPR {level:.1%}" for level in LEVELS]
    rows = [
        [
            attack.name,
            f"{attack.auc:.3f}",
            f"{attack.auc_low:.3f}-{attack.auc_high:.3f}",
            *map(_rate, attack.rates),
            f"{attack.one_run:.2f}",
            _two_decimals(attack.clopper_pearson),
            _two_decimals(attack.gaussian),
        ]
        for attack in _attacks_with_blind(result)
    ]
    return _table(title, ["attack", "AUC", "interval", *rates, "eps >=", "CP*", "GDP*"], rows)


def _label_line(result: AuditResult) -> str:
    """Return the mean errors of label inference, as a line."""
    found = result.labels.values()
    kl, variation, blind_variation = (
        sum(getattr(f, name) for f in found) / len(found)
        for name in ("kl", "total_variation", "blind_total_variation")
    )
    return (
        f"Label distributions from uploads: KL {kl:.3f}, total variation {variation:.3f}"
        f" (without uploads {blind_variation:.3f}), means over {len(found)} clients."
    )


def _claim_table(result: AuditResult) -> Table:
    names = [
        "mechanism",
        "of a",
        "claimed eps (delta)",
        "audited eps >=",
        "ceiling",
        "power",
        "verdict",
    ]
    rows = [
        [
            judgment.claim.mechanism,
            f"{judgment.claim.unit} against {judgment.claim.adversary}",
            _claimed(judgment),
            _two_decimals(judgment.lower_bound),
            _two_decimals(judgment.ceiling),
            _two_decimals(judgment.power),
            judgment.verdict,
        ]
        for judgment in result.judgments
    ]
    return _table(f"Claimed against audited by {result.adversary}", names, rows)


def attack_row(attack: AttackResult) -> dict[str, Any]:
    """Return an attack's row of ``audit.csv``; figures that could not be measured are None."""
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


def _attacks_with_blind(result: AuditResult) -> list[AttackResult]:
    return [*result.attacks, *([] if result.blind is None else [result.blind])]


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table whose cells wrap where the terminal is narrow, and are never cut."""
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for index, name in enumerate(names):
        table.add_column(
            name,
            justify="right" if index else "left",
            overflow="fold",
            min_width=UNBROKEN.get(name),
        )
    for row in rows:
        table.add_row(*row)
    return table


def _claimed(judgment: Judgment) -> str:
    delta = f" ({judgment.claim.delta:g})" if judgment.claim.delta else ""
    return f"{_two_decimals(judgment.claim.epsilon)}{delta}"


def _rate(rate: Rate) -> str:
    return "-" if rate.value is None else f"{rate.value:.3f}"


def _two_decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
