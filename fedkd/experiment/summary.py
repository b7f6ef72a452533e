"""Sum up a run: its final figures, its privacy claim, and the versions it depends on."""

import platform
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from fedkd import __version__
from fedkd.errors import RunError, unknown_name
from fedkd.experiment.build import Experiment
from fedkd.experiment.start_models import about_start
from fedkd.federation.round_records import MEASURES, RoundRecord
from fedkd.models.libraries import library_versions, model_contents
from fedkd.privacy.statements import after_run
from fedkd.report.record_rows import (
    FINAL,
    OF_METRICS,
    PREFIXES,
    Baseline,
    local_only_figures,
    round_row,
)
from fedkd.runtime.resources import Resources
from fedkd.scenario.registry import GROUPS
from fedkd.scenario.repeatability import only_here
from fedkd.settings.import_paths import code_hash, is_import_path, path_of
from fedkd.settings.measuring_points import column
from fedkd.training.precision import describe_precision

CODE = "code of "
"""How the hash of a user's module is named in a checkpoint: ``code of my_rule:Agree``."""


FILES = "files of "
"""How the hash of a model's files is named in a checkpoint: ``files of hf:FOLDER``."""
START = "models of start_from"
"""How the hash of the models that a run began with is named in a checkpoint."""
TOTALS = ("bytes_up", "bytes_down", "entropy_bytes_up", "entropy_bytes_down", "seconds")
"""Figures of the whole run."""
NAMED_BY_OTHERS = tuple(prefix.rstrip("/") for prefix in PREFIXES.values())
OBJECTIVES = tuple(dict.fromkeys([*(m.figure for m in MEASURES if m.in_summary), *FINAL, *TOTALS]))
"""What a sweeper may choose runs by, besides figures that others name."""


def summarize(
    experiment: Experiment,
    records: Sequence[RoundRecord],
    baseline: Baseline | None,
    status: str,
    resources: Resources,
) -> dict[str, Any]:
    """Return the figures of the last finished round, and totals over all rounds.

    Args:
        experiment: What was run.
        records: The finished rounds.
        baseline: The local-only baseline; None without one.
        status: How the run ended.
        resources: How long it took, and what memory.

    ``knowledge_sha256`` is that of the last round in which anything was fused.
    """
    plan, scenario, seconds = experiment.plan, experiment.scenario, resources.seconds()
    rows = [round_row(record, baseline) for record in records]
    last: Mapping[str, Any] = rows[-1] if rows else {}
    figures = {n: last.get(n) for n in FINAL if n in last or n not in OF_METRICS}
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
        **{name: sum(row[name] for row in rows) for name in TOTALS if name != "seconds"},
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
        **{
            name: value for name, value in last.items() if name.startswith(tuple(PREFIXES.values()))
        },
        **_what_was_run(experiment),
        "seconds": seconds,
        "resources": {**resources.peak_memory(), "samples_per_second": _rate(experiment, records)},
        "device": plan.device,
        "precision": _precision(experiment),
        "engine": scenario.engine.to_dict(),
        "start_from": about_start(experiment.context),
        "only_in_session": list(only_here(scenario)),
        "versions": {**versions(), **_libraries(experiment)},
    }


def _precision(experiment: Experiment) -> str:
    """Return what models computed in, on the device that worked."""
    if experiment.facts is not None:
        return experiment.facts.precision
    return describe_precision(experiment.context.precision, experiment.context.device)


def _what_was_run(experiment: Experiment) -> dict[str, Any]:
    """Return the data, how it was dealt to whom, and the clients' models."""
    scenario, context = experiment.scenario, experiment.context
    return {
        "data": scenario.data.to_dict(),
        "partition": scenario.partition.to_dict(),
        "models": dict(Counter(experiment.plan.architectures)),
        "split_sha256": context.division.sha256(context.prepared.key),
    }


def _rate(experiment: Experiment, records: Sequence[RoundRecord]) -> float | None:
    """Return the private samples that clients trained on in a second of rounds, epochs counted."""
    seconds = sum(record.seconds for record in records)
    train = experiment.scenario.train
    trained = sum(
        client.train_size * train.epochs
        if train.steps is None
        else train.steps * min(train.batch_size, client.train_size)
        for record in records
        for client in record.clients
        if client.status in ("ok", "rejected")
    )
    return trained / seconds if seconds else None


def check_objective(name: str) -> None:
    """Raise SettingError for an objective that no summary has."""
    if name.partition("/")[0] not in NAMED_BY_OTHERS and name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)


def objective_of(summary: Mapping[str, Any], name: str) -> float:
    """Return a figure of a summary, one without a point at that which is reported first.

    >>> summary = {"after": "training", "global_accuracy_after_training": 0.5}
    >>> objective_of(summary, "global_accuracy")
    0.5

    Raises RunError where the run does not know it.
    """
    value = summary.get(name, summary.get(column(name, summary["after"])))
    if not isinstance(value, int | float):
        raise RunError(f"objective={name}: this run has no such figure")
    return float(value)


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = ("torch", "numpy", "flwr", "flwr-datasets")
    return {
        "fedkd": __version__,
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        **{package: _installed(package) for package in packages},
    }


@cache
def _installed(package: str) -> str:
    """Return a package's version, of which the file is read once."""
    return version(package)


def conditions_of(experiment: Experiment) -> dict[str, str]:
    """Return the versions, the device, and the users' modules and models that figures depend on.

    Modules stand by the hash of their code, models of files by that of these.
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
    files = {f"{FILES}{name}": key for name, key in model_contents(context.architectures).items()}
    made_of = experiment.scenario.heads.value.content_key()
    files |= {} if made_of is None else {f"{FILES}heads": made_of}
    device = {"device": experiment.plan.device}
    return {**versions(), **_libraries(experiment), **device, **code, **files, **start}


def _libraries(experiment: Experiment) -> dict[str, str]:
    """Return the versions of the libraries that models and adapters are from."""
    return library_versions(experiment.context.traits, experiment.scenario.adapters.value.packages)
