"""Sum up a run: its final figures, its privacy claim, and the versions it depends on."""

import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from fedkd import __version__
from fedkd.experiment.build import Experiment
from fedkd.experiment.start_models import about_start
from fedkd.federation.round_records import RoundRecord
from fedkd.privacy.statements import after_run
from fedkd.report.record_rows import FINAL, Baseline, local_only_figures, round_row
from fedkd.scenario.registry import GROUPS
from fedkd.scenario.repeatability import only_here
from fedkd.settings.import_paths import code_hash, is_import_path, path_of

CODE = "code of "
"""How the hash of a user's module is named in a checkpoint: ``code of my_rule:Agree``."""


START = "models of start_from"
"""How the hash of the models that a run began with is named in a checkpoint."""


def summarize(
    experiment: Experiment,
    records: Sequence[RoundRecord],
    baseline: Baseline | None,
    status: str,
    seconds: float,
) -> dict[str, Any]:
    """Return the figures of the last finished round, and totals over all rounds.

    Args:
        experiment: What was run.
        records: The finished rounds.
        baseline: The local-only baseline; None without one.
        status: How the run ended.
        seconds: How long it took.

    ``knowledge_sha256`` is that of the last round in which anything was fused.
    """
    plan, scenario = experiment.plan, experiment.scenario
    rows = [round_row(record, baseline) for record in records]
    last: Mapping[str, Any] = rows[-1] if rows else {}
    figures = {name: last.get(name) for name in FINAL}
    alone = local_only_figures(records[-1], baseline) if records else {}
    return {
        "status": status,
        "scenario": plan.name,
        "strategy": scenario.strategy.to_dict(),
        "seed": scenario.federation.seed,
        "clients": plan.clients,
        "rounds": len(records),
        "is_reference": plan.is_reference,
        "after": plan.after,
        "measured_after": list(plan.measured),
        **figures,
        "baseline": scenario.federation.baseline if alone else None,
        "local_only": alone or None,
        "bytes_up": sum(row["bytes_up"] for row in rows),
        "bytes_down": sum(row["bytes_down"] for row in rows),
        "entropy_bytes_up": sum(row["entropy_bytes_up"] for row in rows),
        "entropy_bytes_down": sum(row["entropy_bytes_down"] for row in rows),
        "attackers": [client.client_id for client in records[-1].clients if client.attacker]
        if records
        else [],
        "rejected": sum(len(row["rejected"]) for row in rows),
        "failed": sum(len(row["failed"]) for row in rows),
        "knowledge_sha256": next(
            (r.knowledge_sha256 for r in reversed(records) if r.knowledge_sha256), None
        ),
        "client_metrics": "sent" if experiment.context.sends_metrics else "kept by the clients",
        "privacy": after_run(
            experiment.context.enforcer,
            experiment.server.accounting.claims(),
            sends_metrics=experiment.context.sends_metrics,
        ),
        **experiment.context.task.summary(last, plan.after),
        "seconds": seconds,
        "device": plan.device,
        "engine": scenario.engine.to_dict(),
        "start_from": about_start(experiment.context),
        "only_in_session": list(only_here(scenario)),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = ("torch", "numpy", "flwr", "flwr-datasets")
    return {
        "fedkd": __version__,
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        **{package: version(package) for package in packages},
    }


def conditions_of(experiment: Experiment) -> dict[str, str]:
    """Return the versions, the device and the users' modules that figures depend on.

    Modules stand by the hash of their code.
    """
    context, choices = experiment.context, [getattr(experiment.scenario, group) for group in GROUPS]
    own: dict[str, Any] = {
        choice.name: type(choice.value) for choice in choices if is_import_path(choice.name)
    }
    own |= {
        name: context.task.factory(name) for name in context.traits if is_import_path(path_of(name))
    }
    task = type(context.task)
    if not task.__module__.startswith("fedkd."):
        own[f"{task.__module__}:{task.__qualname__}"] = task
    code = {f"{CODE}{name}": code_hash(thing) for name, thing in own.items()}
    start = {} if context.start is None else {START: context.start.sha256}
    return {**versions(), "device": experiment.plan.device, **code, **start}
