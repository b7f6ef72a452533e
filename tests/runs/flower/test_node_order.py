"""A run's strategy on a grid whose node ids are in any order."""

import threading

from tiny import scenario

from fedkd.experiment.build import build
from fedkd.flower.client_app import make_client_app
from fedkd.flower.engine_grid import message_identity
from fedkd.flower.engine_run import ClientPool
from fedkd.flower.local_grid import LocalGrid
from fedkd.flower.strategy_adapter import FederatedDistillation


def test_the_strategy_does_not_need_to_know_the_nodes_order() -> None:
    """Flower's engines give random node ids in any order: the result is that of the ordered
    ones."""
    found = []
    for reorder in (False, True):
        stop = threading.Event()
        experiment = build(scenario(), stop)
        records: list[str | None] = []
        strategy = FederatedDistillation(
            experiment.server, "", lambda r, out=records: out.append(r.knowledge_sha256)
        )
        with message_identity():
            pool = ClientPool(make_client_app(lambda _, e=experiment: e.context))
            local = LocalGrid(pool, 4, 1, stop, lambda _: None)
            if reorder:
                contexts = local._contexts
                local._contexts = {n * 7919 % 101: contexts[n] for n in reversed(list(contexts))}
            strategy.start(local)
        found.append(records)
    assert found[0] == found[1] != [None, None]
