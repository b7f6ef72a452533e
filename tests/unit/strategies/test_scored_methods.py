"""RHFL, Fed-DFA and FedAUX: what clients send beside predictions, and what it does to teachers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from views import View

from fedkd.errors import RunError, SettingError
from fedkd.federation.accounting import Accounting
from fedkd.federation.batched_clients import trains_plainly
from fedkd.knowledge import PublicPredictions, Request
from fedkd.messages import Cohort, Predictions
from fedkd.privacy.enforcement import PrivacyEnforcer
from fedkd.privacy.mechanisms import DpSgd, Gaussian
from fedkd.privacy.release_plan import ReleasePlan
from fedkd.privacy.vouching import planned_claims
from fedkd.settings.conditions import RunConditions
from fedkd.strategies.fccl import OldSelves
from fedkd.strategies.fed_dfa import FedDFA, StepsToBoundary, near_boundaries
from fedkd.strategies.fedaux import (
    FedAUX,
    LooksLikeOwn,
    bounded_features,
    own_against_negatives,
    weights_sensitivity,
)
from fedkd.strategies.rhfl import RHFL, PrivateLosses, others_by_progress


def cohort_of(values: Tensor, scores: Tensor | None, scale: Any = "logits") -> Cohort:
    return Cohort(
        round=1,
        client_ids=tuple(range(len(values))),
        public_ids=torch.arange(values.shape[1]),
        values=values,
        scale=scale,
        scores=scores,
    )


STREAM = torch.Generator().manual_seed(0)
LOGITS = torch.randn(3, 4, 5, generator=STREAM)


# RHFL.


def test_confidence_weights_are_those_of_a_loop_and_sum_to_one_in_round_one():
    losses = torch.tensor([[2.0, 1.0], [1.0, 0.9], [1.0, 1.5]])  # the last one rose
    q = [1.0, 0.1 / 0.9, 0.0]
    for confidence in (0.0, 0.5, 3.0):
        found = others_by_progress(losses, confidence)
        for i in range(3):
            raw = [0.0 if j == i else math.exp(confidence * q[j] / sum(q)) for j in range(3)]
            expected = torch.tensor([value / sum(raw) for value in raw])
            torch.testing.assert_close(found[i], expected)
    uniform = RHFL().fuse(cohort_of(LOGITS.softmax(-1), None, "probs"), None).weights
    torch.testing.assert_close(uniform, (1 - torch.eye(3)) / 2)


def test_a_client_reports_its_loss_before_and_after_training():
    logits, labels = torch.randn(5, 3, generator=STREAM), torch.tensor([0, 1, 2, 1, 0])
    view, scorer = View(own_logits=torch.zeros(5, 3), own_labels=labels), PrivateLosses()
    remembered = scorer.remember(view, "before training")  # type: ignore[arg-type]
    assert remembered is not None
    view.memory, view.own_logits = dict(remembered), logits
    kind = PublicPredictions("probs", scorer=scorer)
    assert (kind.remembers, kind.uploads_scores) == (True, True)
    found = scorer.scores(view)  # type: ignore[arg-type]
    after = nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(found, torch.stack([torch.tensor(math.log(3)), after]))


# Fed-DFA.


def test_steps_to_the_boundary_are_counted_by_hand_on_a_linear_model():
    """Logits (x, -x): a sample at x > 0 changes once steps of 0.1 took it below 0."""
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    inputs = torch.tensor([[0.05], [0.15], [0.25], [5.0], [-0.15]])
    scorer = StepsToBoundary(steps=3, step=0.1, radius=0.25)
    found = scorer.scores(View(inputs=inputs, model=model))  # type: ignore[arg-type]
    # 0.25 is as far as the radius goes, where the two classes tie and the first one stays.
    assert found.tolist() == [1.0, 2.0, 4.0, 4.0, 2.0]


def test_samples_beyond_the_median_steps_weigh_beta():
    steps = torch.tensor([[1.0, 2.0, 3.0, 6.0], [1.0, 4.0, 3.0, 6.0], [1.0, 3.0, 3.0, 6.0]])
    fusion = FedDFA(beta=0.25).fuse(cohort_of(LOGITS, steps), None)
    assert fusion.sample_weights is not None
    assert fusion.sample_weights.tolist() == [1.0, 1.0, 1.0, 0.25]
    torch.testing.assert_close(fusion.teachers, LOGITS.mean(dim=0))
    assert near_boundaries(torch.zeros(0), 0.1).shape == (0,)


def test_sample_weights_travel_with_the_rows_that_are_taught():
    kind = FedDFA().knowledge
    assert isinstance(kind, PublicPredictions)
    fusion = FedDFA().fuse(cohort_of(LOGITS, torch.tensor([[1.0, 1, 6, 6]] * 3)), None)
    request = Request(
        round=1,
        classes=5,
        public_ids=torch.arange(4),
        temperature=1.0,
        train_sizes=dict.fromkeys(range(3), 5),
    )
    kind.check_fusion(fusion, (0, 1, 2), request, "logits")
    teacher = kind.teachers(fusion, (0, 1, 2), request, "logits").of(0)
    assert isinstance(teacher, Predictions)
    back = kind.decode(kind.encode(teacher))
    assert back.weights is not None
    torch.testing.assert_close(back.weights, torch.tensor([1.0, 1.0, 0.1, 0.1]))
    wrong = FedDFA().fuse(cohort_of(LOGITS, torch.tensor([[1.0, 1, 6]] * 3)), None)
    with pytest.raises(RunError, match=r"sample_weights \[3\], expected \[4\]"):
        kind.check_fusion(wrong, (0, 1, 2), request, "logits")
    with pytest.raises(RunError, match="weighs_samples=True"):
        PublicPredictions("logits").check_fusion(fusion, (0, 1, 2), request, "logits")
    assert not trains_plainly(kind)
    assert trains_plainly(PublicPredictions("logits"))


def test_what_is_remembered_of_training_stays_until_it_is_replaced():
    kind = PublicPredictions(
        "probs", scorer=PrivateLosses(), term=OldSelves(previous=1, pretrained=1)
    )
    view: Any = View(own_logits=torch.zeros(5, 3), own_labels=torch.tensor([0, 1, 2, 1, 0]))
    for moment in ("before training", "after training", "before training"):
        view.memory = dict(kind.remember(view, moment) or {})
    assert set(view.memory) == {"loss", "previous", "pretrained"}


def test_regressions_that_are_not_solved_are_no_scores():
    own = torch.eye(2).double()
    with pytest.raises(RunError, match="not solved"):
        own_against_negatives(own * torch.nan, own, records=2, penalty=1.0)
    hard = torch.tensor([[1.0, 0.0], [1.0, 1e-9]]).double()
    for penalty in (1e-6, 1e-3, 1.0, 1e3):
        own_against_negatives(hard, -hard, records=2, penalty=penalty)


# FedAUX.


def test_scores_weigh_clients_sample_by_sample():
    scores = torch.rand(3, 4, generator=STREAM) + 0.1
    fusion = FedAUX().fuse(cohort_of(LOGITS, scores), None)
    for x in range(4):
        total = sum(scores[j, x].item() for j in range(3))
        expected = sum(scores[j, x] * LOGITS[j, x] for j in range(3)) / total
        torch.testing.assert_close(fusion.teachers[x], expected)


def test_one_record_moves_the_weights_by_less_than_the_bound_and_nearly_reaches_it():
    """A record at one end of the unit ball for one at the other end, among few."""
    own, negatives = torch.zeros(3, 2).double(), torch.zeros(4, 2).double()
    one, other = own.clone(), own.clone()
    one[0], other[0] = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])
    moved = {}
    for penalty in (0.01, 1.0, 100.0):
        found = [
            own_against_negatives(rows, negatives, records=3, penalty=penalty)
            for rows in (one, other)
        ]
        moved[penalty] = (found[0] - found[1]).norm().item() / weights_sensitivity(3, penalty)
        assert moved[penalty] <= 1
    # Slope 1/2 at 0, where a strong penalty holds the weights: half of the bound.
    assert moved[100.0] == pytest.approx(0.5, abs=0.01)


def test_features_are_bounded_each_by_itself():
    inputs = torch.randn(6, 1, 4, 4, generator=STREAM) * 100
    features = bounded_features(inputs, 32)
    assert (features.norm(dim=1) <= 1 + 1e-12).all()
    torch.testing.assert_close(bounded_features(inputs[2:3], 32), features[2:3])


def test_own_samples_score_higher_and_the_noise_is_the_same_in_all_rounds():
    own, far = torch.rand(30, 1, 4, 4, generator=STREAM), -torch.rand(30, 1, 4, 4, generator=STREAM)
    public = torch.cat([own[:5], far])
    view: Any = View(own_inputs=own, public=public[5:], inputs=public[:10])
    plain = LooksLikeOwn(penalty=0.01, noise_multiplier=None, width=64).scores(view)
    assert plain[:5].min() > plain[5:].max()
    noisy = LooksLikeOwn(penalty=0.01, noise_multiplier=1.0, width=64)
    first = noisy.scores(view)
    view.round = 2
    assert torch.equal(noisy.scores(view), first)
    assert not torch.allclose(first, plain)
    view.client_id = 1
    assert not torch.allclose(noisy.scores(view), first)


PLAN = ReleasePlan(
    clients=2, rounds=3, rows=4, public_size=8, classes=3, scale="logits", records=50
)


def test_noise_on_scores_is_one_side_release_in_the_ledger_however_many_rounds():
    scorer = LooksLikeOwn(penalty=0.01, noise_multiplier=4.0, width=8)
    enforcer = PrivacyEnforcer(
        name="dp_sgd",
        mechanism=DpSgd(noise_multiplier=1.0),
        plan=PLAN,
        seed=0,
        side_release=scorer.side_release,
    )
    alone = PrivacyEnforcer(name="dp_sgd", mechanism=DpSgd(noise_multiplier=1.0), plan=PLAN, seed=0)
    spent = []
    for found in (enforcer, alone):
        accounting = Accounting(found)
        for _ in range(3):
            accounting.record_reply(0, None, rows=4, train_size=50)
        entries = accounting.state()["entries"]
        side = [e for e in entries if e["layer"] == "side_release"]  # type: ignore[attr-defined]
        assert [e["times"] for e in side] == ([1] if found is enforcer else [])
        spent.append(accounting.epsilons()[0])
    assert spent[0] > spent[1]  # type: ignore[operator]
    plans = {0: PLAN, 1: ReleasePlan(**{**vars(PLAN), "side_release": scorer.side_release(50)})}
    claims = [
        planned_claims(DpSgd(noise_multiplier=1.0), plan)[0].epsilon for plan in plans.values()
    ]
    assert claims[1] > claims[0]  # type: ignore[operator]


def test_only_scores_with_noise_leave_a_claim_and_none_for_whole_clients():
    plain, noisy = FedAUX().knowledge, FedAUX(noise_multiplier=2.0).knowledge
    assert not plain.reveals_model_only
    assert noisy.reveals_model_only
    assert not RHFL().knowledge.reveals_model_only
    assert FedDFA().knowledge.reveals_model_only
    assert FedDFA().knowledge.vouches is StepsToBoundary
    with pytest.raises(SettingError, match="no whole client"):
        Gaussian(sigma=1.0, clip_norm=1.0).check(ReleasePlan(**{**vars(PLAN), "scores": True}))


def test_negatives_are_asked_about_by_nobody():
    asked = FedAUX().select_queries(1, torch.arange(12), None)
    assert not set(asked.tolist()) & set(np.arange(60)[::5].tolist())
    assert len(asked) == 9


@pytest.mark.parametrize(
    ("strategy", "settings", "message"),
    [
        (FedDFA, {"beta": 1.0}, "beta must be <= 0.999"),
        (FedDFA, {"step": 0.2}, "radius must be >= 0.2"),
        (RHFL, {"confidence": -1.0}, "confidence must be >= 0"),
        (FedAUX, {"penalty": 0.0}, "penalty must be > 0"),
        (FedAUX, {"noise_multiplier": 0.0}, "noise_multiplier must be > 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(strategy: Any, settings: Any, message: str):
    with pytest.raises(SettingError, match=message):
        strategy(**settings)


@pytest.mark.parametrize(
    ("strategy", "conditions", "message"),
    [
        (FedDFA(), {"fitted_models": ("sklearn:GaussianNB",)}, "gradients of models"),
        (FedDFA(), {"components": {"heads": "dual"}}, "leave heads out"),
        (FedDFA(), {"data_kind": "labeled texts"}, "tokens, which are no numbers"),
        (FedDFA(), {"loss": "cross_correlation"}, "of a batch together"),
        (RHFL(), {"has_classes": False}, "texts have none"),
        (FedAUX(), {"public_size": 5}, "say public.size=10"),
        (FedAUX(), {"data_kind": "labeled texts"}, "tokens, which are no numbers"),
    ],
)
def test_runs_that_cannot_be_are_refused(strategy: Any, conditions: Any, message: str):
    assert message in strategy.knowledge.conflict(RunConditions(**conditions))
    assert strategy.knowledge.conflict(RunConditions()) is None
