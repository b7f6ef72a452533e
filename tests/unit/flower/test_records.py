"""Messages as Flower records and back, through Flower's own wire format: what goes in comes out."""

import pickle

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import UploadRejected
from fedkd.flower import records, wire_arrays
from fedkd.flower.reply_decoder import read_card, read_upload
from fedkd.knowledge import KINDS
from fedkd.messages import ClientCard, Download, Predictions, PrivacyEvent, Upload


def knowledge(rows: int, scale: str = "logits") -> Predictions:
    values = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))
    values = values if scale == "logits" else values.softmax(-1)
    return Predictions(ids=torch.arange(rows) * 2, values=values, scale=scale)  # type: ignore[arg-type]


def over_the_wire(content: RecordDict) -> RecordDict:
    """Pass content through Flower's serialization, as its engines on other machines do."""
    objects = {key: value.deflate() for key, value in get_all_nested_objects(content).items()}
    inflated = inflate_object_from_contents(content.object_id, objects)
    assert isinstance(inflated, RecordDict)
    return inflated


@given(
    rows=st.integers(1, 9),
    scale=st.sampled_from(["logits", "probs"]),
    metrics=st.dictionaries(
        st.text("abé/ ", min_size=1, max_size=5), st.floats(-1e100, 1e100), max_size=3
    ),
)
def test_an_upload_is_a_round_trip(rows: int, scale: str, metrics: dict[str, float]) -> None:
    event = PrivacyEvent(mechanism="none", claims=False, reason="raw")
    sent = Upload(
        client_id=3, round=7, metrics=metrics, privacy=event, knowledge=knowledge(rows, scale)
    )
    came = read_upload(over_the_wire(records.upload_content(sent, KINDS[scale])), 3)
    assert (came.client_id, came.round, came.metrics, came.privacy) == (3, 7, metrics, event)
    found = KINDS[scale].decode(came.knowledge.arrays)
    assert sent.knowledge is not None
    assert found.scale == scale
    assert torch.equal(found.values, sent.knowledge.values)
    assert torch.equal(found.ids, sent.knowledge.ids)


def test_a_reason_to_decline_that_is_no_text_is_refused() -> None:
    content = records.upload_content(Upload(client_id=0, round=1, metrics={}), None)
    content["about"]["declined"] = 1.0
    with pytest.raises(UploadRejected, match="declined must be of type str"):
        read_upload(content, 3)


def test_an_upload_without_knowledge_is_a_round_trip() -> None:
    sent = Upload(
        client_id=0,
        round=1,
        metrics={"seconds": 0.5},
        declined="its budget is spent",
        exposures={"peers": (1.5, 0.25)},
    )
    assert read_upload(over_the_wire(records.upload_content(sent, None)), 3) == sent


@given(
    rows=st.integers(1, 9),
    scale=st.sampled_from(["logits", "probs"]),
    has_teacher=st.booleans(),
    start_over=st.booleans(),
)
def test_a_download_is_a_round_trip(
    rows: int, scale: str, has_teacher: bool, start_over: bool
) -> None:
    teacher = knowledge(rows, scale) if has_teacher else None
    sent = Download(
        round=2,
        steps=("distill", "train", "share"),
        public_ids=torch.arange(rows),
        teacher=teacher,
        start_over=start_over,
    )
    encoded = None if teacher is None else wire_arrays.pack_arrays(KINDS[scale].encode(teacher))
    content = records.download_content(
        ConfigRecord({"text": "x"}),
        records.task_record(sent),
        encoded,
        records.request_record(sent),
    )
    came = records.read_download(over_the_wire(content), KINDS[scale])
    assert (came.round, came.steps, came.start_over) == (2, sent.steps, start_over)
    assert came.public_ids is not None
    assert torch.equal(came.public_ids, torch.arange(rows))
    assert (came.teacher is None) == (teacher is None)
    if came.teacher is not None and teacher is not None:
        assert torch.equal(came.teacher.values, teacher.values)
        assert came.teacher.scale == scale


@pytest.mark.parametrize("counts", [None, (3, 0, 4)])
def test_a_card_is_a_round_trip(counts: tuple[int, ...] | None) -> None:
    card = ClientCard(
        client_id=1, architecture="mlp", parameters=9, train_size=7, label_counts=counts
    )
    assert read_card(over_the_wire(records.card_content(card)), 4) == card


def test_the_bytes_counted_are_those_of_the_encoded_arrays() -> None:
    """Five rows of three float32 values and an int32 id."""
    upload = Upload(client_id=0, round=1, metrics={"a": 1.0}, knowledge=knowledge(5))
    assert (
        records.upload_size(records.upload_content(upload, KINDS["logits"])).bytes
        == 5 * 3 * 4 + 5 * 4
    )


def test_reading_does_not_write_into_a_record() -> None:
    record = wire_arrays.pack_arrays(KINDS["logits"].encode(knowledge(4)))
    before = {name: bytes(array.data) for name, array in record.items()}
    content = RecordDict({"teacher": record})
    decoded = wire_arrays.unpack_arrays(content.array_records["teacher"])
    decoded["logits"] = decoded["logits"] * 0
    assert {name: bytes(array.data) for name, array in record.items()} == before


def test_arrays_that_cannot_be_read_are_a_rejected_upload() -> None:
    for dtype, shape, stype, data in (
        ("float32", (3,), wire_arrays.RAW, b"too few"),
        ("float32", (3,), wire_arrays.RAW, b"8 bytes."),
        ("float99", (2,), wire_arrays.RAW, b"8 bytes."),
        ("float32", (2,), "numpy.ndarray", b"8 bytes."),
    ):
        with pytest.raises(UploadRejected):
            wire_arrays.unpack_arrays(
                ArrayRecord({"logits": Array(dtype=dtype, shape=shape, stype=stype, data=data)})
            )


ARRAYS = st.tuples(
    st.sampled_from(["float32", "float16", "int32", "uint8", "bool", "float64"]),
    st.sampled_from([(), (0,), (3,), (2, 5), (4, 3, 2)]),
)


@given(arrays=st.lists(ARRAYS, max_size=4), transposed=st.booleans())
def test_arrays_weigh_and_read_the_same_encoded_or_not(
    arrays: list[tuple[str, tuple[int, ...]]], transposed: bool
) -> None:
    stream = np.random.default_rng(0)
    named = {
        f"array {i}": (100 * stream.standard_normal(shape)).astype(dtype)
        for i, (dtype, shape) in enumerate(arrays)
    }
    if transposed:
        named = {name: array.T for name, array in named.items()}
    record = wire_arrays.pack_arrays(named)
    encoded = ArrayRecord({name: array.encoded() for name, array in record.items()})
    wired = pickle.loads(pickle.dumps(record))
    sent = over_the_wire(RecordDict({"a": record})).array_records["a"]
    assert not any(isinstance(array, wire_arrays.UnencodedArray) for array in wired.values())
    for other in (encoded, wired, sent):
        assert wire_arrays.record_size(other) == wire_arrays.record_size(record)
        came = wire_arrays.unpack_arrays(other)
        assert set(came) == set(named)
        for name, array in named.items():
            assert came[name].dtype == array.dtype
            np.testing.assert_array_equal(came[name], array)
    for name, array in wire_arrays.unpack_arrays(record).items():
        np.testing.assert_array_equal(array, named[name])
        assert not array.flags.writeable


def test_in_process_an_array_is_passed_on_and_no_byte_of_it_is_copied() -> None:
    values = np.arange(6, dtype=np.float32)
    record = wire_arrays.pack_arrays({"values": values})
    assert np.shares_memory(wire_arrays.unpack_arrays(record)["values"], values)
    assert wire_arrays.record_size(record).bytes == 24
    assert "data" not in vars(record["values"])
