"""One round: what goes out, what comes back, and what is recorded of it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_server import card, logits, lost, play, reply, small_server

from fedkd.codecs import Codecs, Delta, Full
from fedkd.errors import RunError
from fedkd.federation.replies import Reply
from fedkd.federation.round import federated_round, finish
from fedkd.fusion import mean_over_clients
from fedkd.messages import MessageSize, Packed, Upload


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_order_in_which_uploads_come_changes_no_bit(order: tuple[int, ...]) -> None:
    server = small_server()
    record = play(server, [reply(i) for i in order])
    assert server.teachers is not None
    expected = mean_over_clients(torch.stack([logits(i) for i in range(3)]))
    assert torch.equal(server.teachers.of(0).values, expected)
    assert [client.status for client in record.clients] == ["ok"] * 3


def test_a_client_that_never_answers_is_recorded_and_does_not_hold_up_the_others() -> None:
    server = small_server()
    record = play(server, [reply(2), reply(0)])
    assert server.teachers is not None
    assert torch.equal(
        server.teachers.of(1).values, mean_over_clients(torch.stack([logits(0), logits(2)]))
    )
    assert [c.status for c in record.clients] == ["ok", "failed", "ok"]
    assert record.clients[1].reason == "did not answer"


def test_a_round_sends_requests_first_and_teachers_last() -> None:
    server = small_server()
    steps = federated_round(server, 1)
    first = next(steps)
    begins = ("train", "evaluate_trained", "share")
    assert [download.steps for download in first.values()] == [begins] * 3
    last = steps.send([reply(i) for i in range(3)])
    ends = ("distill", "evaluate_distilled", "inspect")
    assert [download.steps for download in last.values()] == [ends] * 3
    packed = {download.teacher for download in last.values()}
    assert len(packed) == 1  # a common teacher is encoded once
    assert isinstance(packed.pop(), Packed)


def test_where_training_comes_last_the_teacher_goes_out_a_round_later() -> None:
    server = small_server(protocol={"round_order": "distill_first"})
    trained = ("train", "evaluate_trained", "inspect", "share")
    assert next(federated_round(server, 1))[0].steps == trained  # nobody has distilled yet
    play(server, [reply(i) for i in range(3)])
    downloads = next(federated_round(server, 2))
    assert downloads[0].steps == ("distill", "evaluate_distilled", *trained)
    assert downloads[0].teacher is not None


def test_bytes_are_counted_each_way_into_their_round() -> None:
    server = small_server()
    sized = [replace(reply(i), size=MessageSize(10 + i, 1.5)) for i in range(3)]
    record = play(server, sized)
    assert [client.bytes_up for client in record.clients] == [10, 11, 12]
    # 8 ids of 4 bytes each way, and the teacher's 8 x 4 float32
    assert [client.bytes_down for client in record.clients] == [8 * 4 + 8 * 4 + 8 * 4 * 4] * 3
    assert play(server, [reply(i, 2) for i in range(3)], 2).clients[0].bytes_up == 0


def test_accuracies_last_while_a_client_is_away_and_losses_do_not() -> None:
    server = small_server()
    measured = {"global_accuracy_after_training": 0.5, "train_loss": 2.0}
    play(server, [reply(0, metrics=measured), reply(1), reply(2)])
    record = play(server, [lost(0), reply(1, 2), reply(2, 2)], 2).clients[0]
    assert (record.status, record.train_loss) == ("failed", None)
    assert record.after_training.global_accuracy == 0.5
    assert record.after_distillation.global_accuracy is None


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"round": 7}, "rejected", "this is round 1, the upload is of round 7"),
        ({"privacy": None}, "rejected", "an upload needs knowledge and a privacy event"),
        ({"knowledge": None}, "rejected", "an upload needs knowledge and a privacy event"),
        ({"declined": "not today"}, "rejected", "a client that declines must send no knowledge"),
        ({"declined": "not today", "knowledge": None}, "absent", "not today"),
        (
            {"knowledge": Packed({"weights": logits(0).numpy()})},
            "rejected",
            "expected the arrays ids and logits, got weights",
        ),
    ],
)
def test_what_cannot_be_used_is_recorded_with_the_reason(
    changes: dict[str, Any], status: str, reason: str
) -> None:
    record = play(small_server(), [reply(0, **changes), reply(1), reply(2)])
    assert record.clients[0].status == status
    assert reason in record.clients[0].reason
    assert [client.status for client in record.clients[1:]] == ["ok", "ok"]


def test_knowledge_in_a_run_that_exchanges_none_is_rejected() -> None:
    class Nothing:
        knowledge = "nothing"

        def fuse(self, cohort: Any, state: Any) -> Any:
            raise AssertionError("there is nothing to fuse")

    server = small_server(Nothing())
    empty = Upload(client_id=1, round=1, metrics={})
    record = play(server, [reply(0), Reply(client_id=1, upload=empty), lost(2)])
    assert [c.status for c in record.clients] == ["rejected", "ok", "failed"]
    assert "in a run that exchanges none" in record.clients[0].reason
    assert torch.equal(record.weights, torch.eye(3))


def test_too_few_clients_end_the_run_and_say_why() -> None:
    server = small_server(protocol={"min_clients": 2})
    with pytest.raises(
        RunError, match=r"round 1: 1 of 3 clients answered, min_clients=2; client 1 failed: lost"
    ):
        play(server, [reply(0), lost(1), lost(2)])
    server = small_server(protocol={"min_clients": 1})
    steps = federated_round(server, 1)
    next(steps)
    last = steps.send([reply(i) for i in range(3)])
    with pytest.raises(RunError, match="0 of 3 clients answered"):
        finish(steps, [lost(i) for i in last])


def test_too_few_clients_that_are_present_end_the_run_before_anything_is_sent() -> None:
    server = small_server(protocol={"dropout": 0.99, "min_clients": 3})
    with pytest.raises(RunError, match=r"min_clients=3; \d dropped out"):
        next(federated_round(server, 1))


def test_a_round_without_a_usable_upload_leaves_the_last_teachers() -> None:
    server = small_server(protocol={"min_clients": 0})
    play(server, [reply(i) for i in range(3)])
    assert server.teachers is not None
    before = server.teachers.of(0)
    record = play(server, [lost(i) for i in range(3)], 2)
    assert server.teachers.of(0) is before
    assert record.knowledge_sha256 is None


def test_preparation_is_asked_for_until_a_client_has_answered() -> None:
    server = small_server(preparation=("pretrain", "warm_up"))
    play(server, [reply(0), reply(1), lost(2)])
    downloads = next(federated_round(server, 2))
    assert [d.steps[0] for d in downloads.values()] == ["train", "train", "pretrain"]
    assert downloads[2].steps[:3] == ("pretrain", "warm_up", "train")


def test_after_a_lost_reply_both_sides_of_a_delta_codec_start_over() -> None:
    server = small_server(codecs=Codecs(Delta(), Delta()))
    ids = torch.arange(8).int().numpy()
    coded = {
        i: Delta().encode({"ids": ids, "logits": logits(i).numpy()}, None)[0] for i in range(3)
    }
    play(server, [reply(i, knowledge=Packed(coded[i])) for i in range(3)])
    assert [d.start_over for d in next(federated_round(server, 2)).values()] == [False] * 3
    play(server, [lost(0), *(reply(i, 2, knowledge=Packed(coded[i])) for i in (1, 2))], 2)
    assert [d.start_over for d in next(federated_round(server, 3)).values()] == [True, False, False]


def test_a_restored_server_goes_on_as_the_first_one_would() -> None:
    one = small_server(protocol={"round_order": "distill_first"}, codecs=Codecs(Full(), Delta()))
    play(one, [reply(0, metrics={"global_accuracy_after_training": 0.25}), reply(1), lost(2)])
    again = small_server(protocol={"round_order": "distill_first"}, codecs=Codecs(Full(), Delta()))
    again.restore(one.state())
    assert again.recorder.records == one.recorder.records
    records = [play(server, [reply(i, 2) for i in range(3)], 2) for server in (one, again)]
    assert records[0].knowledge_sha256 == records[1].knowledge_sha256
    assert [replace(c, seconds=0) for c in records[0].clients] == [
        replace(c, seconds=0) for c in records[1].clients
    ]


def test_restoring_comes_before_the_cards_or_after_them() -> None:
    state_of = small_server()
    play(state_of, [reply(0, metrics={"global_accuracy_after_training": 0.25}), reply(1), reply(2)])
    later = small_server()
    later.restore(state_of.state())
    later.register([card(i) for i in range(3)])
    assert later.recorder.records[0].after_training.global_accuracy == 0.25


def test_two_clients_of_one_id_are_both_left_out_and_the_others_go_on() -> None:
    server = small_server()
    server.register([card(0), card(0), card(1), card(2)])
    assert server.participation.left_out == {
        0: "left out of the run: 2 nodes said that they are client 0"
    }
    record = play(server, [reply(1), reply(2)])
    assert [client.status for client in record.clients] == ["rejected", "ok", "ok"]
    assert record.clients[0].reason == server.participation.left_out[0]
    assert server.participation.clients == 3


def test_an_observer_sees_what_came_what_was_accepted_and_the_fusion() -> None:
    seen: list[Any] = []

    class Watching:
        def check(self, upload: Upload) -> None:
            seen.append(("checked", upload.client_id))

        def received(self, round_number: int, upload: Upload) -> None:
            seen.append(("received", upload.client_id))

        def accepted(self, round_number: int, client_id: int, knowledge: Any) -> None:
            seen.append(("accepted", client_id))

        def fused(self, round_number: int, fusion: Any, public_ids: Any) -> None:
            seen.append(("fused", round_number))

    server = small_server(observer=Watching())
    steps = federated_round(server, 1)
    next(steps)
    steps.send([reply(0), reply(1, privacy=None), lost(2)])
    assert seen == [
        ("checked", 0),
        ("received", 0),
        ("accepted", 0),
        ("checked", 1),
        ("received", 1),
        ("fused", 1),
    ]
