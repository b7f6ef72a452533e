"""``python -m fedkd.audit RUN_DIR``: audit a stored run; status 3 where a claim is violated.

Writes ``audit.json``, ``audit.csv`` (attacks), ``audit_claims.csv`` (claimed against audited) and
``plots/audit_roc.png`` beside the run's other files; an earlier audit's are replaced.
"""

import argparse
import csv
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from fedkd.audit.figures import draw_roc
from fedkd.audit.roc import LEVELS, Rate
from fedkd.audit.study import Attack, Judgment, Study, audit_run
from fedkd.audit.verdicts import LIMITS
from fedkd.audit.views import SEEN
from fedkd.errors import FedkdError, SettingError
from fedkd.report.console import NO_TERMINAL_WIDTH
from fedkd.report.folder import jsonable

VIOLATED = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 (it failed), 2 (bad input), 3 (a claim is violated)."""
    parser = argparse.ArgumentParser(prog="python -m fedkd.audit", description="Audit a stored run's privacy.")
    parser.add_argument("run_dir", type=Path, help="the run's folder, with a stored view")
    parser.add_argument("--adversary", choices=tuple(SEEN), default="server", help="whose view is read (server)")
    parser.add_argument("--confidence", type=float, default=0.95, help="of all bounds together (0.95)")
    parser.add_argument("--seed", type=int, default=0, help="of surrogates and hold-outs (0)")
    given = parser.parse_args(arguments)
    try:
        study = audit_run(given.run_dir, given.adversary, given.confidence, given.seed)
        write(study, given.run_dir)
    except SettingError as error:
        print(f"fedkd: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except (FedkdError, OSError) as error:
        print(f"fedkd: {error}", file=sys.stderr)  # noqa: T201
        return 1
    show(study)
    return VIOLATED if any(j.verdict == "VIOLATION" for j in study.judgments) else 0


def write(study: Study, run_dir: Path) -> None:
    """Write the audit's files."""
    attacks = [attack_row(attack) for attack in _all(study)]
    claims = [claim_row(judgment) for judgment in study.judgments]
    plain: dict[str, Any] = {
        "adversary": study.adversary,
        "confidence": study.confidence,
        "canaries": study.canaries,
        "claims": claims,
        "attacks": [dataclasses.asdict(attack) for attack in _all(study)],
        "labels": {str(client): dataclasses.asdict(found) for client, found in study.labels.items()},
        "skipped": list(study.skipped),
        "limits": list(LIMITS),
    }
    (run_dir / "audit.json").write_text(json.dumps(jsonable(plain), indent=2, allow_nan=False) + "\n")
    for name, rows in (("audit.csv", attacks), ("audit_claims.csv", claims)):
        with (run_dir / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["attack"])
            writer.writeheader()
            writer.writerows(rows)
    if study.curves:
        draw_roc(study.curves, study.adversary, run_dir / "plots")


def show(study: Study) -> None:
    """Print the audit's tables, what was left out, and the known limits."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(highlight=False, soft_wrap=True, width=NO_TERMINAL_WIDTH)
    if study.attacks:
        title = f"Attacks by {study.adversary} on {study.canaries} canaries, {study.confidence:.0%} for all bounds"
        names = ["attack", "AUC", *(f"TPR at {level:.1%}" for level in LEVELS), "one-run eps >=", "CP*", "GDP*"]
        rows = [
            [
                a.name,
                f"{a.auc:.3f}",
                *map(_rate, a.rates),
                f"{a.one_run:.2f}",
                _two(a.clopper_pearson),
                _two(a.gaussian),
            ]
            for a in _all(study)
        ]
        console.print(_table(title, names, rows))
        console.print(
            "* Clopper-Pearson and Gaussian bounds as if canaries were independent; no verdict rests on them.",
            markup=False,
        )
    if study.labels:
        found = study.labels.values()
        mean = [
            sum(getattr(f, n) for f in found) / len(found) for n in ("kl", "total_variation", "blind_total_variation")
        ]
        console.print(
            f"Label distributions from uploads: KL {mean[0]:.3f}, total variation {mean[1]:.3f} (without uploads"
            f" {mean[2]:.3f}), means over {len(found)} clients."
        )
    names = ["mechanism", "unit", "against", "claimed eps", "delta", "audited eps >=", "ceiling", "verdict"]
    rows = [
        [j.claim.mechanism, j.claim.unit, j.claim.adversary, _two(j.claim.epsilon), f"{j.claim.delta or ''}",
         _two(j.lower_bound), _two(j.ceiling), j.verdict]
        for j in study.judgments
    ]  # fmt: skip
    console.print(_table("Claimed against audited", names, rows))
    for line in (*(f"Not done: {reason}" for reason in study.skipped), *LIMITS):
        console.print(line, markup=False)


def attack_row(attack: Attack) -> dict[str, Any]:
    """Return an attack's row of ``audit.csv``; what could not be measured is empty."""
    row: dict[str, Any] = {"attack": attack.name, "auc": attack.auc, "chance": attack.chance}
    for level, rate in zip(LEVELS, attack.rates, strict=True):
        row |= {f"tpr_at_{level}": rate.value, f"tpr_at_{level}_low": rate.low, f"tpr_at_{level}_high": rate.high}
    return row | {
        "one_run": attack.one_run, "clopper_pearson": attack.clopper_pearson, "gaussian": attack.gaussian,
    }  # fmt: skip


def claim_row(judgment: Judgment) -> dict[str, Any]:
    """Return a claim's row of ``audit_claims.csv``."""
    plain = dataclasses.asdict(judgment)
    claim: dict[str, Any] = plain.pop("claim")
    return claim | plain


def _all(study: Study) -> list[Attack]:
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


if __name__ == "__main__":
    sys.exit(main())
