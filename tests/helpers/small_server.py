"""A server without a run: three clients, eight public samples, four classes."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from fedkd.federation.aggregation import Aggregator
from fedkd.federation.participation import Participation
from fedkd.federation.protocol import Protocol
from fedkd.federation.public_sampling import PublicSampler
from fedkd.federation.replies import Reply
from fedkd.federation.round import federated_round, finish
from fedkd.federation.round_records import RoundRecord
from fedkd.federation.server import Server
from fedkd.knowledge import Request
from fedkd.messages import ClientCard, Predictions, PrivacyEvent, Upload
from fedkd.strategies.fedmd import FedMD
from fedkd.strategy import declaration

UNPROTECTED = PrivacyEvent(mechanism="none", claims=False, reason="raw")


def small_server(
    strategy: Any = None,
    protocol: Mapping[str, Any] | None = None,
    enforcer: Any = None,
    clients: int = 3,
    **changes: Any,
) -> Server:
    """Return a server whose clients are registered."""
    strategy = strategy or FedMD()
    aggregator = Aggregator(
        strategy, declaration(strategy, "test"), PublicSampler(8), enforcer=enforcer
    )
    template = Request(
        round=0, classes=4, public_ids=torch.arange(8), temperature=1.0, train_sizes={}
    )
    participation = Participation(Protocol(**(protocol or {})), clients, seed=0)
    server = Server(aggregator, participation, template, **changes)
    server.register([card(i) for i in range(clients)])
    return server


def card(client_id: int, architecture: str = "mlp", train_size: int = 10) -> ClientCard:
    return ClientCard(
        client_id=client_id, architecture=architecture, parameters=1, train_size=train_size
    )


def logits(client_id: int, round_number: int = 1) -> torch.Tensor:
    stream = torch.Generator().manual_seed(100 * round_number + client_id)
    return torch.randn(8, 4, generator=stream)


def upload(client_id: int, round_number: int = 1, **changes: Any) -> Upload:
    """Return an honest upload, or one with changes."""
    values = logits(client_id, round_number)
    knowledge = Predictions(ids=torch.arange(8), values=values, scale="logits")
    honest = Upload(
        client_id=client_id,
        round=round_number,
        metrics={},
        privacy=UNPROTECTED,
        knowledge=knowledge,
    )
    return replace(honest, **changes)


def reply(client_id: int, round_number: int = 1, **changes: Any) -> Reply:
    return Reply(client_id=client_id, upload=upload(client_id, round_number, **changes))


def lost(client_id: int) -> Reply:
    return Reply(client_id=client_id, upload=None, error="lost")


def play(server: Server, replies: Iterable[Reply], round_number: int = 1) -> RoundRecord:
    """Run a round in which clients reply so, and then learn from their teachers."""
    steps = federated_round(server, round_number)
    next(steps)
    last = steps.send(replies)
    learned = [
        Reply(client_id=i, upload=Upload(client_id=i, round=round_number, metrics={})) for i in last
    ]
    return finish(steps, learned)
