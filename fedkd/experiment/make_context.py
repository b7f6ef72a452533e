"""From a scenario to what clients share on one machine: data, task, models, privacy, codecs.

A function of the scenario alone, so that every process of a run makes the same. Not for: the
server, and what is checked before (``fedkd.experiment.build``).
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace

import torch

from fedkd.audit.audit_settings import Planted
from fedkd.audit.record_canaries import Candidates
from fedkd.codecs import Codecs, codecs_of
from fedkd.data.client_shifts import InputNoise
from fedkd.data.division import Division, divide
from fedkd.data.prepare import Labeled, prepare
from fedkd.errors import SettingError
from fedkd.federation.batching import Batching
from fedkd.federation.companion_plan import CompanionPlan, SecondModel
from fedkd.federation.context import OPTIMIZER, ClientContext
from fedkd.knowledge import JointKnowledge, KnowledgeType, ModularKnowledge
from fedkd.models.factory import ModelInfo, ModelSpec, assign
from fedkd.models.heads import phase_parameters
from fedkd.models.model_names import split_share
from fedkd.models.zoo import expanded
from fedkd.privacy.enforcement import PrivacyEnforcer, no_side_release
from fedkd.privacy.release_plan import ReleasePlan
from fedkd.privacy.unprotected import NothingLeaves, Unlimited
from fedkd.runtime.devices import choose_device
from fedkd.scenario.scenario import BATCHING, Scenario
from fedkd.settings.schema import in_section, parameters
from fedkd.settings.validators import user_path
from fedkd.storage.client_states import ClientStore, Layout
from fedkd.storage.start_states import StartStates
from fedkd.strategy import Declaration, MeanBased, chosen_loss, declaration
from fedkd.tasks.find_task import find_task
from fedkd.tasks.task import Task, TaskSetup
from fedkd.training.hyperparameters import Phase
from fedkd.training.model_parts import check_parts, head_parameters, partly_frozen
from fedkd.training.optimizers import Optimizer
from fedkd.training.precision import set_precision

StoreMaker = Callable[[Mapping[str, Layout], Sequence[str]], ClientStore]
"""From the layouts of states by architecture, and each client's architecture, to a store."""


def make_context(
    scenario: Scenario,
    store: ClientStore | StoreMaker,
    stop: threading.Event,
    *,
    device: torch.device | None = None,
    public_inputs: torch.Tensor | None = None,
    noise_factor: float = 1.0,
) -> ClientContext:
    """Return what the scenario's clients share on this machine.

    Args:
        scenario: The scenario.
        store: Where clients' states are stored, or a function that makes the store.
        stop: Ends clients' training between two batches.
        device: Where models compute; None is the scenario's choice.
        public_inputs: The public set as model inputs, where another process has made it.
        noise_factor: By which all privacy noise is multiplied; another than 1 in audits alone.

    Raises:
        SettingError: Data, models or settings do not fit one another.
    """
    device = _device(scenario, device)
    declared = declaration(scenario.strategy.value, scenario.strategy.name)
    assigned, prepared = _models(scenario), prepare(scenario.data.value)
    division = _divide(scenario, prepared)
    trained_on, planted, _ = _planted(scenario, prepared, division)
    setup = _task_setup(scenario, prepared, division, assigned)
    setup = replace(setup, trained_on=trained_on, device=device, public_inputs=public_inputs)
    task = find_task(scenario.data.value).make(setup)
    sizes = tuple(task.training_size(rows, (i,)) for i, rows in enumerate(division.train))
    enforcer = _enforcer(scenario, declared, task, sizes, _group(scenario, task, division))
    architectures = {model: task.architecture(model) for model in dict.fromkeys(assigned)}
    traits = _traits(scenario, task, declared, architectures)
    companion = _companion(scenario, task, declared, traits)
    optimizer_states = {
        model: _optimizer_states(architecture, scenario, traits[model], companion)
        for model, architecture in architectures.items()
    }
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
        enforcer=replace(enforcer, noise_factor=noise_factor),
        codecs=_codecs(scenario, declared),
        store=_store(store, architectures, optimizer_states, assigned),
        seed=scenario.federation.seed,
        device=device,
        measurement=scenario.measurement,
        input_noise=_noise(scenario, division, prepared),
        deadline=scenario.protocol.deadline,
        optimizer_states=optimizer_states,
        precision=scenario.federation.precision,
        batching=named_batching(scenario, fixed=device.type != "cpu"),
        stopped=stop.is_set,
        sends_metrics=scenario.report.sends_metrics,
        last_round=scenario.protocol.rounds,
        companion=companion,
        start=_start(scenario),
    )


def _noise(scenario: Scenario, division: Division, prepared: Labeled) -> InputNoise | None:
    """Return the noise on private inputs. It is of rows as they are before an audit's coins."""
    if not scenario.shift.noise:
        return None
    rows, seed = len(prepared.labels), scenario.federation.seed
    return InputNoise(scenario.shift.noise, division, rows, seed)


def _device(scenario: Scenario, device: torch.device | None) -> torch.device:
    """Return the device, whose precision is then the run's; SettingError where it has not that."""
    federation = scenario.federation
    device = device or choose_device(federation.device)
    works_here = scenario.engine.value.here or federation.device == "cpu"
    if works_here or device.type != "cpu":  # else in a process that may have a GPU
        set_precision(federation.precision, device)
    return device


def _start(scenario: Scenario) -> StartStates | None:
    """Return the models that clients begin with. Raises SettingError where one is missing."""
    named = scenario.federation.start_from
    if named is None:
        return None
    return StartStates(user_path(named, "start_from"), scenario.federation.clients)


def audit_candidates(scenario: Scenario) -> Candidates | None:
    """Return the candidates of the scenario's audit with their inclusion bits, or None.

    For the auditor alone: clients and adversaries do not see them.
    """
    prepared = prepare(scenario.data.value)
    division = _divide(scenario, prepared)
    return _planted(scenario, prepared, division)[2]


def _planted(scenario: Scenario, prepared: Labeled, division: Division) -> Planted:
    """Return what is trained on once classes have traded labels and an audit has planted."""
    audit = scenario.audit.value
    prepared = scenario.shift.relabeled(prepared, division, scenario.federation.seed)
    with in_section("audit", parameters(type(audit))):
        return audit.planted(prepared, division, scenario.federation.seed)


def named_batching(scenario: Scenario, *, fixed: bool) -> Batching:
    """Return which clients are trained together, as far as the scenario names them.

    ``fixed``: whether batches depend on clients' sizes alone.
    """
    wanted = (getattr(scenario.federation, name) for name in BATCHING)
    models, products, graphs = (
        frozenset(names) if isinstance(names, tuple) else frozenset() for names in wanted
    )
    return Batching(models=models, products=products, graphs=graphs, fixed=fixed)


def _models(scenario: Scenario) -> tuple[str, ...]:
    """Return each client's model by name; SettingError for one that does not exist."""
    task_class = find_task(scenario.data.value)
    for model in expanded(scenario.federation.models):
        task_class.factory(split_share(model)[0])
    return assign(scenario.federation.models, scenario.federation.clients)


def _task_setup(
    scenario: Scenario, prepared: Labeled, division: Division, assigned: Sequence[str]
) -> TaskSetup:
    """Return what a task is made of, as if no audit planted anything, on the CPU.

    Args:
        scenario: The scenario.
        prepared: The data set.
        division: Its division among the clients.
        assigned: Each client's model by name.
    """
    return TaskSetup(
        prepared=prepared,
        trained_on=prepared,
        division=division,
        public=scenario.public,
        public_source=scenario.public_data.value,
        heads=scenario.heads.value.for_classes(prepared.class_names),
        preprocessing=scenario.preprocessing,
        adapters=scenario.adapters.value,
        tokens=scenario.tokens,
        text_canaries=scenario.text_canaries.value,
        reference=(assigned[0], _trained_whole(scenario)),
        models=tuple(dict.fromkeys(assigned)),
        seed=scenario.federation.seed,
        device=torch.device("cpu"),
        separates_records=scenario.privacy.value.hides_single_records,
        public_inputs=None,
    )


def _trained_whole(scenario: Scenario) -> Phase:
    """Return one phase that is as long as a client's private training in a whole run."""
    train = scenario.train
    shared = {f.name: getattr(train, f.name) for f in fields(Phase)}
    return Phase(**shared).repeated(scenario.protocol.rounds)


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


def _group(scenario: Scenario, task: Task, division: Division) -> tuple[int, bool]:
    """Return the most training examples of one record, and whether a setting bounds them."""
    if not scenario.privacy.value.hides_single_records:
        return 1, False
    return max(task.group_size(rows, (client,)) for client, rows in enumerate(division.train))


def _codecs(scenario: Scenario, declared: Declaration) -> Codecs | None:
    if declared.kind is None:
        return None
    return codecs_of(scenario.codec.value, declared.codec)


def _store(
    store: ClientStore | StoreMaker,
    architectures: Mapping[str, ModelSpec],
    optimizer_states: Mapping[str, Mapping[str, torch.Tensor]],
    assigned: Sequence[str],
) -> ClientStore:
    """Return the store of clients' states.

    Args:
        store: The store, or a function that makes it.
        architectures: By the model's name.
        optimizer_states: The tensors beside the model in a client's state, by the model's name.
        assigned: Each client's model by name.
    """
    if isinstance(store, ClientStore):
        return store
    layouts = {
        model: Layout.of({**architecture.build(0).state_dict(), **optimizer_states[model]})
        for model, architecture in architectures.items()
    }
    return store(layouts, assigned)


def _traits(
    scenario: Scenario,
    task: Task,
    declared: Declaration,
    architectures: Mapping[str, ModelSpec],
) -> dict[str, ModelInfo]:
    """Return what a trial of each architecture shows; SettingError where training does not fit it.

    Args:
        scenario: The scenario.
        task: Its task.
        declared: What its strategy declares.
        architectures: By the model's name.
    """
    phases = {"train": scenario.train, "distill": scenario.distill}
    in_parts = {name: phase for name, phase in phases.items() if phase.trains_in_parts}
    features = declared.needs.features is not None or any(
        phase.asks_for_head for phase in phases.values()
    )
    found = {name: task.probe(spec, features=features) for name, spec in architectures.items()}
    for section, phase in in_parts.items():
        for name, spec in architectures.items():
            check_parts(spec.build(0), name, phase, section, found[name].head)
    return found


def _companion(
    scenario: Scenario, task: Task, declared: Declaration, traits: Mapping[str, ModelInfo]
) -> CompanionPlan | None:
    """Return what clients have beside their models; SettingError where it does not fit one.

    Args:
        scenario: The scenario.
        task: Its task.
        declared: What its strategy declares.
        traits: What is known of the clients' own models, by name.
    """
    name, kind = declared.needs.companion, declared.kind
    seed, strategy = scenario.federation.seed, scenario.strategy.name
    if name is None:
        return CompanionPlan(None, kind, seed) if isinstance(kind, ModularKnowledge) else None
    if not isinstance(kind, JointKnowledge) or kind.joint is None:
        raise SettingError(
            f"strategy={strategy} declares a companion, but its kind of knowledge has no joint"
            " learning: ModelWeights(part=CompanionModel(), joint=...)"
        )
    spec = task.architecture(name, without_heads=True)
    info = task.probe(spec, features=kind.joint.needs_features)
    if info.fits_itself:
        raise SettingError(f"strategy.companion={name} learns by gradients, and this does not")
    if kind.joint.needs_features and info.features is None:
        raise SettingError(
            f"strategy={strategy} needs the features of its companion, the input of a last linear"
            f" layer, and {name} has no such layer"
        )
    for model, own in traits.items():
        found = kind.joint.misfit(own.features, info.features)
        if found is not None:
            raise SettingError(f"strategy={strategy}: {model} beside {name}: {found}")
    return CompanionPlan(SecondModel(spec, info), kind.joint, seed)


def _optimizer_states(
    architecture: ModelSpec, scenario: Scenario, own: ModelInfo, companion: CompanionPlan | None
) -> dict[str, torch.Tensor]:
    """Return the blank optimizer states in the state of a client of an architecture.

    Args:
        architecture: The client's own.
        scenario: The scenario.
        own: What is known of it.
        companion: The client's second model, which private training steps too.
    """
    head = own.head
    found: dict[str, torch.Tensor] = {}
    for purpose, phase in {"train": scenario.train, "distill": scenario.distill}.items():
        if phase.optimizer_state != "kept":
            continue
        model = architecture.build(0)
        with partly_frozen(model, phase, head):
            parameters = phase_parameters(model, distills=purpose == "distill")
            if companion is not None and purpose == "train":
                parameters = [*parameters, *companion.module(own).parameters()]
            optimizer = Optimizer(parameters, phase, head_parameters(model, phase, head))
            blank = optimizer.blank()
        found |= {f"{OPTIMIZER}{purpose}/{name}": tensor for name, tensor in blank.items()}
    return found


def _enforcer(
    scenario: Scenario,
    declared: Declaration,
    task: Task,
    sizes: Sequence[int],
    group: tuple[int, bool],
) -> PrivacyEnforcer:
    """Return the run's privacy mechanism at work; SettingError where its settings do not fit.

    Args:
        scenario: The scenario.
        declared: What its strategy declares.
        task: The run's task.
        sizes: Each client's number of training examples, which is public.
        group: The most training examples of one record, and whether a setting bounds them.
    """
    mechanism, seed, kind = scenario.privacy.value, scenario.federation.seed, declared.kind
    if kind is None and scenario.federation.baseline != "local_only_private":
        return PrivacyEnforcer(mechanism=NothingLeaves(), seed=seed)
    if mechanism.is_unlimited:
        return PrivacyEnforcer(mechanism=Unlimited(), seed=seed)
    public, samples = scenario.public, task.public_size // scenario.public.augmented_views
    predicts = kind is not None and kind.predicts
    plan = ReleasePlan(
        clients=scenario.federation.clients,
        rounds=scenario.protocol.rounds,
        rows=max(1, (public.per_round or samples) * public.augmented_views)
        if public.sampling == "random"
        else samples,
        public_size=max(1, task.public_size),
        classes=task.classes,
        scale=(kind and kind.upload_scale) or "probs",
        records=max(sizes),
        fewest_records=min(sizes),
        all_records=sum(sizes),
        batch_size=scenario.train.batch_size,
        epochs=scenario.train.epochs,
        steps=scenario.train.steps,
        group=group[0],
        group_is_bound=group[1],
        record=task.record,
        examples=task.examples,
        kind_declares=_declaring(kind),
        chooses=predicts and kind is not None and not kind.all_answer,
        scores=kind is not None and kind.uploads_scores,
        side_release=None if kind is None else kind.side_release(min(sizes)),
        unweighted_mean=predicts and isinstance(scenario.strategy.value, MeanBased),
        temperature=scenario.distill.temperature,
        has_reference=task.has_reference,
    )
    return PrivacyEnforcer(
        name=scenario.privacy.name,
        mechanism=mechanism,
        plan=plan,
        seed=seed,
        side_release=no_side_release if kind is None else kind.side_release,
    )


def _declaring(kind: KnowledgeType | None) -> str:
    """Return the class of a kind of one's own that says what its uploads depend on, or ""."""
    if kind is None or not kind.reveals_model_only or kind.vouches.__module__.startswith("fedkd."):
        return ""
    return kind.vouches.__name__
