"""Read what a report says of one run, from the files in its folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedkd.errors import Damaged, FedkdError, SettingError
from fedkd.federation.round_records import ClientRecord, RoundRecord
from fedkd.report.comparison.run_reader import READING
from fedkd.report.folder import recorded_rounds, stored_records
from fedkd.report.record_rows import ACCURACIES, GAINS, Baseline, RunPlan
from fedkd.report.run_checksums import WEIGHTS, check_run
from fedkd.report.stored_plan import read_plan
from fedkd.settings.measuring_points import MEASURING_POINTS


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A run as its files tell it."""

    folder: Path
    scenario: Mapping[str, Any]
    config: str
    """``config.yaml`` as it stands."""
    summary: Mapping[str, Any]
    plan: RunPlan
    records: Sequence[RoundRecord]
    """Of the finished rounds."""
    baseline: Baseline | None
    audit: Mapping[str, Any] | None
    """``audit.json``; None without an audit."""

    @property
    def status(self) -> str:
        """How the run ended; ``running`` until then, and for good where it was killed."""
        return str(self.summary.get("status", "running"))

    @property
    def last(self) -> RoundRecord | None:
        """The last finished round."""
        return self.records[-1] if self.records else None

    @property
    def fused(self) -> RoundRecord | None:
        """The last round in which anything was fused."""
        return next((r for r in reversed(self.records) if r.weights is not None), None)


def read_facts(folder: Path) -> RunFacts:
    """Return what a run's files tell.

    Raises:
        SettingError: The folder is no run's.
        Damaged: A file is not what a run wrote.
    """
    if not (folder / "config.yaml").is_file():
        raise SettingError(f"{folder}: no run's folder (it has no config.yaml)")
    check_run(folder, "config.yaml", "summary.json", "rounds.jsonl", "clients.csv", WEIGHTS)
    try:
        config = (folder / "config.yaml").read_text(encoding="utf-8")
        scenario = yaml.safe_load(config)
        summary = _json(folder / "summary.json")
        summary = {"status": "running"} if summary is None else _mapping(summary)
        records = _records(folder, going_on=summary.get("status") == "running")
        last = records[-1] if records else None
        return RunFacts(
            folder=folder,
            scenario=_mapping(scenario),
            config=config,
            summary=summary,
            plan=read_plan(folder, scenario, summary, last),
            records=records,
            baseline=stored_baseline(records),
            audit=_json(folder / "audit.json"),
        )
    except FedkdError:
        raise
    except (*READING, yaml.YAMLError) as error:
        raise not_of_a_run(folder, error) from error


def not_of_a_run(folder: Path, error: Exception) -> Damaged:
    """Return the error for a folder whose files cannot be read as those of a run."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return Damaged(f"{folder}: its files are not those that a run writes ({said})")


def stored_baseline(records: Sequence[RoundRecord]) -> Baseline | None:
    """Return the local-only baseline, by the gains over it; None where there are none."""
    found = {
        name: np.array(
            [[_alone(client, name) for client in record.clients] for record in records],
            dtype=np.float64,
        )
        for name in ACCURACIES
    }
    if all(np.isnan(values).all() for values in found.values()):
        return None
    return Baseline(**found)


def _alone(client: ClientRecord, name: str) -> float:
    """Return a client's accuracy alone, from the first point at which its gain is known."""
    for point in MEASURING_POINTS:
        figures = client.after(point)
        accuracy, gain = getattr(figures, name), getattr(figures, GAINS[name])
        if accuracy is not None and gain is not None:
            return float(accuracy - gain)
    return float("nan")


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected names with values, got a {type(value).__name__}")
    return value


def _records(folder: Path, *, going_on: bool) -> list[RoundRecord]:
    """Return the records of the finished rounds; a run that goes on may be writing its last one."""
    rounds = recorded_rounds(folder)
    if not rounds:
        return []
    try:
        return stored_records(folder, rounds)
    except KeyError:
        if not going_on:
            raise
        return stored_records(folder, rounds - 1) if rounds > 1 else []


def _json(path: Path) -> Any:
    """Return what a file holds; None where there is none."""
    return json.loads(path.read_bytes()) if path.is_file() else None
