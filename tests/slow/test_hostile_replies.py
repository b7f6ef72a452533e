"""A thousand replies of hostile values, over strategies, codecs and mechanisms: every run goes on.

Most clients of each run are hostile. Each of their replies is spoiled anew, and passes through
Flower's own serialization.
"""

import random
import warnings
from typing import Any

import pytest
from flwr.app import Error, Message, RecordDict
from hostile import exchanged, spoil, spoiling
from tiny import records

from fedkd.errors import TEXT_LIMIT
from fedkd.federation.round_records import RoundRecord

CLIENTS, HONEST, ROUNDS = 12, range(3), 3
ONE_MODEL = {"models": ["mlp"]}
CASES: dict[str, dict[str, Any]] = {
    "knfu": {},
    "fedmd": {"privacy": {"name": "gaussian", "epsilon": 8.0, "clip_norm": 5.0}},
    "fedproto": ONE_MODEL,
    "fedavg": {**ONE_MODEL, "privacy": {"name": "dp_sgd", "noise_multiplier": 1.0}},
    "scarlet": {},
    "cfd": {},
    "dsfl": {"codec": {"name": "delta"}, "privacy": {"name": "krr", "epsilon": 800.0}},
    "fedcache": {},
    "feddf": ONE_MODEL,
}
SEEDS = range(3)


def is_hostile(client: int, reply: Message) -> bool:
    return client not in HONEST and not reply.metadata.message_type.startswith("query")


def spoiled_run(strategy: str, seed: int, changes: dict[str, Any]) -> list[RoundRecord]:
    stream, spoiled = random.Random(f"{strategy} {seed}"), 0

    def change(client: int, reply: Message) -> RecordDict | None:
        nonlocal spoiled
        if not is_hostile(client, reply) or reply.has_error():
            return None
        # Some seeds leave the second message of a round as it is, so that more is accepted.
        if seed % 2 and reply.metadata.message_type != "train":
            return None
        spoiled += 1
        return spoil(reply.content, stream)

    with spoiling(change), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = records(strategy=strategy, clients=CLIENTS, rounds=ROUNDS, **changes)
    assert spoiled >= ROUNDS * (CLIENTS - len(HONEST))
    return found


def failed_run(strategy: str, changes: dict[str, Any]) -> list[RoundRecord]:
    """Return the run in which all hostile clients fail in every message."""

    def change(client: int, reply: Message) -> Error | None:
        return Error(2, "it failed") if is_hostile(client, reply) else None

    with spoiling(change):
        return records(strategy=strategy, clients=CLIENTS, rounds=ROUNDS, **changes)


@pytest.mark.daily(4)
@pytest.mark.parametrize("strategy", CASES)
def test_hostile_replies_end_no_run_and_harm_nobody_else(strategy: str) -> None:
    changes = CASES[strategy]
    alone = failed_run(strategy, changes)
    for seed in SEEDS:
        found = spoiled_run(strategy, seed, changes)
        assert len(found) == ROUNDS
        for record, without in zip(found, alone, strict=True):
            for client in record.clients:
                assert client.reason.isprintable()
                assert len(client.reason) <= TEXT_LIMIT
                assert (client.status == "ok") or client.reason
            assert all(record.clients[i].status == "ok" for i in HONEST)
            accepted = [c for c in record.clients if c.client_id not in HONEST and c.status == "ok"]
            if accepted:
                break  # from here on, what the others learn depends on it
            if record.weights is not None and record.weights.nansum() > len(HONEST):
                break
            assert exchanged(record, HONEST) == exchanged(without, HONEST)
