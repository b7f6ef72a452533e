"""One run, from a scenario to its folder: build, the local-only twin, the rounds, the report."""

import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message

from fedkd import __version__
from fedkd.app.client_app import make_client_app
from fedkd.app.server_app import make_server_app
from fedkd.app.strategy import FederatedDistillation
from fedkd.baseline import is_cached, local_only_twin
from fedkd.build import Experiment, build
from fedkd.errors import FedkdError
from fedkd.messages import RoundRecord
from fedkd.report.console import ConsoleReport
from fedkd.report.folder import RunFolder
from fedkd.report.rows import ACCURACIES, Baseline, client_rows, round_row
from fedkd.scenario import Scenario

OnReply = Callable[[Message], None]


def run(scenario: Scenario, run_dir: Path | None = None) -> dict[str, Any]:
    """Run a scenario to its end and return its summary; every result is in the run folder.

    ``run_dir`` is used where the scenario names none. On an interruption what is finished is on disk, and the
    summary says so. Raises SettingError before any training, RunError afterwards.
    """
    started = time.perf_counter()
    stop = threading.Event()
    experiment = build(scenario, stop)
    if scenario.report.wandb != "disabled":
        from fedkd.report.wandb_run import check_account

        check_account(scenario.report)
    folder = RunFolder(_run_dir(scenario, run_dir), repeatable(experiment.scenario).text())
    options = scenario.report
    console = ConsoleReport(quiet=not options.console)
    console.plan(experiment.plan, str(folder.path))
    wandb = None
    if options.wandb != "disabled":
        from fedkd.report.wandb_run import WandbReport

        wandb = WandbReport(options, scenario.name, experiment.scenario.plain(), folder.path)

    records: list[RoundRecord] = []
    baseline: Baseline | None = None

    def on_round(record: RoundRecord) -> None:
        records.append(record)
        row = round_row(record, baseline)
        weights = None if record.weights is None else record.weights.numpy()
        folder.add_round(row, client_rows(record, baseline), weights, experiment.plan.rounds)
        console.round(row, experiment.plan.rounds)
        if wandb is not None:
            wandb.round(row)

    status = "failed"
    try:
        if scenario.federation.baseline != "none" and experiment.plan.exchanges:
            baseline = _baseline(experiment, stop, console)
        console.start(experiment.plan.strategy, experiment.messages)
        execute(experiment, on_round, stop, lambda _: console.advance())
        status = "completed"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        console.stop()
        summary = summarize(experiment, records, baseline, status, time.perf_counter() - started)
        folder.finish(summary)
        pictures: list[Path] = []
        if status == "completed":
            pictures = _pictures(experiment, records, baseline, folder.path, options.plots)
            console.summary(experiment.plan, summary, records[-1], baseline, str(folder.path))
        if wandb is not None:
            last = client_rows(records[-1], baseline) if records else []
            wandb.finish(summary, last, pictures, status=0 if status == "completed" else 1)
    return summary


def execute(
    experiment: Experiment,
    on_round: Callable[[RoundRecord], None],
    stop: threading.Event,
    on_reply: OnReply = lambda _: None,
) -> None:
    """Run an experiment's Flower apps on its engine."""
    strategy = FederatedDistillation(experiment.server, experiment.scenario.text(), on_round)
    experiment.scenario.engine.value.run(
        make_server_app(strategy),
        make_client_app(lambda _: experiment.place),
        clients=experiment.plan.clients,
        stop=stop,
        on_reply=on_reply,
    )


def repeatable(scenario: Scenario) -> Scenario:
    """Return the scenario without its folder: what ``--config`` of its file runs again, into a new one."""
    return scenario.changed(federation=replace(scenario.federation, run_dir=None))


def summarize(
    experiment: Experiment, records: Sequence[RoundRecord], baseline: Baseline | None, status: str, seconds: float
) -> dict[str, Any]:
    """Return the final figures of a run: those of its last finished round, and totals over all rounds.

    ``knowledge_sha256`` is that of the last round in which anything was fused.
    """
    plan, scenario = experiment.plan, experiment.scenario
    rows = [round_row(record, baseline) for record in records]
    last: Mapping[str, Any] = rows[-1] if rows else {}
    figures = {
        name: last.get(name)
        for name in (
            "local_accuracy", "local_accuracy_std", "global_accuracy", "global_accuracy_std",
            "local_gain", "global_gain", "local_harmed", "global_harmed",
            "effective_neighbors", "self_weight", "label_leakage",
        )
    }  # fmt: skip
    alone: dict[str, float] | None = None
    if baseline is not None and records:
        alone = {}
        for name in ACCURACIES:
            values = getattr(baseline, name)[len(records) - 1]
            known = values[~np.isnan(values)]  # a client that has not taken part yet has no figure
            alone |= {name: float(known.mean()), f"{name}_std": float(known.std())}
    return {
        "status": status,
        "scenario": plan.name,
        "strategy": scenario.strategy.plain(),
        "seed": scenario.federation.seed,
        "clients": plan.clients,
        "rounds": len(records),
        **figures,
        "local_only": alone,
        "bytes_up": sum(row["bytes_up"] for row in rows),
        "bytes_down": sum(row["bytes_down"] for row in rows),
        "rejected": sum(len(row["rejected"]) for row in rows),
        "failed": sum(len(row["failed"]) for row in rows),
        "knowledge_sha256": next((r.knowledge_sha256 for r in reversed(records) if r.knowledge_sha256), None),
        "privacy": dict(plan.privacy),
        "seconds": seconds,
        "device": plan.device,
        "engine": scenario.engine.plain(),
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


def _run_dir(scenario: Scenario, run_dir: Path | None) -> Path:
    if scenario.federation.run_dir is not None:
        return Path(scenario.federation.run_dir).expanduser()
    if run_dir is not None:
        return run_dir
    stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{scenario.name}"
    candidate, number = Path("runs") / stem, 2
    while candidate.exists():
        candidate, number = Path("runs") / f"{stem}_{number}", number + 1
    return candidate


def _baseline(experiment: Experiment, stop: threading.Event, console: ConsoleReport) -> Baseline:
    if is_cached(experiment):
        console.say("local-only twin: cached")
    else:
        console.start("local-only twin", experiment.plan.rounds * experiment.plan.clients + experiment.plan.clients)
    try:
        return local_only_twin(
            experiment, stop, lambda twin, on_round: execute(twin, on_round, stop, lambda _: console.advance())
        )
    finally:
        console.stop()


def _pictures(
    experiment: Experiment, records: Sequence[RoundRecord], baseline: Baseline | None, folder: Path, wanted: bool
) -> list[Path]:
    if not wanted or not records:
        return []
    from fedkd.report.plots import draw_run

    try:
        return draw_run(experiment.plan, records, baseline, folder / "plots")
    except OSError as error:
        raise FedkdError(f"the plots cannot be written to {folder / 'plots'}: {error.strerror}") from error
