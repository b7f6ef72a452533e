"""The local engine is a Flower Grid, and Flower's own apps run on it."""

import threading
import time

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedkd.errors import Interrupted, SettingError
from fedkd.flower.engine_grid import message_identity
from fedkd.flower.engine_run import ClientPool
from fedkd.flower.local_grid import Local, LocalGrid


def grid(
    app: ClientApp, workers: int = 1, clients: int = 3, stop: threading.Event | None = None
) -> LocalGrid:
    return LocalGrid(ClientPool(app), clients, workers, stop or threading.Event(), lambda _: None)


def echo() -> ClientApp:
    app = ClientApp()

    @app.query("id")
    def _id(message: Message, context: Context) -> Message:
        from flwr.app import MetricRecord

        partition = int(context.node_config["partition-id"])
        if partition == 1 and "fail" in message.metadata.group_id:
            raise ValueError("client one fails")
        return Message(RecordDict({"m": MetricRecord({"id": partition})}), reply_to=message)

    return app


def asked(nodes: list[int], group: str = "1") -> list[Message]:
    return [
        Message(RecordDict(), dst_node_id=n, message_type="query.id", group_id=group) for n in nodes
    ]


def test_the_grid_implements_all_of_flowers_grid() -> None:
    assert issubclass(LocalGrid, Grid)
    assert not LocalGrid.__abstractmethods__


@pytest.mark.parametrize("workers", [1, 3])
def test_every_message_is_answered_by_its_node(workers: int) -> None:
    with message_identity():
        local = grid(echo(), workers)
        nodes = list(local.get_node_ids())
        replies = list(local.send_and_receive(asked(nodes)))
        local.shut_down()
    found = {r.metadata.src_node_id: r.content.metric_records["m"]["id"] for r in replies}
    assert found == {node: i for i, node in enumerate(nodes)}


def test_push_and_pull_give_each_reply_once() -> None:
    with message_identity():
        local = grid(echo())
        ids = list(local.push_messages(asked(list(local.get_node_ids()))))
        assert len(set(ids)) == 3
        assert len(list(local.pull_messages(ids[:1]))) == 1
        assert len(list(local.pull_messages(ids))) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_client_that_raises_is_an_error_reply_with_the_reason(workers: int) -> None:
    with message_identity():
        local = grid(echo(), workers)
        replies = list(local.send_and_receive(asked(list(local.get_node_ids()), "fail")))
        local.shut_down()
    (failed,) = [r for r in replies if r.has_error()]
    assert len(replies) == 3
    assert "ValueError: client one fails" in str(failed.error.reason)


def test_clients_whose_turn_has_not_come_do_not_keep_a_grid_from_ending() -> None:
    """Two are at work until a third reads their end; six more wait for their turn."""
    at_work, may_end = threading.Semaphore(0), threading.Event()
    app = ClientApp()

    @app.query("id")
    def _id(message: Message, context: Context) -> Message:
        at_work.release()
        may_end.wait(timeout=5)
        return Message(RecordDict(), reply_to=message)

    with message_identity():
        local = grid(app, workers=2, clients=8)
        replies = local.answers(asked(list(local.get_node_ids())))
        reader = threading.Thread(target=lambda: next(iter(replies), None), daemon=True)
        reader.start()
        assert all(at_work.acquire(timeout=5) for _ in range(2))
        threading.Timer(0.05, may_end.set).start()
        began = time.monotonic()
        local.shut_down()
        assert time.monotonic() - began < 3


def test_a_stopped_grid_answers_nothing() -> None:
    stop = threading.Event()
    stop.set()
    with message_identity():
        local = grid(echo(), stop=stop)
        with pytest.raises(Interrupted):
            list(local.send_and_receive(asked(list(local.get_node_ids()))))


def test_flowers_messages_need_an_identity_which_is_given_back() -> None:
    with message_identity():
        asked([2])
    with pytest.raises(RuntimeError, match="run_id"):
        asked([2])


def test_workers_are_at_least_one() -> None:
    assert Local(workers=3).threads == 3
    assert Local().threads >= 1
    with pytest.raises(SettingError, match="workers must be >= 1, got 0"):
        Local(workers=0)
