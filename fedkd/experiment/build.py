"""From a scenario to the objects of a run, with every check that does not need training.

What cannot work is refused here, before any training; what is merely doubtful becomes a warning of
the plan.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from fedkd.audit.audit_settings import Audit
from fedkd.audit.record_canaries import Candidates
from fedkd.audit.secret_exposure import Exposures
from fedkd.codecs import codecs_of
from fedkd.data.division import Division, divide
from fedkd.data.prepare import Labeled, Prepared, holds_texts, prepare
from fedkd.data.public import describe, make_public_set
from fedkd.data.samples import statistics
from fedkd.data.texts import PreparedTexts
from fedkd.errors import SettingError, unknown_name
from fedkd.federation.aggregation import Aggregator
from fedkd.federation.batched_clients import is_faster, reason_unbatched
from fedkd.federation.context import OPTIMIZER, ClientContext
from fedkd.federation.participation import Participation
from fedkd.federation.protocol import resolve_round_order
from fedkd.federation.public_sampling import PublicSampler
from fedkd.federation.server import Observer, Server
from fedkd.federation.server_models import WorkplaceModels
from fedkd.flower.job import Engine
from fedkd.knowledge import Request
from fedkd.models.factory import ModelSpec, assign, find_factory
from fedkd.models.heads import phase_parameters
from fedkd.privacy import statements
from fedkd.privacy.enforcement import PrivacyEnforcer
from fedkd.privacy.release_plan import ReleasePlan
from fedkd.privacy.unprotected import NothingLeaves, Unlimited
from fedkd.report.record_rows import RunPlan
from fedkd.robustness.threat_model import ThreatModel, threat_model
from fedkd.runtime.devices import choose_device, describe_device, deterministic
from fedkd.scenario.compatibility import (
    check_codecs,
    check_components,
    check_data,
    check_distillation,
    check_models,
    check_needs,
    check_per_round,
    check_privacy,
    run_conditions,
)
from fedkd.scenario.scenario import Scenario
from fedkd.storage.checkpoint import CheckpointFolder
from fedkd.storage.client_states import BackedStore, ClientStore, DiskStore, Layout, MemoryStore
from fedkd.strategy import Declaration, MeanBased, Needs, chosen_loss, declaration
from fedkd.tasks.images import ImageTask
from fedkd.tasks.task import Task
from fedkd.tasks.text.language_models import find_language_factory
from fedkd.tasks.text.text_task import TextTask, make_text_task
from fedkd.training.hyperparameters import Phase
from fedkd.training.losses import LossName
from fedkd.training.optimizers import Optimizer


@dataclass(frozen=True)
class Experiment:
    """What a run consists of: the scenario with nothing left to choose, the workplace, the server,
    the plan.

    ``states`` is the folder of client states for whoever keeps them in files; ``checkpoints`` None
    keeps none.
    """

    scenario: Scenario
    context: ClientContext
    server: Server
    plan: RunPlan
    states: Path
    checkpoints: CheckpointFolder | None
    candidates: Candidates | None = None
    """What an audit tossed for before training: the auditor's alone."""
    exposures: Exposures | None = None
    """Who measures how far secrets come out, where there are any."""
    _temporary: Any = None

    def messages(self, done: int = 0) -> int:
        """Return how many client messages the run will take after ``done`` rounds if no client
        fails.
        """
        phases = 2 if self.plan.exchanges and self.server.round_order == "train_first" else 1
        asked = max(1, round(self.scenario.protocol.participation * self.plan.clients))
        taking_part = round(asked * (1 - self.scenario.protocol.dropout))
        return (self.plan.rounds - done) * phases * taking_part + self.plan.clients


StoreMaker = Callable[[Mapping[str, Layout], Sequence[str]], ClientStore]
"""From the layouts of states by architecture, and each client's architecture, to a store."""


def make_context(
    scenario: Scenario,
    store: ClientStore | StoreMaker,
    stop: threading.Event,
    *,
    device: torch.device | None = None,
    public_inputs: torch.Tensor | None = None,
) -> ClientContext:
    """Return what the scenario's clients share on this machine. ``stop`` ends their training
    between two batches.

    ``public_inputs`` are those of the public set, where they have been made before. What an audit
    plants is planted here, from the scenario alone, so that every process plants the same. Raises
    SettingError.
    """
    device = device or choose_device(scenario.federation.device)
    declared = declaration(scenario.strategy.value, scenario.strategy.name)
    find = find_language_factory if holds_texts(scenario.data.value) else find_factory
    for model in scenario.federation.models:
        find(model.partition("*")[0].strip())
    assigned = assign(scenario.federation.models, scenario.federation.clients)
    prepared = prepare(scenario.data.value)
    division = _divide(scenario, prepared)
    trained_on: Labeled = prepared
    planted = division
    task: Task
    if isinstance(prepared, PreparedTexts):
        task = _text_task(scenario, prepared, division, assigned[0], device)
    else:
        images, planted, _ = scenario.audit.value.planted(
            prepared, division, scenario.federation.seed
        )
        trained_on, task = (
            images,
            _image_task(scenario, prepared, images, division, device, public_inputs),
        )
    sizes = tuple(
        task.training_size(rows, (client_id,)) for client_id, rows in enumerate(division.train)
    )
    architectures = {model: task.architecture(model) for model in dict.fromkeys(assigned)}
    features = declared.needs.features is not None
    traits = {
        model: task.probe(architecture, features=features)
        for model, architecture in architectures.items()
    }
    optimizer_states = {
        model: _kept(architecture, scenario) for model, architecture in architectures.items()
    }
    if not isinstance(store, ClientStore):
        states = {
            model: {**architectures[model].build(0).state_dict(), **optimizer_states[model]}
            for model in architectures
        }
        store = store({model: Layout.of(state) for model, state in states.items()}, assigned)
    return ClientContext(
        prepared=trained_on,
        division=planted,
        public_sizes=sizes,
        task=task,
        architectures=tuple(architectures[model] for model in assigned),
        traits=traits,
        training=scenario.train,
        distillation=scenario.distill,
        loss=chosen_loss(declared, scenario.strategy.name, scenario.distill.loss),
        kind=declared.kind,
        needs=declared.needs,
        enforcer=_guard(scenario, declared, task, sizes),
        codecs=codecs_of(scenario.codec.value, declared.codec)
        if declared.kind is not None
        else None,
        store=store,
        seed=scenario.federation.seed,
        device=device,
        deadline=scenario.protocol.deadline,
        optimizer_states=optimizer_states,
        batch_clients=_named(scenario),
        stopped=stop.is_set,
        last_round=scenario.protocol.rounds,
    )


def _image_task(
    scenario: Scenario,
    prepared: Prepared,
    trained_on: Prepared,
    division: Division,
    device: torch.device,
    public_inputs: torch.Tensor | None,
) -> ImageTask:
    """Return the task of images; what an audit planted is in ``trained_on`` and not in what is
    public.
    """
    normalization = statistics(prepared.images[division.held_back])
    return ImageTask(
        prepared=trained_on,
        public=make_public_set(
            scenario.public,
            scenario.public_data.value,
            prepared,
            division.held_back,
            normalization,
            scenario.federation.seed,
        ),
        normalization=normalization,
        heads=scenario.heads.value,
        device=device,
        placed_public_inputs=public_inputs,
    )


def _text_task(
    scenario: Scenario,
    prepared: PreparedTexts,
    division: Division,
    first_model: str,
    device: torch.device,
) -> TextTask:
    train = scenario.train
    shared = {f.name: getattr(train, f.name) for f in fields(Phase)}
    as_long = Phase(**{**shared, "epochs": train.epochs * scenario.protocol.rounds})
    return make_text_task(
        prepared,
        division,
        scenario.tokens,
        scenario.text_canaries.value,
        public_texts=scenario.public.size,
        clients=scenario.federation.clients,
        reference=(first_model, as_long),
        seed=scenario.federation.seed,
        device=device,
    )


def _divide(scenario: Scenario, prepared: Labeled) -> Division:
    return divide(
        prepared,
        partition=scenario.partition.value,
        clients=scenario.federation.clients,
        samples_per_client=scenario.federation.samples_per_client,
        public=scenario.public,
        testing=scenario.test,
        seed=scenario.federation.seed,
    )


def audit_candidates(scenario: Scenario) -> Candidates | None:
    """Return the candidates of the scenario's audit with their inclusion bits, or None."""
    prepared = prepare(scenario.data.value)
    if isinstance(prepared, PreparedTexts):
        return None
    candidates: Candidates | None = scenario.audit.value.planted(
        prepared, _divide(scenario, prepared), scenario.federation.seed
    )[2]
    return candidates


def _kept(architecture: ModelSpec, scenario: Scenario) -> dict[str, torch.Tensor]:
    """Return the blank optimizer states that stay with a client of an architecture."""
    phases = {"train": scenario.train, "distill": scenario.distill}
    return {
        f"{OPTIMIZER}{purpose}/{name}": tensor
        for purpose, phase in phases.items()
        if phase.optimizer_state == "kept"
        for name, tensor in Optimizer(
            phase_parameters(architecture.build(0), distills=purpose == "distill"), phase
        )
        .blank()
        .items()
    }


def build(scenario: Scenario, stop: threading.Event, run_dir: Path | None = None) -> Experiment:
    """Return the experiment. ``stop`` ends its training between two batches. Raises SettingError.

    ``run_dir`` holds its checkpoints and states; without one there are no checkpoints, and states
    that must be in files are in a temporary folder.
    """
    name = scenario.strategy.name
    declared = declaration(scenario.strategy.value, name)
    check_data(scenario, declared)
    # Without a folder nothing is stored, as in a local-only baseline with the same records.
    conditions = run_conditions(scenario, declared)
    check_components(scenario, declared, conditions, stores=run_dir is not None)
    check_needs(scenario, declared)
    loss = chosen_loss(declared, name, scenario.distill.loss, scenario.distill.loss_skew)
    check_distillation(scenario.distill, declared, name, loss)
    engine: Engine = scenario.engine.value
    checkpoints = (
        CheckpointFolder(run_dir) if run_dir is not None and scenario.checkpoint.every else None
    )
    temporary = tempfile.TemporaryDirectory(prefix="fedkd-states-") if run_dir is None else None
    states = Path(temporary.name) if temporary is not None else cast(Path, run_dir) / "states"
    disk = checkpoints.states if checkpoints is not None else DiskStore(states)

    def store(layouts: Mapping[str, Layout], assigned: Sequence[str]) -> ClientStore:
        owned = range(len(assigned)) if engine.here else ()
        memory = MemoryStore(layouts, assigned, owned)
        if scenario.federation.client_store == "disk":
            return disk
        return memory if checkpoints is None else BackedStore(memory, disk)

    device = choose_device(scenario.federation.device) if engine.here else torch.device("cpu")
    context = make_context(scenario, store, stop, device=device)
    if isinstance(context.task, TextTask):
        check_per_round(scenario.public, context.task.public_size)
    check_models(name, declared.needs, context)
    check_codecs(scenario, context)
    check_privacy(scenario, context)
    scenario = _choose_together(scenario, context)
    context = replace(context, batch_clients=_named(scenario))
    division, traits = context.division, context.traits
    assigned = tuple(architecture.name for architecture in context.architectures)
    kind = context.kind
    exchanges = kind is not None
    exposures = None
    if isinstance(context.task, TextTask) and context.task.secrets is not None and exchanges:
        exposures = Exposures(context, context.task, context.task.secrets, declared.teaches)
    threats = threat_model(
        scenario.attacks.value,
        scenario.robust.value,
        clients=scenario.federation.clients,
        classes=context.task.classes,
        seed=scenario.federation.seed,
    )
    server = make_server(scenario, declared, context, threats, exposures)
    resolved = scenario
    if kind is not None:
        protocol = replace(
            scenario.protocol, round_order=resolve_round_order(scenario.protocol, kind)
        )
        distill = (
            replace(scenario.distill, loss=cast(LossName, loss))
            if kind.learned_by == "distill"
            else scenario.distill
        )
        resolved = scenario.changed(protocol=protocol, distill=distill)
    class_names = context.prepared.class_names
    counts = [
        np.bincount(context.prepared.labels[rows], minlength=len(class_names))
        for rows in division.train
    ]
    plan = RunPlan(
        name=scenario.name,
        scenario=resolved.to_dict(),
        strategy=name.rpartition(":")[2],
        rounds=scenario.protocol.rounds,
        architectures=assigned,
        parameters={model: trait.parameters for model, trait in traits.items()},
        train_sizes=tuple(
            context.task.training_size(rows, (client_id,))
            for client_id, rows in enumerate(division.train)
        ),
        label_counts=np.array(counts),
        class_names=class_names,
        examples="windows" if isinstance(context.task, TextTask) else "samples",
        dealt="texts" if isinstance(context.task, TextTask) else "samples",
        public_set=context.task.describe(scenario.public.size)
        if isinstance(context.task, TextTask)
        else describe(scenario.public, scenario.public_data.name),
        device=describe_device(device, scenario.federation.device),
        engine=f"{scenario.engine.name} engine, {engine.describe()}",
        loss=loss,
        exchanges=exchanges,
        privacy=statements.before_run(context.enforcer),
        attackers=threats.attacker_ids,
        warnings=(
            *_warnings(
                scenario,
                [len(a) + len(b) for a, b in zip(division.train, division.validation, strict=True)],
                traits,
            ),
            *statements.warnings(context.enforcer),
            *_audit_warnings(scenario.audit.value),
        ),
    )
    candidates = audit_candidates(scenario) if run_dir is not None else None
    return Experiment(
        resolved, context, server, plan, states, checkpoints, candidates, exposures, temporary
    )


def make_server(
    scenario: Scenario,
    declared: Declaration,
    context: ClientContext,
    threats: ThreatModel,
    observer: Observer | None,
) -> Server:
    """Return the server of a checked scenario.

    Args:
        scenario: The scenario.
        declared: What its strategy declares.
        context: What its clients share.
        threats: Attacks and robust means.
        observer: Looks at the run; None is nobody.
    """
    kind, public = declared.kind, scenario.public
    samples = context.task.public_size // public.augmented_views
    labels = public.labeled and declared.needs.public_labels
    template = Request(
        round=0,
        classes=context.task.classes,
        public_ids=torch.arange(context.task.public_size),
        temperature=scenario.distill.temperature,
        train_sizes={},
        public_labels=context.public_labels.cpu() if labels else None,
        server=_server_models(declared.needs, context),
        shapes={a.name: _shapes(a) for a in context.architectures}
        if kind and kind.learned_by == "adopt"
        else {},
        features={
            model: trait.features
            for model, trait in context.traits.items()
            if trait.features is not None
        },
    )
    return Server(
        Aggregator(
            scenario.strategy.value,
            declared,
            PublicSampler(samples, public.augmented_views, public.per_round, public.sampling),
            context.enforcer,
            threats,
        ),
        Participation(scenario.protocol, scenario.federation.clients, scenario.federation.seed),
        template,
        codecs=context.codecs,
        pretrains=scenario.train.public_epochs > 0,
        observer=observer,
    )


def _server_models(needs: Needs, context: ClientContext) -> WorkplaceModels | None:
    """Return the models of the server's own, each tried once; None where the strategy needs none.

    Those that the strategy names have no further heads, whatever clients of the same architecture
    have.
    """
    if needs.server_models is None:
        return None
    extra = {}
    for name in needs.server_models:
        architecture = context.task.architecture(name, without_heads=True)
        if name not in context.traits or architecture not in context.architectures:
            extra[name] = (architecture, context.task.probe(architecture, features=False))
    return WorkplaceModels(context, extra)


def _shapes(architecture: ModelSpec) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(tensor.shape) for name, tensor in architecture.build(0).state_dict().items()
    }


def _choose_together(scenario: Scenario, context: ClientContext) -> Scenario:
    """Return the scenario with the models named whose clients are trained together."""
    wanted = scenario.federation.batch_clients
    names = list(dict.fromkeys(architecture.name for architecture in context.architectures))
    if isinstance(wanted, tuple):
        for name in wanted:
            if name not in names:
                raise unknown_name("model in batch_clients", name, names)
            if (reason := reason_unbatched(context, name)) is not None:
                raise SettingError(
                    f"batch_clients: clients of {name} cannot be trained together: {reason}"
                )
    elif wanted == "auto":
        with deterministic(
            context.device
        ):  # as engines train; threads that wait for one another spoil so short a trial
            wanted = tuple(
                n for n in names if reason_unbatched(context, n) is None and is_faster(context, n)
            )
    else:
        return scenario
    return scenario.changed(federation=replace(scenario.federation, batch_clients=wanted))


def _named(scenario: Scenario) -> frozenset[str]:
    """Return the models that are trained together, as far as they are named yet."""
    wanted = scenario.federation.batch_clients
    return frozenset(wanted) if isinstance(wanted, tuple) else frozenset()


def round_costs(context: ClientContext) -> list[float]:
    """Return the seconds that a round costs each client, from a short measurement of every
    architecture.
    """
    batch, step = context.training.batch_size, {}
    for architecture in {a.name: a for a in context.architectures}.values():
        model, x = architecture.build(0).eval(), architecture.example(batch)
        optimizer = Optimizer(model.parameters(), context.training)
        took = []
        for _ in range(3):
            started = time.perf_counter()
            context.task.logits(model, x).sum().backward()
            optimizer.step()
            took.append(time.perf_counter() - started)
        step[architecture.name] = min(took)
    distills = context.kind is not None and context.kind.learned_by == "distill"
    public = len(context.public_inputs) if distills else 0
    shared = public * (
        context.distillation.epochs + 1 / 3
    )  # predicting costs a third of a step: no gradients
    return [
        step[architecture.name]
        * (context.training.epochs * context.training_size(client_id) + shared)
        / batch
        for client_id, architecture in enumerate(context.architectures)
    ]


def _guard(
    scenario: Scenario, declared: Declaration, task: Task, sizes: Sequence[int]
) -> PrivacyEnforcer:
    """Return the run's privacy mechanism with what it must know of the run; sizes are public.
    Raises SettingError.
    """
    mechanism, seed, kind = scenario.privacy.value, scenario.federation.seed, declared.kind
    if kind is None:
        return PrivacyEnforcer(mechanism=NothingLeaves(), seed=seed)
    if mechanism.is_unlimited:
        return PrivacyEnforcer(mechanism=Unlimited(), seed=seed)
    public, samples = scenario.public, task.public_size // scenario.public.augmented_views
    predicts = kind.predicts
    plan = ReleasePlan(
        clients=scenario.federation.clients,
        rounds=scenario.protocol.rounds,
        rows=max(1, (public.per_round or samples) * public.augmented_views)
        if public.sampling == "random"
        else samples,
        public_size=max(1, task.public_size),
        classes=task.classes,
        scale=kind.upload_scale or "probs",
        records=max(sizes),
        fewest_records=min(sizes),
        all_records=sum(sizes),
        batch_size=scenario.train.batch_size,
        epochs=scenario.train.epochs,
        chooses=kind.predicts and not kind.all_answer,
        unweighted_mean=predicts and isinstance(scenario.strategy.value, MeanBased),
        temperature=scenario.distill.temperature,
        has_reference=isinstance(task, TextTask),
    )
    return PrivacyEnforcer(name=scenario.privacy.name, mechanism=mechanism, plan=plan, seed=seed)


def _audit_warnings(audit: Audit) -> tuple[str, ...]:
    if not audit.asks_models:
        return ()
    return ("audit.adversaries names the lab: raw answers of the clients' models are stored in"
            " lab/; no claim covers"
            " them",)  # fmt: skip


def _warnings(scenario: Scenario, sizes: list[int], traits: Any) -> tuple[str, ...]:
    found = []
    asked = scenario.federation.samples_per_client
    short = [i for i, size in enumerate(sizes) if asked is not None and size < asked]
    if short:
        found.append(
            f"samples_per_client={asked}, but the partition deals fewer to {len(short)} of"
            f" {len(sizes)} clients"
            f" (client {short[0]} has {sizes[short[0]]})"
        )
    random_models = [model for model, trait in traits.items() if trait.draws_randomness]
    if random_models and scenario.engine.value.here and scenario.engine.value.threads > 1:
        found.append(
            f"{', '.join(random_models)} draws from torch's global generator in training"
            " (dropout?); such clients"
            " train one at a time, so that the run repeats"
        )
    return tuple(found)
