"""Combinations of settings that cannot work, each refused with a word on why and on what to do
instead.

A setting's own range is checked by its class. Here stands what two choices mean for one another: a
strategy and the public set, the models, the codec, the privacy mechanism. ``build`` calls these
before any training.
"""

from functools import partial

import torch

from fedkd.data.division import Public
from fedkd.data.prepare import holds_texts
from fedkd.data.public import count_foreign
from fedkd.errors import SettingError
from fedkd.federation.client import example_arrays
from fedkd.federation.context import ClientContext
from fedkd.federation.protocol import check_order
from fedkd.privacy.mechanisms.mechanism import overrides
from fedkd.scenario.registry import GROUPS
from fedkd.scenario.scenario import Scenario
from fedkd.settings.conditions import Compatible, RunConditions
from fedkd.settings.schema import defaults, to_values
from fedkd.strategy import Declaration, MeanBased, Needs, SelectsQueries
from fedkd.tasks.text.text_task import Tokens
from fedkd.training.hyperparameters import DistillationSettings
from fedkd.training.losses import LOSSES, ON_LOGITS

CHECKED = ("data", "text_canaries", "heads", "attacks", "robust", "codec", "privacy", "audit")
"""The groups whose components are asked what they do not go with, in the order of their errors."""


def run_conditions(scenario: Scenario, declared: Declaration) -> RunConditions:
    """Return what the components of a scenario may ask of its run."""
    kind, needs, strategy = declared.kind, declared.needs, scenario.strategy.value
    texts = holds_texts(scenario.data.value)
    return RunConditions(
        strategy=scenario.strategy.name,
        components={group: getattr(scenario, group).name for group in GROUPS},
        clients=scenario.federation.clients,
        rounds=scenario.protocol.rounds,
        exchanges=kind is not None,
        learned_by=None if kind is None else kind.learned_by,
        predicts=kind is not None and kind.predicts,
        all_answer=kind is not None and kind.all_answer,
        selects_queries=isinstance(strategy, SelectsQueries),
        scale=None if kind is None else kind.upload_scale,
        teaches=declared.teaches,
        mean_based=isinstance(strategy, MeanBased),
        reveals_model_only=kind is not None and kind.reveals_model_only,
        adds_penalty=kind is not None and kind.adds_penalty,
        features=needs.features,
        pooled_data=needs.pooled_data,
        label_counts=needs.label_counts,
        data_kind="texts" if texts else "images",
        examples="windows" if texts else "samples",
        has_classes=not texts,
        has_secrets=scenario.text_canaries.name != "none",
        public_size=scenario.public.size,
        public_sampling=scenario.public.sampling,
        augmented_views=scenario.public.augmented_views,
        corruption=scenario.public.corruption,
        student_augmentation=scenario.distill.student_augmentation,
        attackers_see_all=scenario.attacks.value.sees_all_uploads,
        trusts_server=scenario.privacy.value.trusts_server,
    )


def check_components(
    scenario: Scenario, declared: Declaration, conditions: RunConditions, *, stores: bool
) -> None:
    """Raise SettingError where a component of a scenario does not go with the run.

    Args:
        scenario: The scenario.
        declared: What its strategy declares.
        conditions: ``run_conditions`` of both.
        stores: Whether the run has a folder. Without one nothing is stored, so that an audit only
            plants, as in the local-only baseline of an audited run.
    """
    groups = [group for group in CHECKED if group != "audit" or stores]
    asked = [getattr(scenario, group).value for group in groups]
    for component in [declared.kind, *asked]:
        if isinstance(component, Compatible):
            found = component.conflict(conditions)
            if found is not None:
                raise SettingError(found)


def check_needs(scenario: Scenario, declared: Declaration) -> None:
    """Raise where the scenario lacks what the strategy cannot do without, or has what would do
    nothing.
    """
    name, needs, public = scenario.strategy.name, declared.needs, scenario.public
    check_order(scenario.protocol, declared.kind)
    count_foreign(public, scenario.public_data.value)
    asked = max(1, round(scenario.protocol.participation * scenario.federation.clients))
    if scenario.protocol.min_clients > asked:
        raise SettingError(
            f"min_clients={scenario.protocol.min_clients}, but a round asks only {asked} clients"
            f" (participation={scenario.protocol.participation:g} of"
            f" clients={scenario.federation.clients})"
        )
    if needs.pooled_data and (scenario.protocol.participation < 1 or scenario.protocol.dropout > 0):
        raise SettingError(
            f"strategy={name} trains on the private sets of all clients: nobody is absent; leave"
            " participation and"
            " dropout out"
        )
    if needs.pooled_data and scenario.protocol.round_order == "distill_first":
        raise SettingError(
            f"round_order=distill_first: strategy={name} hands its model to the others at the end of a"
            " round, where this"
            " order has no message; leave round_order out"
        )
    texts = holds_texts(scenario.data.value)
    if public.per_round is not None and not texts:
        check_per_round(public, public.size)
    if needs.public_set and public.size == 0:
        raise SettingError(f"strategy={name} needs a public set; give public.size=N with N >= 1")
    every = declared.kind is not None and declared.kind.all_answer
    if (public.sampling != "random" or public.augmented_views > 1) and (
        not every or isinstance(scenario.strategy.value, SelectsQueries)
    ):
        what = (
            f"public.sampling={public.sampling}"
            if public.sampling != "random"
            else f"public.augmented_views={public.augmented_views}"
        )
        raise SettingError(
            f"{what} needs every client's predictions on every sample asked about, and"
            f" strategy={name} does not send"
            " them; leave it out"
        )
    if needs.public_labels and not public.labeled:
        raise SettingError(
            f"strategy={name} needs the labels of the public set; say public.labeled=true"
        )
    if scenario.train.public_epochs and not public.labeled:
        raise SettingError(
            "train.public_epochs needs the labels of the public set; say public.labeled=true"
        )
    if scenario.train.public_epochs and public.size == 0:
        raise SettingError("train.public_epochs needs a public set; give public.size=N with N >= 1")
    if public.labeled and not needs.public_labels and not scenario.train.public_epochs:
        raise SettingError(
            f"public.labeled=true would do nothing: strategy={name} does not use labels, and"
            " train.public_epochs=0"
        )


def check_data(scenario: Scenario, declared: Declaration) -> None:
    """Raise where settings are for data of another kind: text has no views or class tables, images
    no tokens.
    """
    data, name = scenario.data.name, scenario.strategy.name
    if not holds_texts(scenario.data.value):
        changed = [k for k, v in to_values(scenario.tokens).items() if v != defaults(Tokens)[k]]
        if changed:
            raise SettingError(f"tokens.{changed[0]} would do nothing: data={data} are images")
        if scenario.text_canaries.name != "none":
            raise SettingError(
                f"text_canaries={scenario.text_canaries.name} are secrets in texts, and data={data} are"
                " images"
            )
        return
    public = scenario.public
    for setting, given, why in (
        (
            "public_data",
            scenario.public_data.name != "same",
            "public text is of the texts held back",
        ),
        ("public.corruption", public.corruption is not None, "it is for images"),
        ("public.augmented_views", public.augmented_views > 1, "text cannot be moved"),
        (
            "distill.student_augmentation",
            scenario.distill.student_augmentation != "none",
            "text cannot be moved",
        ),
    ):
        if given:
            raise SettingError(f"{setting} does not go with data={data}: {why}; leave it out")
    if declared.needs.features is not None:
        raise SettingError(
            f"strategy={name} needs the features of models, which language models here do not give"
        )


def check_per_round(public: Public, samples: int) -> None:
    """Raise where a round would ask about more public samples than there are, or has no choice
    among them.
    """
    if public.per_round is None:
        return
    if public.per_round > samples:
        raise SettingError(
            f"public.per_round={public.per_round} is more than the public set has ({samples}"
            " samples)"
        )
    if public.sampling != "random" and public.per_round == samples:
        raise SettingError(
            f"public.sampling={public.sampling} would do nothing: all samples are asked about; give a"
            " smaller per_round"
        )


def check_models(name: str, needs: Needs, context: ClientContext) -> None:
    """Raise where the clients' models are not what the strategy can work with."""
    models = list(context.traits)
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
        raise SettingError(
            f"strategy={name} compares features and needs equal widths, but they are {found}; say"
            " strategy.width=N to"
            " project them, or use one architecture"
        )


def check_distillation(
    settings: DistillationSettings, declared: Declaration, name: str, loss: str
) -> None:
    """Raise where something is to be done to a teacher's rows, and there are none or they are not
    soft labels.
    """
    if settings.is_standard:
        return
    given = to_values(settings)
    usual = defaults(DistillationSettings)
    changed = [
        key
        for key in (
            "confidence_gate",
            "margin_weights",
            "relational_weight",
            "student_augmentation",
        )
        if given[key] != usual[key]
    ]
    if declared.kind is None or declared.kind.learned_by != "distill":
        raise SettingError(
            f"distill.{changed[0]}={given[changed[0]]} would do nothing: clients of"
            f" strategy={name} distill nothing"
        )
    if settings.confidence_gate and loss in ON_LOGITS:
        raise SettingError(
            f"distill.confidence_gate=true compares soft labels, and loss={loss} is of logits; use"
            " distill.loss=kl or another of"
            f" {', '.join(x for x in LOSSES if x not in ON_LOGITS)}"
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
    if not overrides(mechanism, "check_model"):
        return
    for architecture in {a.name: a for a in context.architectures}.values():
        few = architecture.example(3, torch.Generator().manual_seed(0))
        model = architecture.build(0)
        logits = partial(context.task.logits, model)
        mechanism.check_model(architecture.name, model, few, logits)
