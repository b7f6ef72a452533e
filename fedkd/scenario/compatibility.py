"""Checks of a whole scenario before any training: each part is asked what it does not go with.

A setting's own range is checked by its class, and what a component does not go with stands beside
it (``conflict``). Here are the conditions that they are asked with, and the checks that need data
or models.
"""

from functools import partial

import torch

from fedkd.data.client_shifts import ClientShifts
from fedkd.data.division import Public
from fedkd.data.public import count_foreign
from fedkd.errors import SettingError
from fedkd.federation.client import example_arrays
from fedkd.federation.context import ClientContext
from fedkd.federation.protocol import Protocol, check_order
from fedkd.models.libraries import fitted_models
from fedkd.models.model_names import split_share
from fedkd.privacy.mechanisms.mechanism import overrides
from fedkd.scenario.registry import GROUPS
from fedkd.scenario.scenario import Scenario
from fedkd.settings.conditions import Compatible, RunConditions
from fedkd.strategy import Declaration, Needs, chosen_loss
from fedkd.tasks.find_task import find_task
from fedkd.tasks.task import Task

CHECKED = ("text_canaries", "heads", "adapters", "attacks", "robust", "codec", "privacy", "audit")
"""The groups whose components are asked what they do not go with, in the order of their errors."""


def check_scenario(scenario: Scenario, declared: Declaration, *, stores: bool) -> str:
    """Return the distillation loss of a scenario that can work; SettingError for another.

    Args:
        scenario: The scenario.
        declared: What its strategy declares.
        stores: Whether the run has a folder. Without one nothing is stored, so that an audit only
            plants, as in the local-only baseline of an audited run.
    """
    name, distill = scenario.strategy.name, scenario.distill
    skew, weight = distill.loss_skew, distill.not_true_weight
    loss = chosen_loss(declared, name, distill.loss, skew, weight)
    count_foreign(scenario.public, scenario.public_data.value)
    conditions = run_conditions(scenario, declared, loss, stores=stores)
    check_parts(scenario, declared, conditions)
    check_baseline(scenario)
    check_precision(scenario, conditions)
    check_order(scenario.protocol, declared.kind)
    check_participation(scenario.protocol, scenario.federation.clients)
    return loss


def check_context(scenario: Scenario, declared: Declaration, context: ClientContext) -> None:
    """Raise SettingError where settings do not fit the data and models of a run."""
    scenario.measurement.check_classes(context.task.classes)
    check_noise(scenario.shift, context)
    check_augmented(scenario, context)
    check_per_round(scenario.public, context.task.public_size // scenario.public.augmented_views)
    check_models(scenario, declared.needs, context)
    check_codecs(scenario, context)
    check_privacy(scenario, context)


def run_conditions(
    scenario: Scenario, declared: Declaration, loss: str, *, stores: bool
) -> RunConditions:
    """Return what the parts of a scenario may ask of its run.

    Args:
        scenario: The scenario.
        declared: What its strategy declares.
        loss: The name of the distillation loss.
        stores: Whether the run has a folder.
    """
    kind, needs = declared.kind, declared.needs
    task, public, protocol = find_task(scenario.data.value), scenario.public, scenario.protocol
    fitted = fitted_models(scenario.federation.models)
    return RunConditions(
        strategy=scenario.strategy.name,
        components={group: getattr(scenario, group).name for group in GROUPS},
        clients=scenario.federation.clients,
        rounds=protocol.rounds,
        exchanges=kind is not None,
        learned_by=None if kind is None else kind.learned_by,
        predicts=kind is not None and kind.predicts,
        all_answer=kind is not None and kind.all_answer,
        selects_queries=declared.selects_queries,
        scale=None if kind is None else kind.upload_scale,
        teaches=declared.teaches,
        mean_based=declared.mean_based,
        reveals_model_only=kind is not None and kind.reveals_model_only,
        adds_penalty=kind is not None and kind.adds_penalty,
        has_companion=needs.companion is not None,
        features=needs.features,
        pooled_data=needs.pooled_data,
        label_counts=needs.label_counts,
        public_labels=needs.public_labels,
        loss=loss,
        round_order=protocol.round_order,
        has_absences=protocol.participation < 1 or protocol.dropout > 0,
        pretrains=scenario.train.public_epochs > 0,
        data_kind=task.data_kind,
        examples=task.examples,
        augmentations=task.augmentations,
        takes_heads=task.takes_heads,
        audits_records=task.audits_records,
        has_classes=task.has_classes,
        has_secrets=scenario.text_canaries.name != "none",
        fitted_models=fitted,
        only_fitted=set(fitted) == {split_share(m)[0] for m in scenario.federation.models},
        trains_server=bool(needs.server_models),
        public_size=public.size,
        public_labeled=public.labeled,
        public_sampling=public.sampling,
        augmented_views=public.augmented_views,
        corruption=public.corruption,
        student_augmentation=scenario.distill.student_augmentation,
        has_baseline=scenario.federation.baseline != "none",
        is_stored=stores,
        attackers_see_all=scenario.attacks.value.sees_all_uploads,
        hides_single_records=scenario.privacy.value.hides_single_records,
        is_private_baseline=kind is None and not stores and _protects_baseline(scenario),
        is_claimed=bool(scenario.privacy.value.protects_from),
        trusts_server=scenario.privacy.value.trusts_server,
    )


def _protects_baseline(scenario: Scenario) -> bool:
    return scenario.federation.baseline == "local_only_private"


def check_baseline(scenario: Scenario) -> None:
    """Raise SettingError where a private baseline would be the plain one."""
    mechanism, name = scenario.privacy.value, scenario.privacy.name
    if _protects_baseline(scenario) and not overrides(mechanism, "train_privately"):
        raise SettingError(
            f"baseline=local_only_private would do nothing: privacy={name} does not touch training;"
            " say baseline=local_only"
        )


def check_precision(scenario: Scenario, conditions: RunConditions) -> None:
    """Raise SettingError for a precision of networks where there is none."""
    precision = scenario.federation.precision
    if precision != "default" and conditions.only_fitted and not conditions.trains_server:
        raise SettingError(
            f"precision={precision} would do nothing: all models are estimators, which compute as"
            " their library does; leave it out"
        )


def check_parts(scenario: Scenario, declared: Declaration, conditions: RunConditions) -> None:
    """Raise SettingError where a part of a scenario does not go with the run.

    Each part is asked for its own ``conflict``: sections, the task, the kind, the components, and
    a strategy that has one.
    """
    sections = (
        *(scenario.measurement, scenario.shift, scenario.preprocessing, scenario.tokens),
        *(scenario.public, scenario.train, scenario.distill, scenario.report),
    )
    components = [getattr(scenario, group).value for group in CHECKED]
    parts: list[Compatible | type[Task]] = [
        find_task(scenario.data.value),
        declared.needs,
        *sections,
        *components,
    ]
    if declared.kind is not None:
        parts.insert(0, declared.kind)
    if isinstance(scenario.strategy.value, Compatible):
        parts.append(scenario.strategy.value)
    for part in parts:
        found = part.conflict(conditions)
        if found is not None:
            raise SettingError(found)


def check_noise(shift: ClientShifts, context: ClientContext) -> None:
    """Raise SettingError where inputs are nothing that noise can be added to."""
    if shift.noise and not context.public_inputs.is_floating_point():
        raise SettingError(
            f"shift.noise={shift.noise:g}: the inputs of this data set are whole numbers, such as"
            " tokens, and noise is of real ones; leave it out"
        )


def check_augmented(scenario: Scenario, context: ClientContext) -> None:
    """Raise SettingError where no model would see an augmented image."""
    if scenario.train.augment != "none" and all(t.fits_itself for t in context.traits.values()):
        raise SettingError(
            f"train.augment={scenario.train.augment} would do nothing: estimators are fitted to"
            " images as they are; leave it out, or put a network beside them"
        )


def check_participation(protocol: Protocol, clients: int) -> None:
    """Raise SettingError where a round asks fewer clients than must answer."""
    asked = max(1, round(protocol.participation * clients))
    if protocol.min_clients > asked:
        raise SettingError(
            f"min_clients={protocol.min_clients}, but a round asks only {asked} clients"
            f" (participation={protocol.participation:g} of clients={clients})"
        )


def check_per_round(public: Public, samples: int) -> None:
    """Raise SettingError unless a round's public samples are a part that a rule can choose."""
    if public.per_round is None:
        return
    if public.per_round > samples:
        raise SettingError(
            f"public.per_round={public.per_round} is more than the public set has ({samples}"
            " samples)"
        )
    if public.sampling != "random" and public.per_round == samples:
        raise SettingError(
            f"public.sampling={public.sampling} would do nothing: all samples are asked about;"
            " give a smaller per_round"
        )


def check_models(scenario: Scenario, needs: Needs, context: ClientContext) -> None:
    """Raise where the clients' models are not what the strategy can work with."""
    name, models = scenario.strategy.name, list(context.traits)
    if needs.equal_architectures and len(models) > 1:
        raise SettingError(
            f"strategy={name} averages weights and needs one architecture for all clients, but"
            " models are"
            f" {', '.join(models)}; say models=[{models[0]}], or use a strategy that exchanges"
            " predictions"
        )
    widths = {model: trait.features for model, trait in context.traits.items()}
    if needs.features is not None and None in widths.values():
        without = [model for model, width in widths.items() if width is None]
        raise SettingError(
            f"strategy={name} needs the features of models, the input of a linear layer that puts"
            " out the logits;"
            f" {', '.join(without)} has no such layer"
        )
    if needs.features == "equal" and len(set(widths.values())) > 1:
        found = ", ".join(f"{model} {width}" for model, width in widths.items())
        # A width that is given here, such as that of FedGen's generator, is not of features.
        pools = getattr(scenario.strategy.value, "width", "none") is None
        cure = "say strategy.width=N to project them, or use" if pools else "use"
        raise SettingError(
            f"strategy={name} compares features and needs equal widths, but they are {found};"
            f" {cure} one architecture"
        )


def check_codecs(scenario: Scenario, context: ClientContext) -> None:
    """Raise SettingError where a codec makes no sense for the arrays that travel."""
    if context.codecs is None or context.kind is None:
        return
    arrays = example_arrays(context)
    for codec in (context.codecs.up, context.codecs.down):
        objection = codec.objection(arrays)
        if objection is not None:
            raise SettingError(
                f"codec={scenario.codec.name} cannot code what strategy={scenario.strategy.name}"
                f" sends ({', '.join(arrays)}): {objection}; use another codec, or codec=full"
            )


def check_privacy(scenario: Scenario, context: ClientContext) -> None:
    """Raise SettingError where a mechanism's settings, or the models, do not fit the run."""
    mechanism, plan = context.enforcer.mechanism, context.enforcer.plan
    try:
        mechanism.check(plan)
    except SettingError as error:
        raise SettingError(f"privacy={scenario.privacy.name}: {error}") from error
    if scenario.train.warm_up_epochs and context.enforcer.joins_training:
        raise SettingError(
            f"train.warm_up_epochs={scenario.train.warm_up_epochs} trains on private data before"
            f" the first round, which privacy={scenario.privacy.name} does not count; leave it out"
        )
    if context.precision == "bf16" and context.enforcer.joins_training:
        raise SettingError(
            f"precision=bf16: privacy={scenario.privacy.name} clips gradients of single samples in"
            " 32 bits; use precision=fp32"
        )
    if scenario.train.clip_grad_norm is not None and context.enforcer.joins_training:
        raise SettingError(
            f"train.clip_grad_norm={scenario.train.clip_grad_norm:g} would do nothing:"
            f" privacy={scenario.privacy.name} clips each sample's gradient to privacy.clip_norm;"
            " leave it out"
        )
    if not overrides(mechanism, "check_model"):
        return
    for architecture in {a.name: a for a in context.architectures}.values():
        few = architecture.example(3, torch.Generator().manual_seed(0))
        model = architecture.build(0)
        logits = partial(context.task.logits, model)
        mechanism.check_model(architecture.name, model, few, logits)
