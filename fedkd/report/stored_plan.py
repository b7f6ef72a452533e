"""The plan of a run in its folder, ``plan.json``: what a report needs and no other file has.

The scenario is left out: ``config.yaml`` has it. Reading it runs nothing that a folder names.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedkd.errors import Damaged
from fedkd.federation.round_records import RoundRecord
from fedkd.report.folder import jsonable
from fedkd.report.record_rows import RunPlan
from fedkd.report.run_checksums import PLAN, check_run
from fedkd.settings.measuring_points import MEASURING_POINTS
from fedkd.storage.atomic_files import write_whole

ELSEWHERE = ("scenario",)
"""Fields of a plan that another file has."""


def write_plan(plan: RunPlan, folder: Path) -> None:
    """Write a run's plan, complete or not at all. Raises StorageError."""
    values = {
        f.name: getattr(plan, f.name) for f in dataclasses.fields(plan) if f.name not in ELSEWHERE
    }
    values["label_counts"] = plan.label_counts.tolist()
    write_whole(folder / PLAN, [json.dumps(jsonable(values), allow_nan=False).encode() + b"\n"])


def read_plan(
    folder: Path,
    scenario: Mapping[str, Any],
    summary: Mapping[str, Any],
    last: RoundRecord | None,
) -> RunPlan:
    """Return a run's plan, or what is known of that of a run from before plans were stored.

    Args:
        folder: The run's folder.
        scenario: Its settings.
        summary: Its summary.
        last: Its last finished round; None without one.

    Raises:
        Damaged: The file is not one that a run wrote.
    """
    check_run(folder, PLAN)
    path = folder / PLAN
    try:
        if not path.exists():
            return _plan_of_before(scenario, summary, last)
        stored = json.loads(path.read_bytes())
        names = [f.name for f in dataclasses.fields(RunPlan) if f.name in stored]
        plan = RunPlan(**{n: _frozen(stored[n]) for n in names}, scenario=scenario)
        counts = np.array(stored["label_counts"], dtype=np.int64)
        counts = counts.reshape(plan.clients, len(plan.class_names))
        return dataclasses.replace(_checked(plan), label_counts=counts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{path} is not the plan of a run: {error}") from error


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _checked(plan: RunPlan) -> RunPlan:
    """Return a plan whose parts have the types that pictures and words take for granted."""
    texts = (plan.name, plan.strategy, *plan.class_names, *plan.architectures, *plan.warnings)
    if not all(isinstance(text, str) for text in (*texts, plan.public_set, plan.engine)):
        raise ValueError("a name in it is no text")
    if not {plan.after, *plan.measured} <= set(MEASURING_POINTS):
        raise ValueError(f"it measured after {plan.measured}")
    if not isinstance(plan.privacy, Mapping) or not isinstance(plan.parameters, Mapping):
        raise ValueError("privacy or parameters are no mapping")
    counts = (plan.rounds, *plan.train_sizes, *plan.attackers)
    if not all(isinstance(count, int) for count in counts):
        raise ValueError("a count in it is no whole number")
    return plan


def _plan_of_before(
    scenario: Mapping[str, Any], summary: Mapping[str, Any], last: RoundRecord | None
) -> RunPlan:
    """Return the plan of a run without one: classes, public set and sizes are not known."""
    clients = () if last is None else last.clients
    after = summary.get("after", "training")
    name = str(scenario.get("name", ""))
    return RunPlan(
        name=name,
        title=name,
        scenario=scenario,
        strategy=str(scenario["strategy"]["name"]).rpartition(":")[2],
        rounds=int(scenario["rounds"]),
        architectures=tuple(client.architecture for client in clients),
        parameters={},
        train_sizes=tuple(client.train_size for client in clients),
        label_counts=np.zeros((len(clients), 0), dtype=np.int64),
        class_names=(),
        public_set="",
        examples="samples",
        dealt="samples",
        device=str(summary.get("device", "")),
        engine=str((summary.get("engine") or {}).get("name", "")),
        loss="",
        exchanges=bool(summary.get("bytes_up")),
        privacy=summary.get("privacy") or {},
        attackers=tuple(summary.get("attackers", ())),
        is_reference=bool(summary.get("is_reference")),
        measured=tuple(summary.get("measured_after", (after,))),
        after=after,
        sends_metrics=summary.get("client_metrics") != "kept by the clients",
    )
