"""From a scenario to the objects of a run, with every check that does not need training.

What cannot work is refused here, before any training; what is merely doubtful becomes a warning of the plan.
"""

import threading
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from fedkd.client import Workplace
from fedkd.data.division import divide
from fedkd.data.prepare import prepare
from fedkd.data.samples import labels, public_normalization
from fedkd.errors import SettingError
from fedkd.knowledge import KINDS
from fedkd.losses import LossName
from fedkd.models.build import Architecture, assign, find_factory, try_out
from fedkd.privacy import Protection
from fedkd.report.rows import Plan
from fedkd.scenario import Scenario
from fedkd.server import Server, one_shot_check
from fedkd.state import MemoryStore
from fedkd.strategy import Declaration, chosen_loss, declaration


@dataclass(frozen=True)
class Experiment:
    """What a run consists of: the scenario with nothing left to choose, the workplace, the server, the plan."""

    scenario: Scenario
    place: Workplace
    server: Server
    plan: Plan

    @property
    def messages(self) -> int:
        """How many client messages the run will take if no client fails."""
        phases = 2 if self.plan.exchanges and self.scenario.protocol.order == "train_first" else 1
        taking_part = max(1, round(self.scenario.protocol.participation * self.plan.clients))
        return self.plan.rounds * phases * taking_part + self.plan.clients


def build(scenario: Scenario, stop: threading.Event) -> Experiment:
    """Return the experiment. ``stop`` ends its training between two batches. Raises SettingError."""
    name = scenario.strategy.name
    declared = declaration(scenario.strategy.value, name)
    _check_needs(scenario, declared)
    loss = chosen_loss(declared, name, scenario.distill.loss)
    device = choose_device(scenario.federation.device)
    chosen = tuple(model.partition("*")[0].strip() for model in scenario.federation.models)
    for model in chosen:
        find_factory(model)
    assigned = assign(scenario.federation.models, scenario.federation.clients)

    prepared = prepare(scenario.data.value)
    architectures = {m: Architecture(m, prepared.input_shape, prepared.classes) for m in dict.fromkeys(assigned)}
    traits = {model: try_out(architecture) for model, architecture in architectures.items()}
    division = divide(
        prepared,
        partition=scenario.partition.value,
        clients=scenario.federation.clients,
        samples_per_client=scenario.federation.samples_per_client,
        public=scenario.public,
        testing=scenario.test,
        seed=scenario.federation.seed,
    )
    exchanges = declared.knowledge != "nothing"
    kind = KINDS[declared.knowledge] if exchanges else None
    place = Workplace(
        prepared=prepared,
        division=division,
        normalization=public_normalization(prepared, division.public),
        architectures=tuple(architectures[model] for model in assigned),
        traits=traits,
        training=scenario.train,
        distillation=scenario.distill,
        loss=loss,
        kind=kind,
        discloses_label_counts=declared.needs.label_counts,
        protection=scenario.privacy.value,
        store=MemoryStore(),
        seed=scenario.federation.seed,
        device=device,
        stopped=stop.is_set,
    )
    server = Server(
        strategy=scenario.strategy.value,
        declared=declared,
        kind=kind,
        protocol=scenario.protocol,
        clients=scenario.federation.clients,
        classes=prepared.classes,
        public_size=scenario.public.size,
        public_per_round=scenario.public.per_round,
        public_labels=labels(prepared, division.public, torch.device("cpu")) if scenario.public.labeled else None,
        pretrains=scenario.train.public_epochs > 0,
        temperature=scenario.distill.temperature,
        seed=scenario.federation.seed,
    )
    resolved = scenario.changed(distill=replace(scenario.distill, loss=cast(LossName, loss))) if exchanges else scenario
    threads = scenario.engine.value.threads
    counts = [place.label_counts(i) for i in range(scenario.federation.clients)]
    plan = Plan(
        name=scenario.name,
        scenario=resolved.plain(),
        strategy=name.rpartition(":")[2],
        rounds=scenario.protocol.rounds,
        architectures=assigned,
        parameters={model: trait.parameters for model, trait in traits.items()},
        train_sizes=tuple(len(rows) for rows in division.train),
        label_counts=np.array(counts),
        class_names=prepared.class_names,
        public_size=len(division.public),
        device=describe_device(device),
        engine=f"{scenario.engine.name} engine, {threads} worker{'s' if threads > 1 else ''}",
        loss=loss,
        exchanges=exchanges,
        privacy=_privacy(scenario.privacy.value, exchanges),
        warnings=_warnings(scenario, [len(rows) for rows in division.train], traits),
    )
    return Experiment(resolved, place, server, plan)


def choose_device(setting: str) -> torch.device:
    """Return the device to compute on; SettingError where CUDA is asked for and there is none."""
    if setting == "cuda" and not torch.cuda.is_available():
        raise SettingError("device=cuda, but PyTorch finds no CUDA device here; use device=cpu or device=auto")
    return torch.device("cuda" if setting == "cuda" or (setting == "auto" and torch.cuda.is_available()) else "cpu")


def describe_device(device: torch.device) -> str:
    """Return the device in words, a GPU by its name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _check_needs(scenario: Scenario, declared: Declaration) -> None:
    name, needs, public = scenario.strategy.name, declared.needs, scenario.public
    one_shot_check(scenario.protocol, declared)
    if needs.public_set and public.size == 0:
        raise SettingError(f"strategy={name} needs a public set; give public.size=N with N >= 1")
    if needs.public_labels and not public.labeled:
        raise SettingError(f"strategy={name} needs the labels of the public set; say public.labeled=true")
    if scenario.train.public_epochs and not public.labeled:
        raise SettingError("train.public_epochs needs the labels of the public set; say public.labeled=true")
    if scenario.train.public_epochs and public.size == 0:
        raise SettingError("train.public_epochs needs a public set; give public.size=N with N >= 1")
    if public.labeled and not needs.public_labels and not scenario.train.public_epochs:
        raise SettingError(
            f"public.labeled=true would do nothing: strategy={name} does not use labels, and train.public_epochs=0"
        )


def _privacy(protection: Protection, exchanges: bool) -> dict[str, Any]:
    reason = protection.event.reason if exchanges else "nothing leaves a client"
    return {"mechanism": protection.event.mechanism, "epsilon": None, "reason": reason}


def _warnings(scenario: Scenario, sizes: list[int], traits: Any) -> tuple[str, ...]:
    found = []
    asked = scenario.federation.samples_per_client
    short = [i for i, size in enumerate(sizes) if asked is not None and size < asked]
    if short:
        found.append(
            f"samples_per_client={asked}, but the partition deals fewer to {len(short)} of {len(sizes)} clients"
            f" (client {short[0]} has {sizes[short[0]]})"
        )
    random_models = [model for model, trait in traits.items() if trait.draws_randomness]
    if random_models and scenario.engine.value.threads > 1:
        found.append(
            f"{', '.join(random_models)} draws from torch's global generator in training (dropout?); such clients"
            " train one at a time, so that the run repeats"
        )
    return tuple(found)
