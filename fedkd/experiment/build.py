"""From a scenario to the objects of a run, with every check that does not need training.

Settings that cannot work are refused here, before any training; doubtful ones become warnings of
the plan. Not for: what clients share (``fedkd.experiment.make_context``), what is printed
(``fedkd.experiment.make_plan``).
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from fedkd.audit.record_canaries import Candidates
from fedkd.audit.secret_exposure import Exposures
from fedkd.errors import SettingError
from fedkd.experiment.make_context import audit_candidates, make_context, named_batching
from fedkd.experiment.make_plan import make_plan
from fedkd.experiment.start_models import check_start
from fedkd.experiment.worker_facts import WorkerFacts, choose_batches
from fedkd.federation.aggregation import Aggregator
from fedkd.federation.context import ClientContext
from fedkd.federation.local_steps import preparation
from fedkd.federation.participation import Participation
from fedkd.federation.protocol import resolve_round_order
from fedkd.federation.public_sampling import PublicSampler
from fedkd.federation.server import Observer, Server
from fedkd.federation.server_models import PublicSetModels
from fedkd.flower.node_states import NodeStates
from fedkd.knowledge import Request
from fedkd.models.factory import ModelSpec
from fedkd.report.record_rows import RunPlan
from fedkd.robustness.threat_model import threat_model
from fedkd.runtime.devices import choose_device
from fedkd.scenario.compatibility import check_context, check_scenario
from fedkd.scenario.scenario import Scenario
from fedkd.storage.checkpoint import CheckpointFolder
from fedkd.storage.client_states import BackedStore, ClientStore, DiskStore, Layout, MemoryStore
from fedkd.storage.device_states import DeviceStore, fits
from fedkd.storage.leftovers import HeldFolder
from fedkd.strategy import Declaration, Needs, declaration
from fedkd.training.losses import LossName


@dataclass(frozen=True)
class Experiment:
    """The objects of a run.

    ``scenario`` has nothing left to choose. ``states`` is the folder of client states, for stores
    in files; ``checkpoints`` is None where none are written.
    """

    scenario: Scenario
    context: ClientContext
    server: Server
    plan: RunPlan
    states: Path
    checkpoints: CheckpointFolder | None
    candidates: Candidates | None = None
    """The candidates of an audit with their inclusion bits, for the auditor alone."""
    exposures: Exposures | None = None
    """The observer that measures how far secrets come out, where there are any."""
    nodes: NodeStates | None = None
    """The client states on Flower's nodes, where the clients are there."""
    facts: WorkerFacts | None = None
    """What a process with a GPU says of itself, where clients work in such processes."""
    _temporary: object = None

    def messages(self, done: int = 0) -> int:
        """Return the number of client messages after ``done`` rounds if no client fails."""
        phases = 2 if self.plan.exchanges and self.server.round_order == "train_first" else 1
        asked = max(1, round(self.scenario.protocol.participation * self.plan.clients))
        taking_part = round(asked * (1 - self.scenario.protocol.dropout))
        return (self.plan.rounds - done) * phases * taking_part + self.plan.clients


def build(
    scenario: Scenario,
    stop: threading.Event,
    run_dir: Path | None = None,
    *,
    noise_factor: float = 1.0,
) -> Experiment:
    """Return the experiment of a scenario.

    Args:
        scenario: The scenario.
        stop: Ends the run's training between two batches.
        run_dir: The folder of checkpoints and states. Without one there are no checkpoints, no
            audit is stored, and states that must be in files are in a temporary folder.
        noise_factor: By which all privacy noise is multiplied; another than 1 in audits alone.

    Raises:
        SettingError: The scenario cannot work.
    """
    declared = declaration(scenario.strategy.value, scenario.strategy.name)
    loss = check_scenario(scenario, declared, stores=run_dir is not None)
    stored = bool(run_dir is not None and scenario.checkpoint.every)
    checkpoints = CheckpointFolder(cast(Path, run_dir)) if stored else None
    temporary = HeldFolder("fedkd-states-") if run_dir is None else None
    states = temporary.path if temporary is not None else cast(Path, run_dir) / "states"
    disk = checkpoints.states if checkpoints is not None else DiskStore(states)
    context = _context(scenario, stop, disk, checkpoints, noise_factor=noise_factor)
    check_context(scenario, declared, context)
    check_start(scenario, context)
    if scenario.engine.value.here or scenario.federation.device == "cpu":
        scenario = choose_batches(scenario, context)  # else where clients work
    context = replace(context, batching=named_batching(scenario, fixed=context.batching.fixed))
    exposures = None
    if context.kind is not None and context.task.planted is not None:
        exposures = Exposures(context, context.task.planted, declared.teaches)
    server = make_server(scenario, declared, context, exposures)
    resolved = _resolved(scenario, context, loss)
    return Experiment(
        scenario=resolved,
        context=context,
        server=server,
        plan=make_plan(resolved, context, server, loss),
        states=states,
        checkpoints=checkpoints,
        candidates=audit_candidates(scenario) if run_dir is not None else None,
        exposures=exposures,
        _temporary=temporary,
    )


def _context(
    scenario: Scenario,
    stop: threading.Event,
    disk: DiskStore,
    checkpoints: CheckpointFolder | None,
    *,
    noise_factor: float,
) -> ClientContext:
    """Return what clients share, with the store of states that the scenario asks for.

    Args:
        scenario: The scenario.
        stop: Ends clients' training between two batches.
        disk: The store in files.
        checkpoints: For which states in memory are written to files as well; None without.
        noise_factor: By which all privacy noise is multiplied.
    """
    here = scenario.engine.value.here

    def store(layouts: Mapping[str, Layout], assigned: Sequence[str]) -> ClientStore:
        if scenario.federation.client_store == "disk":
            return disk
        owned = range(len(assigned)) if here else range(0)
        on_device = fits(layouts, assigned, owned, device)
        if checkpoints is None:
            if on_device:
                return DeviceStore(layouts, assigned, owned, device, None)
            return MemoryStore(layouts, assigned, owned)
        found = (
            DeviceStore(layouts, assigned, owned, device, disk)
            if on_device
            else BackedStore(MemoryStore(layouts, assigned, owned), disk)
        )
        checkpoints.write_states = found.write_down
        return found

    device = choose_device(scenario.federation.device) if here else torch.device("cpu")
    return make_context(scenario, store, stop, device=device, noise_factor=noise_factor)


def make_server(
    scenario: Scenario,
    declared: Declaration,
    context: ClientContext,
    observer: Observer | None,
) -> Server:
    """Return the server of a checked scenario.

    Args:
        scenario: The scenario.
        declared: What its strategy declares.
        context: What its clients share.
        observer: Looks at the run; None is nobody.

    Raises:
        SettingError: The attack or the robust mean does not fit the clients and classes.
    """
    kind, public = declared.kind, scenario.public
    samples = context.task.public_size // public.augmented_views
    labels = public.labeled and declared.needs.public_labels
    template = Request(
        round=0,
        classes=context.task.classes,
        public_ids=torch.arange(context.task.public_size),
        temperature=scenario.distill.temperature,
        train_sizes={i: context.stated_size(i) for i in range(len(context.architectures))},
        architectures=tuple(architecture.name for architecture in context.architectures),
        public_labels=context.public_labels.cpu() if labels else None,
        sequences=context.task.public_sequences,
        server=_server_models(declared.needs, context),
        shapes={a.name: _shapes(a) for a in context.architectures}
        if kind and kind.learned_by == "adopt"
        else {},
        features={
            model: trait.features
            for model, trait in context.traits.items()
            if trait.features is not None
        },
        companion=None if context.companion is None else context.companion.as_shared(),
        heads={n: trait.head for n, trait in context.traits.items() if trait.head is not None},
    )
    found = None if kind is None else kind.misfit(template)
    if found is not None:
        raise SettingError(f"strategy={scenario.strategy.name} does not fit the models: {found}")
    threats = threat_model(
        scenario.attacks.value,
        scenario.robust.value,
        clients=scenario.federation.clients,
        classes=context.task.classes,
        seed=scenario.federation.seed,
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
        preparation=preparation(scenario.train),
        # References have one point a round: a comparison may ask all its runs for the other.
        measure_after="both" if kind is None or declared.needs.pooled_data else scenario.test.after,
        measurement=scenario.measurement,
        observer=observer,
    )


def _resolved(scenario: Scenario, context: ClientContext, loss: str) -> Scenario:
    """Return the scenario with the round order and the distillation loss named."""
    kind = context.kind
    if kind is None:
        return scenario
    round_order = resolve_round_order(scenario.protocol, kind)
    protocol = replace(scenario.protocol, round_order=round_order)
    distill = scenario.distill
    if kind.learned_by == "distill":
        distill = replace(distill, loss=cast(LossName, loss))
    return scenario.changed(protocol=protocol, distill=distill)


def _server_models(needs: Needs, context: ClientContext) -> PublicSetModels | None:
    """Return the server's own models, each tried once; None where the strategy needs none.

    They have no further heads, even where clients of the same architecture do.
    """
    if needs.server_models is None:
        return None
    extra = {}
    for name in needs.server_models:
        architecture = context.task.architecture(name, without_heads=True)
        if name not in context.traits or architecture not in context.architectures:
            extra[name] = (architecture, context.task.probe(architecture, features=False))
    return PublicSetModels(context, extra, own=needs.server_models)


def _shapes(architecture: ModelSpec) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(tensor.shape) for name, tensor in architecture.build(0).state_dict().items()
    }
