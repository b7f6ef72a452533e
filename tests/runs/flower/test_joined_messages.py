"""One message at the turn of two rounds: the figures of a run with two messages a round, in fewer
messages."""

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from tiny import scenario

from fedkd.errors import RunError
from fedkd.experiment.build import build
from fedkd.federation.round_records import RoundRecord
from fedkd.flower import records
from fedkd.flower.client_app import make_client_app
from fedkd.flower.engine_grid import message_identity
from fedkd.flower.engine_run import ClientPool
from fedkd.flower.local_grid import LocalGrid
from fedkd.flower.strategy_adapter import FederatedDistillation


def run(joined: bool, **changes: Any) -> tuple[list[RoundRecord], Counter[str]]:
    """Return the records of a tiny run and how many messages of each kind its clients got."""
    stop, sent, found = threading.Event(), Counter[str](), list[RoundRecord]()
    chosen = scenario(rounds=3, **changes)
    experiment = build(chosen, stop)

    def find(message: Message) -> Any:
        sent[message.metadata.message_type] += 1
        return experiment.context

    strategy = FederatedDistillation(experiment.server, "", found.append, joined=joined)
    with message_identity():
        grid = LocalGrid(
            ClientPool(make_client_app(find)), chosen.federation.clients, 1, stop, lambda _: None
        )
        try:
            strategy.start(grid)
        finally:
            grid.shut_down()
    return found, sent


def figures(record: RoundRecord) -> str:
    """Return all figures of a round but its seconds, as text: NaN is equal to itself then."""
    clients = [replace(client, seconds=0.0) for client in record.clients]
    return repr([record.round, record.knowledge_sha256, clients, record.metrics])


@pytest.mark.fast(1)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strategy": "fedmd", "participation": 0.5, "dropout": 0.3, "min_clients": 0},
        {"strategy": "fedavg", "models": ["mlp"]},
        {"strategy": "scarlet", "public": {"size": 40, "per_round": 20}},
        {"strategy": "dsfl", "codec": {"name": "delta"}},
        {"strategy": "dsfl", "privacy": {"name": "dp_sgd", "epsilon": 4.0}},
        {"strategy": "cfd"},
    ],
    ids=lambda changes: str(changes.get("strategy", "knfu")),
)
def test_joined_messages_change_no_figure(changes: dict[str, Any]) -> None:
    apart, _ = run(False, **changes)
    together, _ = run(True, **changes)
    assert [figures(r) for r in together] == [figures(r) for r in apart]


@pytest.mark.slow
def test_a_round_takes_one_message_and_the_last_teacher_one_more() -> None:
    assert run(True)[1] == {"query.describe": 4, "train": 4 * 3, "evaluate": 4}
    assert run(False)[1] == {"query.describe": 4, "train": 4 * 3, "evaluate": 4 * 3}


@pytest.mark.slow
def test_where_training_comes_last_nothing_is_joined() -> None:
    apart, sent = run(False, round_order="distill_first")
    together, joined = run(True, round_order="distill_first")
    assert sent == joined
    assert [figures(r) for r in together] == [figures(r) for r in apart]


def test_a_client_that_fails_at_the_turn_has_failed_in_both_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger = tmp_path / "trigger"
    monkeypatch.setenv("FEDKD_TEST_TRIGGER", str(trigger))
    stop, found = threading.Event(), list[RoundRecord]()
    experiment = build(scenario(rounds=3, models=["toys:fragile"]), stop)
    seen = Counter[str]()

    def find(message: Message) -> Any:
        seen[message.metadata.message_type] += 1
        if seen["train"] == 5 and message.metadata.message_type == "train":
            trigger.write_text("raise")
        return experiment.context

    with message_identity():
        grid = LocalGrid(ClientPool(make_client_app(find)), 4, 1, stop, lambda _: None)
        FederatedDistillation(experiment.server, "", found.append, joined=True).start(grid)
        grid.shut_down()
    statuses = [[client.status for client in record.clients] for record in found]
    assert statuses == [["failed", "ok", "ok", "ok"], ["failed", "ok", "ok", "ok"], ["ok"] * 4]
    assert "as the test wants" in found[1].clients[0].reason


def test_too_few_clients_end_the_run_after_the_round_before_is_recorded() -> None:
    found: list[RoundRecord] = []
    stop = threading.Event()
    chosen = scenario(rounds=30, dropout=0.6, min_clients=2)
    experiment = build(chosen, stop)
    with message_identity():
        grid = LocalGrid(
            ClientPool(make_client_app(lambda _: experiment.context)), 4, 1, stop, lambda _: None
        )
        with pytest.raises(RunError, match=r"round (\d+): [01] of 4 clients answered") as raised:
            FederatedDistillation(experiment.server, "", found.append, joined=True).start(grid)
        grid.shut_down()
    assert f"round {len(found) + 1}:" in str(raised.value)


def test_a_reply_with_another_number_of_parts_is_rejected_in_both_rounds() -> None:
    stop, found = threading.Event(), list[RoundRecord]()
    experiment = build(scenario(rounds=2), stop)
    app = make_client_app(lambda _: experiment.context)

    def forgetful(message: Message, context: Any) -> Message:
        reply = app(message, context)
        parts = records.split(reply.content)
        return (
            Message(parts[-1], reply_to=message)
            if len(parts) == 2 and context.node_config["partition-id"] == 1
            else reply
        )

    with message_identity():
        grid = LocalGrid(ClientPool(forgetful), 4, 1, stop, lambda _: None)  # type: ignore[arg-type]
        FederatedDistillation(experiment.server, "", found.append, joined=True).start(grid)
        grid.shut_down()
    assert [record.clients[1].status for record in found] == ["rejected", "rejected"]
    assert [record.clients[0].status for record in found] == ["ok", "ok"]
    assert "1 parts came where 2 were asked for" in found[1].clients[1].reason


def test_contents_are_joined_and_split() -> None:
    shared, end, beginning = (
        ConfigRecord({"text": "x"}),
        ConfigRecord({"round": 1}),
        ConfigRecord({"round": 2}),
    )
    first, second = (
        RecordDict({"scenario": shared, "task": end}),
        RecordDict({"scenario": shared, "task": beginning}),
    )
    both = records.join(first, second)
    assert sorted(both) == ["end.task", "scenario", "task"]
    ended, begun = records.split(both)
    assert ended["task"]["round"] == 1
    assert begun["task"]["round"] == 2
    assert records.split(first) == (first,)
