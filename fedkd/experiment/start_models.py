"""Begin with the models of another run (``start_from``): what is checked, and what is said of it.

A claim of privacy covers what a run computes from private data. Models that have seen that data
before are outside of it, so that no run that claims anything begins with them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from fedkd.errors import RunError, SettingError
from fedkd.federation.context import MEMORY, ClientContext
from fedkd.report.comparison.run_reader import status
from fedkd.report.run_checksums import check_run
from fedkd.scenario.scenario import Scenario
from fedkd.settings.schema import flat

SPLITTING = (
    *("seed", "clients", "samples_per_client", "test.global_size", "test.private_size"),
    *("test.validation_fraction", "public.size", "public.foreign_share", "public_data.name"),
)
"""What decides, with data and partition, which rows are for training and which for tests."""


def check_start(scenario: Scenario, context: ClientContext) -> None:
    """Raise SettingError where a run cannot begin with the models that its scenario names."""
    start = context.start
    if start is None:
        return
    where = f"start_from={start.run_dir}"
    _check_claims(scenario, context, where)
    fitted = [name for name, trait in context.traits.items() if trait.fits_itself]
    if fitted:
        raise SettingError(
            f"{where}: {', '.join(fitted)} is fitted anew to its client's rows, and has no weights"
            " to begin with; leave start_from out"
        )
    stored = _config(start.run_dir, where)
    if (ended := _status(start.run_dir)) not in ("completed", "stopped"):
        raise SettingError(f"{where}: that run is {ended}; resume it to its end first")
    if (clients := stored.get("clients")) != len(context.architectures):
        raise SettingError(
            f"{where}: that run has {clients} clients, this one {len(context.architectures)}; give"
            f" clients={clients}"
        )
    _check_split(stored, flat(scenario.to_dict()), where)
    _check_models(context, where)


def about_start(context: ClientContext) -> dict[str, Any] | None:
    """Return what the summary says of the models that a run began with; None without any."""
    if context.start is None:
        return None
    stored = _config(context.start.run_dir, "start_from")
    return {
        "run": str(context.start.run_dir),
        "states_sha256": context.start.sha256,
        "strategy": stored["strategy.name"],
        "rounds": stored["rounds"],
        "privacy": stored["privacy.name"],
        "claim": "none: what that run claimed is about its own messages, and these models had seen"
        " private data before this run's first round",
    }


def _check_claims(scenario: Scenario, context: ClientContext, where: str) -> None:
    """Raise SettingError where a claim or an audit would be about data seen before."""
    if context.enforcer.claims:
        raise SettingError(
            f"{where}: with privacy={scenario.privacy.name} a claim would not cover what these"
            " models learned before this run; leave out one of them"
        )
    audit = scenario.audit.value
    if audit.stores or audit.planting is not None:
        raise SettingError(
            f"{where}: with audit={scenario.audit.name} these models may have learned the records"
            " that it leaves out; leave out one of them"
        )
    if context.task.planted is not None:
        raise SettingError(
            f"{where}: with text_canaries={scenario.text_canaries.name} these models may know the"
            " secrets that nobody holds; leave out one of them"
        )


def _config(run_dir: Path, where: str) -> dict[str, Any]:
    """Return the settings of a run by dotted name, of which nothing is imported."""
    check_run(run_dir, "config.yaml")
    try:
        return flat(yaml.safe_load((run_dir / "config.yaml").read_bytes()))
    except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise SettingError(f"{where}: no run's folder (its config.yaml: {error})") from error


def _status(run_dir: Path) -> str:
    try:
        return status(run_dir) or "running"
    except RunError as error:
        raise SettingError(str(error)) from error


def _check_split(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Raise SettingError where models have trained on rows that this run tests on."""
    data = [key for key in {*before, *now} if key.startswith("data.")]
    if any(before.get(key) != now.get(key) for key in data):
        return  # other rows altogether
    keys = [*SPLITTING, *sorted(key for key in {*before, *now} if key.startswith("partition."))]
    different = [key for key in keys if before.get(key) != now.get(key)]
    if different:
        shown = ", ".join(
            f"{key} was {json.dumps(before.get(key))}, is {json.dumps(now.get(key))}"
            for key in different[:3]
        )
        raise SettingError(
            f"{where}: those models were trained on another split of the same data, so that this"
            f" run would test on rows that they have learned; {shown}"
        )


def _check_models(context: ClientContext, where: str) -> None:
    """Raise SettingError where a client's model there is another than here."""
    assert context.start is not None
    shapes: dict[str, dict[str, torch.Size]] = {}
    first: dict[str, tuple[int, Mapping[str, torch.Tensor]]] = {}
    for client_id, architecture in enumerate(context.architectures):
        name = architecture.name
        if name not in shapes:
            state = architecture.build(0).state_dict()
            shapes[name] = {key: tensor.shape for key, tensor in state.items()}
        stored = context.start.of(client_id)
        found = {k: t.shape for k, t in stored.items() if not k.startswith(MEMORY)}
        if found != shapes[name]:
            raise SettingError(
                f"{where}: the model of client {client_id} there is no {name} of this run (its"
                " weights have other names or shapes); give the models of that run"
            )
        before = first.setdefault(name, (client_id, stored))
        if context.needs.shared_initialization and not _same(before[1], stored, shapes[name]):
            raise SettingError(
                f"{where}: this strategy starts all clients of one architecture from the same"
                f" weights, and clients {before[0]} and {client_id} ended with others there"
            )


def _same(one: Mapping[str, Any], other: Mapping[str, Any], names: Mapping[str, object]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in names)
