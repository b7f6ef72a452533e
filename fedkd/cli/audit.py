"""``python -m fedkd.audit RUN_DIR``: audit a stored run; status 3 where a claim is violated.

Writes ``audit.json``, ``audit.csv`` (attacks), ``audit_claims.csv`` (claimed against audited), a
picture for each adversary in ``plots/`` and the ``audit`` of ``summary.json``; an earlier audit's
are replaced. Without options it does what the run's own audit did, and finds the same.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedkd.audit.audit_run import audit_run, plan_audit
from fedkd.audit.report import amend_summary, show, summary_entry, write
from fedkd.errors import FedkdError, SettingError
from fedkd.experiment.auditing import auditor_models
from fedkd.storage.transcript import ADVERSARIES

VIOLATED = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0, 1 (it failed), 2 (bad input), 3 (a claim is violated).
    """
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.audit", description="Audit a stored run's privacy."
    )
    parser.add_argument("run_dir", type=Path, help="the run's folder, with a stored view")
    parser.add_argument(
        "--adversary",
        choices=tuple(ADVERSARIES),
        action="append",
        help="whose view is read, once or more (the run's own)",
    )
    parser.add_argument(
        "--confidence", type=float, help="of all bounds by one adversary together (the run's own)"
    )
    parser.add_argument("--seed", type=int, help="of surrogates and hold-outs (the run's own)")
    parser.add_argument(
        "--shadows", type=int, help="shadow models of every client for LiRA (the run's own number)"
    )
    given = parser.parse_args(arguments)
    try:
        plan = plan_audit(
            given.run_dir, given.adversary, given.confidence, given.seed, given.shadows
        )
        models = auditor_models(given.run_dir, plan.shadows, plan.seed)
        results = [
            audit_run(given.run_dir, adversary, plan.confidence, plan.seed, models)
            for adversary in plan.adversaries
        ]
        write(results, given.run_dir)
        amend_summary(given.run_dir, summary_entry(results))
    except SettingError as error:
        print(f"fedkd: {error}", file=sys.stderr)
        return 2
    except (FedkdError, OSError) as error:
        print(f"fedkd: {error}", file=sys.stderr)
        return 1
    show(results)
    return VIOLATED if summary_entry(results)["verdict"] == "VIOLATION" else 0
