"""What enters the ledger: statements, worst cases, and nothing of a client that declined."""

import json
from typing import Any

import pytest
from small_server import UNPROTECTED, lost, play, reply, small_server, upload

from fedkd.federation.accounting import Accounting
from fedkd.messages import PrivacyEvent
from fedkd.privacy.enforcement import PrivacyEnforcer
from fedkd.privacy.mechanisms import Gaussian
from fedkd.privacy.release_plan import ReleasePlan

PLAN = ReleasePlan(
    clients=3, rounds=4, rows=8, public_size=8, classes=4, scale="logits", records=10
)


def protected() -> PrivacyEnforcer:
    mechanism = Gaussian(sigma=5.0, clip_norm=1.0)
    return PrivacyEnforcer(name="gaussian", mechanism=mechanism, plan=PLAN, seed=0)


def stated(enforcer: PrivacyEnforcer, rows: int) -> PrivacyEvent:
    """Return the event of a client that has released so many rows in all."""
    found = enforcer.worst_case_spending(rows, 10)
    return PrivacyEvent(
        mechanism="gaussian",
        claims=True,
        reason="",
        spent=tuple(json.dumps(spending.to_dict()) for spending, _ in found),
    )


@pytest.mark.parametrize(
    ("changes", "status", "spends"),
    [
        ({"metrics": {"silent": 1.0}}, "rejected", True),
        ({"declined": "not today"}, "rejected", True),
        ({"declined": "not today", "knowledge": None}, "absent", False),
        ({"metrics": {"silent": 1.0}, "knowledge": None}, "rejected", True),
    ],
)
def test_only_a_client_that_declines_and_sends_nothing_is_left_out_of_the_ledger(
    changes: dict[str, Any], status: str, spends: bool
) -> None:
    server = small_server(enforcer=protected())
    replies = [reply(0), reply(1), reply(2, privacy=None, **changes)]
    record = play(server, replies).clients[2]
    assert (record.status, bool(record.epsilon)) == (status, spends)


def test_a_lost_reply_spends_all_that_was_asked_for_and_a_statement_corrects_it() -> None:
    enforcer = protected()
    accounting, honest = Accounting(enforcer), Accounting(enforcer)
    accounting.record_reply(0, None, rows=8, train_size=10)
    honest.record_reply(0, upload(0, privacy=stated(enforcer, 8)), rows=8, train_size=10)
    assert accounting.epsilons()[0] == honest.epsilons()[0]
    for one in (accounting, honest):  # a statement is of all rounds so far
        one.record_reply(0, upload(0, privacy=stated(enforcer, 16)), rows=8, train_size=10)
    assert accounting.epsilons()[0] == honest.epsilons()[0]


def test_where_nobody_is_protected_there_is_no_epsilon_and_no_claim() -> None:
    accounting = Accounting(PrivacyEnforcer(seed=0))
    accounting.record_reply(0, upload(0, privacy=UNPROTECTED), rows=8, train_size=10)
    assert accounting.epsilons() == {}
    assert all(claim.epsilon is None for claim in accounting.claims())


def test_a_ledger_is_restored() -> None:
    enforcer = protected()
    one, again = Accounting(enforcer), Accounting(enforcer)
    one.record_reply(0, None, rows=8, train_size=10)
    again.restore(one.state())
    assert again.epsilons() == one.epsilons() != {}


def test_asking_for_claims_and_epsilons_writes_nothing() -> None:
    server = small_server(enforcer=protected())
    play(server, [reply(0), reply(1), lost(2)])
    before = server.state()
    server.accounting.claims()
    server.accounting.epsilons()
    server.recorder.failures()
    assert server.state() == before
