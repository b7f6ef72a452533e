"""Teachers: who shares one, who was sent it, and what a codec remembers of whom."""

import pytest
import torch

from fedkd.codecs import Delta, Quantized
from fedkd.federation.teacher_store import TeacherStore
from fedkd.knowledge import KINDS, Teachers
from fedkd.messages import Predictions


def teacher(seed: int) -> Predictions:
    values = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    return Predictions(ids=torch.arange(8), values=values, scale="probs")


def store(codec: object = None) -> TeacherStore:
    return TeacherStore(KINDS["probs"], codec, clients=4)  # type: ignore[arg-type]


def test_clients_that_share_a_teacher_are_sent_one_object() -> None:
    found, first, second = store(), teacher(0), teacher(1)
    found.store(Teachers(personal={0: first, 1: second, 2: first}))
    assert found.send(0) is found.send(2)
    assert found.send(0) is not found.send(1)
    assert found.send(3) is None
    found.store(Teachers(common=first))
    assert len({found.send(i) for i in range(4)}) == 1


def test_a_teacher_is_unsent_until_it_is_sent_and_again_once_it_may_be_lost() -> None:
    found = store()
    assert not found.is_unsent(0)
    found.store(Teachers(common=teacher(0)))
    assert found.is_unsent(0)
    assert found.of(0) is not None  # to look at it is not to send it
    assert found.is_unsent(0)
    found.send(0)
    assert not found.is_unsent(0)
    found.note_lost(0)
    assert found.is_unsent(0)


def test_clients_in_step_share_what_a_codec_sends_and_one_that_lost_it_starts_over() -> None:
    found, codec = store(Delta()), Delta()
    found.store(Teachers(common=teacher(0)))
    received = {i: codec.decode(found.send(i).arrays, None) for i in range(3)}  # type: ignore[union-attr]
    found.note_lost(2)
    found.store(Teachers(common=teacher(1)))
    sent = {i: found.send(i) for i in range(3)}
    assert sent[0] is sent[1] is not sent[2]
    for i, memory in ((0, received[0][1]), (1, received[1][1]), (2, None)):
        packed = sent[i]
        assert packed is not None
        arrays, _ = codec.decode(packed.arrays, memory)
        torch.testing.assert_close(
            torch.tensor(arrays["probs"]), teacher(1).values, atol=0.05, rtol=0
        )


@pytest.mark.parametrize("codec", [None, Delta(), Quantized(bits=8)])
def test_a_restored_store_sends_the_same_bytes(codec: object) -> None:
    found, again, shared = store(codec), store(codec), teacher(0)
    found.store(Teachers(personal={0: shared, 1: teacher(1), 2: shared}))
    for i in range(3):
        found.send(i)
    again.restore(found.state(teachers=True))
    one, two = ({i: held.send(i) for i in range(3)} for held in (found, again))
    assert (two[0] is two[2]) == (one[0] is one[2])
    for i in range(3):
        assert one[i].size == two[i].size  # type: ignore[union-attr]
        for name, array in one[i].arrays.items():  # type: ignore[union-attr]
            assert array.tobytes() == two[i].arrays[name].tobytes()  # type: ignore[union-attr]


def test_a_checkpoint_has_teachers_only_where_a_later_round_sends_them() -> None:
    found = store()
    found.store(Teachers(common=teacher(0)))
    again = store()
    again.restore(found.state(teachers=False))
    assert again.of(0) is None
