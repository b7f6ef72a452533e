"""``fedkd audit RUN_DIR``: audit a stored run; status 3 where a claim is violated.

Writes ``audit.json``, ``audit.csv`` (attacks), ``audit_claims.csv`` (claimed against audited), a
picture for each adversary in ``plots/`` and the ``audit`` of ``summary.json``; an earlier audit's
are replaced. Without options it does what the run's own audit did, and finds the same. A folder
whose scenario imports what is not fedkd's is read only with ``trust=true``.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from fedkd.audit.audit_run import plan_audit
from fedkd.audit.report import amend_summary, show, summary_entry, write
from fedkd.cli.arguments import read_scenario, trusts
from fedkd.cli.sweeps import SWEEP_FILE
from fedkd.errors import FedkdError, SettingError
from fedkd.experiment.audit_power import run_without_noise
from fedkd.experiment.auditing import attack, auditor_models, stored_scenario
from fedkd.report.run_checksums import AUDITED, check_run
from fedkd.runtime.standard_streams import flush_output, notice
from fedkd.scenario.trust import check_trust
from fedkd.storage.transcript import ADVERSARIES, read_transcript

VIOLATED = 3


def check_folder(run_dir: Path, *, trust: bool) -> None:
    """Raise SettingError for a run that would import what is not fedkd's, unless one trusts it.

    Raises Damaged where a file is not what the run wrote.
    """
    if not run_dir.is_dir():
        raise SettingError(f"{run_dir}: no such folder; give that of a run")
    if (run_dir / SWEEP_FILE).is_file():
        raise SettingError(f"{run_dir} is a sweep's folder; audit its runs one by one")
    check_run(run_dir, "config.yaml", "summary.json", *AUDITED)
    config = run_dir / "config.yaml"
    if config.is_file():
        check_trust(read_scenario(config), str(run_dir), trust=trust)
    for adversary in ("server", "lab"):
        codecs = None
        with contextlib.suppress(SettingError):  # nothing is stored; whoever reads it says so
            codecs = read_transcript(run_dir, adversary).about.get("codecs")
        check_trust({"codec": codecs}, str(run_dir), trust=trust)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0, 1 (it failed), 2 (bad input), 3 (a claim is violated).
    """
    parser = argparse.ArgumentParser(
        prog="fedkd audit", description="Audit a stored run's privacy."
    )
    parser.add_argument("run_dir", type=Path, help="the run's folder, with a stored view")
    parser.epilog = "trust=true: the run may import what is not fedkd's, which runs its code"
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
    parser.add_argument(
        "--power",
        action="store_true",
        help="run once more without noise, and say which claims these attacks would have refuted"
        " then (once run so, every later audit says it)",
    )
    try:
        rest, trust = trusts(sys.argv[1:] if arguments is None else arguments)
        given = parser.parse_args(rest)
        check_folder(given.run_dir, trust=trust)
        plan = plan_audit(
            given.run_dir, given.adversary, given.confidence, given.seed, given.shadows
        )
        models, scenario = (
            auditor_models(given.run_dir, plan.shadows, plan.seed),
            stored_scenario(given.run_dir),
        )
        if given.power:
            if scenario is None:
                raise SettingError(f"--power: {given.run_dir} has no config.yaml to run again")
            run_without_noise(scenario, given.run_dir)
        results = attack(scenario, given.run_dir, plan, models)
        write(results, given.run_dir)
        amend_summary(given.run_dir, summary_entry(results))
    except SettingError as error:
        notice(str(error))
        return 2
    except (FedkdError, OSError) as error:
        notice(str(error))
        return 1
    show(results)
    flush_output()
    return VIOLATED if summary_entry(results)["verdict"] == "VIOLATION" else 0
