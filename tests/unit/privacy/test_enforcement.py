"""The enforcer puts a mechanism to work without a run: uploads, the worst case, claims."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from own_mechanisms import Declared, Heir, Idle, NoNoise, SameServer, Silent, Trainer

from fedkd.messages import Predictions
from fedkd.privacy.enforcement import PrivacyEnforcer
from fedkd.privacy.events import GaussianRows, NoClaim
from fedkd.privacy.ledger import Ledger, Spending
from fedkd.privacy.mechanisms import CentralGaussian, DpSgd, Gaussian, Mechanism, Swing
from fedkd.privacy.release_plan import ReleasePlan
from fedkd.privacy.vouching import basis_of, protected_from, vouched
from fedkd.settings.conditions import RunConditions

PLAN = ReleasePlan(
    clients=4, rounds=3, rows=5, public_size=5, classes=3, scale="probs", records=20, batch_size=8
)


def enforcer(mechanism: Mechanism, **changes: Any) -> PrivacyEnforcer:
    return PrivacyEnforcer(name="own", mechanism=mechanism, plan=PLAN, seed=0, **changes)


def rows() -> Predictions:
    values = torch.tensor([[0.7, 0.2, 0.1]] * 5)
    return Predictions(ids=torch.arange(5), values=values, scale="probs")


def spendings(event: Any) -> list[Spending]:
    return [Spending.from_dict(json.loads(text)) for text in event.spent]


def test_without_a_mechanism_rows_leave_as_they_are_and_nothing_is_claimed() -> None:
    off = PrivacyEnforcer(seed=0)
    knowledge, event, memory = off.protect(rows(), off.client_round(0, 1, 20, {}))
    assert torch.equal(knowledge.values, rows().values)
    assert (event.mechanism, event.claims, memory) == ("none", False, {})
    assert isinstance(spendings(event)[0].event, NoClaim)
    assert (off.central, off.joins_training, off.worst_case_spending(5, 20)) == (None, False, ())


def test_noise_at_the_client_states_all_rows_that_ever_left() -> None:
    works = enforcer(Gaussian(sigma=2.0))
    _, first, memory = works.protect(rows(), works.client_round(0, 1, 20, {}))
    _, second, _ = works.protect(rows(), works.client_round(0, 2, 20, memory))
    assert [s.event.split()[1] for s in (*spendings(first), *spendings(second))] == [5, 10]
    assert first.claims


def test_memoized_rows_are_told_again_and_cost_nothing_more() -> None:
    works = enforcer(Gaussian(sigma=2.0, memoize=True))
    one, first, memory = works.protect(rows(), works.client_round(0, 1, 20, {}))
    other, second, _ = works.protect(rows(), works.client_round(0, 2, 20, memory))
    assert torch.equal(one.values, other.values)
    assert first.spent == second.spent


def test_where_no_answer_came_all_that_was_asked_for_counts_up_to_the_whole_run() -> None:
    ((spending, most),) = enforcer(Gaussian(sigma=2.0)).worst_case_spending(5, 20)
    assert (spending.event.split()[1], most) == (5, 15)
    ((spending, most),) = enforcer(DpSgd(noise_multiplier=1.0)).worst_case_spending(5, 20)
    assert (spending.event.split()[1], most) == (3, 9)
    assert enforcer(CentralGaussian(sigma=2.0)).worst_case_spending(5, 20) == ()
    assert enforcer(Swing()).worst_case_spending(5, 20) == ()


def test_a_declared_mechanism_that_gives_no_events_of_rows_spends_its_plan_at_worst() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Planned(Idle):
        def planned(self, plan: ReleasePlan) -> tuple[Spending, ...]:
            return self.spendings((GaussianRows(rows=7, sensitivity=1.0, sigma=1.0),))

    ((spending, most),) = enforcer(Planned()).worst_case_spending(5, 20)
    assert (spending.event.split()[1], most, spending.declared_by) == (7, 7, "Planned")


@pytest.mark.parametrize(
    ("mechanism", "basis"),
    [
        (Gaussian(sigma=1.0), "reviewed"),
        (Declared(), "declared"),
        (Silent(), "none"),
        (Heir(), "none"),
        (NoNoise(sigma=1.0), "none"),
        (SameServer(sigma=1.0), "none"),
        (Idle(), "none"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_the_exact_class_is_vouched_for_and_no_other(mechanism: Mechanism, basis: str) -> None:
    assert basis_of(mechanism) == basis
    assert bool(protected_from(mechanism)) == (basis != "none")
    spent = mechanism.spendings((GaussianRows(rows=1, sensitivity=1.0, sigma=1.0),))
    (found,) = vouched(mechanism, spent)
    assert isinstance(found.event, NoClaim) == (basis == "none")
    assert found.declared_by == ("Declared" if basis == "declared" else "")
    assert Spending.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_whose_word_a_claim_is_outlives_the_ledgers_state() -> None:
    ledger, restored = Ledger(), Ledger()
    event = GaussianRows(rows=1, sensitivity=1.0, sigma=1.0)
    for spending in vouched(Declared(), Declared().spendings((event,))):
        ledger.record(0, spending)
    restored.restore(json.loads(json.dumps(ledger.state())))
    claim = restored.claim("client", "server", 1e-5)
    assert claim.epsilon is not None
    assert claim.caveats == ("as Declared declares; not reviewed by fedkd",)


def test_a_mechanism_that_acts_in_training_keeps_its_clients_out_of_batches() -> None:
    acts = {type(m).__name__: enforcer(m).joins_training for m in (Trainer(), Silent(), Swing())}
    assert acts == {"Trainer": True, "Silent": False, "Swing": True}
    assert not enforcer(Swing(detector="everywhere")).joins_training


@pytest.mark.parametrize(
    ("mechanism", "changes", "said"),
    [
        (Gaussian(sigma=1.0), {"exchanges": False}, "would do nothing"),
        (Gaussian(sigma=1.0), {"label_counts": True}, "label counts"),
        (Gaussian(sigma=1.0), {"predicts": False}, "use dp_sgd"),
        (Gaussian(sigma=1.0), {"predicts": False, "has_companion": True}, "such as dsfl"),
        (Gaussian(sigma=1.0), {"predicts": False, "reveals_model_only": False}, "such as dsfl"),
        (Gaussian(sigma=1.0), {"selects_queries": True}, "changes from round to round"),
        (Gaussian(sigma=1.0), {"public_sampling": "disagreement"}, "leave public.sampling out"),
        (DpSgd(noise_multiplier=1.0), {"reveals_model_only": False}, "more than their model"),
        (DpSgd(noise_multiplier=1.0), {"pooled_data": True}, "of all clients"),
        (CentralGaussian(sigma=1.0), {"attackers_see_all": True}, "every raw upload"),
        (CentralGaussian(sigma=1.0), {"augmented_views": 2}, "raw predictions once more"),
        (Swing(detector="oracle"), {}, "needs to know the canaries"),
        (Swing(detector="pattern"), {}, "digits and addresses"),
    ],
    ids=str,
)
def test_each_mechanism_says_what_it_cannot_cover(
    mechanism: Mechanism, changes: dict[str, Any], said: str
) -> None:
    assert said in (mechanism.conflict(RunConditions(**changes)) or "")
    assert type(mechanism) is Swing or mechanism.conflict(RunConditions()) is None
