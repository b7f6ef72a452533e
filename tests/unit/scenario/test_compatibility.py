"""What does not go together is refused before any training, by the part that knows why."""

from dataclasses import replace
from typing import Any

import pytest
from tiny import scenario

from fedkd.audit.audit_settings import NoAudit, Store
from fedkd.codecs import Full, StrategyDefault
from fedkd.data.division import Public
from fedkd.errors import SettingError
from fedkd.federation.protocol import Protocol
from fedkd.knowledge import ClassTables, ModelWeights, PublicPredictions
from fedkd.models.dual_head import DualHeadSettings
from fedkd.models.heads import OneHead
from fedkd.models.stage_heads import StageHeadsSettings
from fedkd.robustness.aggregators import Mean, Median
from fedkd.robustness.attacks.independent import LabelSwap, SignFlip
from fedkd.robustness.attacks.no_attack import NoAttack
from fedkd.scenario.compatibility import (
    check_participation,
    check_parts,
    check_per_round,
    check_scenario,
    run_conditions,
)
from fedkd.settings.conditions import RunConditions
from fedkd.strategy import Needs, declaration
from fedkd.tasks.images import ImageTask
from fedkd.tasks.text.secrets import NoCanaries, TextCanaries
from fedkd.tasks.text.text_task import TextTask
from fedkd.tasks.text.tokens_section import Tokens
from fedkd.training.hyperparameters import DistillationSettings, TrainingSettings

ORDINARY = RunConditions(components={"attacks": "none"})
LOCAL = replace(ORDINARY, exchanges=False, learned_by=None, predicts=False, all_answer=False)
WEIGHTS = replace(ORDINARY, learned_by="adopt", predicts=False, all_answer=False, mean_based=False)
TABLES = replace(WEIGHTS, learned_by="train", adds_penalty=True)
TEXTS = replace(
    ORDINARY, data_kind="texts", has_classes=False, takes_heads=False, audits_records=False
)
AUDITED = replace(ORDINARY, trusts_server=True)
SECRET = TextCanaries(prefix="pin ", slots="dd")


@pytest.mark.parametrize(
    "part",
    [
        *(PublicPredictions("logits"), ClassTables(weight=1.0), ModelWeights(), Needs()),
        *(SignFlip(), NoAttack(), Median(), Mean(), OneHead(), DualHeadSettings()),
        *(StageHeadsSettings(), Full(), StrategyDefault(), NoAudit(), Store(), NoCanaries()),
        *(Tokens(), Public(), TrainingSettings(), DistillationSettings(), ImageTask, TextTask),
    ],
    ids=lambda part: getattr(part, "__name__", type(part).__name__),
)
def test_an_ordinary_run_has_no_conflict(part: Any) -> None:
    assert part.conflict(ORDINARY) is None


@pytest.mark.parametrize("part", [NoAttack(), Mean(), OneHead(), NoAudit(), NoCanaries()])
def test_a_null_object_goes_with_every_run(part: Any) -> None:
    for conditions in (LOCAL, WEIGHTS, TABLES, TEXTS, AUDITED):
        assert part.conflict(conditions) is None


@pytest.mark.parametrize(
    ("part", "conditions", "reason"),
    [
        (ClassTables(weight=1.0), TEXTS, "images of a class have in common"),
        (SignFlip(), WEIGHTS, "poisons predictions on public samples"),
        (LabelSwap(), TEXTS, "it swaps classes"),
        (Median(), replace(ORDINARY, mean_based=False), "takes the place of a plain mean"),
        (Median(), WEIGHTS, "takes the place of a plain mean"),
        (StageHeadsSettings(), TABLES, "a term of its own"),
        (StageHeadsSettings(), TEXTS, "put on models of images"),
        (DualHeadSettings(), WEIGHTS, "nobody would teach the second head"),
        (DualHeadSettings(), LOCAL, "has no teachers"),
        (DualHeadSettings(), replace(ORDINARY, features="any"), "needs the features"),
        (Full(), LOCAL, "exchanges nothing"),
        (Store(), TEXTS, "audit does not go with"),
        (Store(), LOCAL, "would do nothing"),
        (Store(), replace(ORDINARY, pooled_data=True), "private sets of all clients"),
        (Store(), replace(ORDINARY, components={"attacks": "lie"}), "attacks=lie"),
        (Store(adversaries=("server",)), AUDITED, "audit the clients"),
        (SECRET, ORDINARY, "are secrets in texts"),
        (Tokens(context=8), ORDINARY, "tokens.context would do nothing"),
        (TextTask, replace(TEXTS, corruption="blur"), "public.corruption"),
        (TextTask, replace(TEXTS, augmented_views=2), "text cannot be moved"),
        (TextTask, replace(TEXTS, features="any"), "which language models here do not give"),
        (Needs(), replace(ORDINARY, public_size=0), "public.size=N"),
        (Needs(public_labels=True), ORDINARY, "public.labeled=true"),
        (Needs(pooled_data=True), replace(ORDINARY, has_absences=True), "nobody is absent"),
        (Public(augmented_views=2, size=4), WEIGHTS, "public.augmented_views=2 needs"),
        (
            Public(sampling="core_set", per_round=2, size=4),
            replace(ORDINARY, selects_queries=True),
            "public.sampling=core_set needs",
        ),
        (Public(labeled=True), ORDINARY, "public.labeled=true would do nothing"),
        (TrainingSettings(public_epochs=1), ORDINARY, "needs the labels"),
        (DistillationSettings(margin_weights=True), WEIGHTS, "distill.margin_weights=True would"),
        (
            DistillationSettings(confidence_gate=True),
            replace(ORDINARY, loss="mse"),
            "compares soft labels",
        ),
    ],
)
def test_a_part_says_what_it_does_not_go_with(
    part: Any, conditions: RunConditions, reason: str
) -> None:
    assert reason in (part.conflict(conditions) or "")


def test_a_baseline_stores_nothing_for_an_audit() -> None:
    assert Store().conflict(replace(LOCAL, is_stored=False)) is None


def test_conditions_say_what_the_scenario_chose() -> None:
    chosen = scenario(strategy="fedmd", attacks="lie", public={"augmented_views": 2})
    declared = declaration(chosen.strategy.value, "fedmd")
    found = run_conditions(chosen, declared, "mae", stores=True)
    assert found.strategy == "fedmd"
    assert found.loss == "mae"
    assert found.mean_based
    assert found.predicts
    assert found.all_answer
    assert found.scale == "logits"
    assert found.attackers_see_all
    assert found.is_chosen("attacks")
    assert not found.is_chosen("robust")
    assert (found.data_kind, found.examples, found.has_classes) == ("images", "samples", True)
    assert (found.public_size, found.augmented_views, found.trusts_server) == (40, 2, False)


def test_conditions_of_weights_and_of_nothing() -> None:
    for name, learned_by in (("fedavg", "adopt"), ("local_only", None), ("fd", "train")):
        chosen = scenario(strategy=name)
        found = run_conditions(chosen, declaration(chosen.strategy.value, name), "kl", stores=True)
        assert found.learned_by == learned_by
        assert not found.predicts
        assert not found.all_answer
        assert found.scale is None
        assert found.exchanges == (name != "local_only")
        assert found.reveals_model_only == (name == "fedavg")


def test_the_first_part_that_objects_is_quoted() -> None:
    chosen = scenario(strategy="fedavg", attacks="sign_flip", models=["mlp"])
    declared = declaration(chosen.strategy.value, "fedavg")
    with pytest.raises(SettingError, match="attacks=sign_flip poisons"):
        check_parts(chosen, declared, run_conditions(chosen, declared, "kl", stores=True))


def test_a_scenario_that_can_work_has_its_loss_named() -> None:
    chosen = scenario(strategy="fedmd")
    declared = declaration(chosen.strategy.value, "fedmd")
    assert check_scenario(chosen, declared, stores=True) == declared.loss


def test_a_round_asks_as_many_clients_as_must_answer() -> None:
    check_participation(Protocol(participation=0.5, min_clients=5), 10)
    with pytest.raises(SettingError, match="min_clients=6, but a round asks only 5"):
        check_participation(Protocol(participation=0.5, min_clients=6), 10)


def test_a_round_asks_about_samples_that_there_are() -> None:
    check_per_round(Public(size=4, per_round=4), 4)
    with pytest.raises(SettingError, match="per_round=5 is more"):
        check_per_round(Public(size=4, per_round=5), 4)
    with pytest.raises(SettingError, match="all samples are asked about"):
        check_per_round(Public(size=4, per_round=4, sampling="core_set"), 4)
