"""Bits that differ by client: each side codes a client's messages by the client's own."""

from typing import Any

import pytest
import torch

from fedkd.audit.decoding import codec_of
from fedkd.codecs import Full, Quantized
from fedkd.errors import SettingError
from fedkd.federation.teacher_store import TeacherStore
from fedkd.knowledge import PublicPredictions, Teachers
from fedkd.messages import Predictions
from fedkd.settings.conditions import RunConditions

UNEQUAL = Quantized(bits=(8, 2, 8))


def test_a_client_has_its_own_bits_and_others_the_same_codec():
    assert [UNEQUAL.of_client(i).bits for i in range(3)] == [8, 2, 8]
    one = Quantized(bits=4)
    assert one.of_client(2) is one
    assert Full().of_client(1) == Full()


def test_a_common_teacher_is_coded_once_for_each_number_of_bits():
    kind = PublicPredictions("probs")
    probs = torch.softmax(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), 1)
    store = TeacherStore(kind, UNEQUAL, 3)
    store.store(Teachers(common=Predictions(ids=torch.arange(6), values=probs, scale="probs")))
    sent: list[Any] = [store.send(i) for i in range(3)]
    assert sent[0] is sent[2]
    assert sent[1].size.bytes < sent[0].size.bytes
    for i, most in ((0, 1 / 255), (1, 1 / 3)):
        arrays, _ = UNEQUAL.of_client(i).decode(sent[i].arrays, None)
        found = kind.decode(arrays)
        assert (found.values - probs).abs().max() < most + 1e-6


def test_an_audit_reads_each_client_by_its_bits():
    about: Any = {"codecs": {"upload": {"name": "quantized", "bits": [8, 2, 8]}}}
    assert codec_of(about, "upload", 1) == Quantized(bits=2)
    assert codec_of(about, "upload") == UNEQUAL


@pytest.mark.parametrize(
    ("bits", "reason"),
    [((8, 9), "bits must be <= 8"), ((), "names none"), ((4, 4), "say bits=4")],
)
def test_lists_that_mean_nothing_are_refused(bits: tuple[int, ...], reason: str):
    with pytest.raises(SettingError, match=reason):
        Quantized(bits=bits)


def test_a_list_is_as_long_as_there_are_clients():
    told = UNEQUAL.conflict(RunConditions(clients=4))
    assert told is not None
    assert "has 3 numbers, one for each client, and there are clients=4" in told
    assert UNEQUAL.conflict(RunConditions(clients=3)) is None
