"""Whatever a client sends is read, or rejected with a short reason: the ways that once ended runs,
one by one, and replies made of hostile values."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hostile import over_the_wire, sent_over, spoil
from hypothesis import given, settings
from hypothesis import strategies as st
from small_server import logits, reply, small_server

from fedkd.codecs import Codecs, Full, Quantized
from fedkd.errors import RunError, UploadRejected, printable
from fedkd.federation.accounting import Accounting
from fedkd.federation.replies import Reply
from fedkd.flower import records
from fedkd.flower.reply_decoder import Expected, read_card, read_upload
from fedkd.flower.wire_arrays import RAW, UnencodedArray
from fedkd.knowledge import KINDS, Request
from fedkd.messages import ClientCard, Packed, Predictions, PrivacyEvent, Upload

CLASSES = 4
METRICS = {
    "seconds": 0.5,
    "personal_accuracy_after_training": 0.5,
    "global_nll_after_training": 1.0,
    "train_loss": 1.0,
    "label_leakage": 0.1,
    "teacher_by_class": (0.5,) * CLASSES,
}
REQUEST = Request(
    round=1,
    classes=CLASSES,
    public_ids=torch.arange(8),
    temperature=1.0,
    train_sizes={0: 10},
)
Change = Callable[[RecordDict], Any]


def honest() -> RecordDict:
    """Return an upload's content as an honest client 0 sends it in round 1."""
    event = PrivacyEvent(mechanism="none", claims=False, reason="raw")
    values = logits(0)
    knowledge = Predictions(ids=REQUEST.public_ids, values=values, scale="logits")
    upload = Upload(client_id=0, round=1, metrics=METRICS, privacy=event, knowledge=knowledge)
    return records.upload_content(upload, KINDS["logits"])


def received(content: RecordDict) -> Upload:
    """Take a content in as the server does, up to the check of its knowledge."""
    expected = Expected(client_id=0, round_number=1)
    upload = read_upload(over_the_wire(content), CLASSES, expected)
    Accounting(small_server().aggregator.enforcer).record_reply(0, upload, rows=8, train_size=10)
    server = small_server()
    assert server.reader is not None
    return server.reader.read(upload, REQUEST)


def array(**changes: Any) -> Change:
    """Return a change of the array of logits."""

    def change(content: RecordDict) -> None:
        fields = {"dtype": "float32", "shape": (8, 4), "stype": RAW, "data": b"\0" * 128, **changes}
        old = content["knowledge"]
        content["knowledge"] = ArrayRecord({"ids": old["ids"].encoded(), "logits": Array(**fields)})

    return change


def field(record: str, name: str, value: Any) -> Change:
    return lambda content: content[record].__setitem__(name, value)


def spent(*texts: str) -> Change:
    return field("privacy", "spent", list(texts))


def without(record: str, name: str) -> Change:
    return lambda content: content[record].__delitem__(name)


def replaced(record: str, value: Any) -> Change:
    def change(content: RecordDict) -> None:
        del content[record]
        content[record] = value

    return change


def ids_of_two_axes(content: RecordDict) -> None:
    old = content["knowledge"]
    ids = UnencodedArray(np.arange(8, dtype=np.int32).reshape(8, 1))
    content["knowledge"] = ArrayRecord({"ids": ids.encoded(), "logits": old["logits"].encoded()})


def one_spending(**changes: Any) -> str:
    event = {"kind": "no_claim", "reason": "raw"}
    whole = {"unit": "record", "layer": "upload", "seen_by": ["server"], "event": event}
    return json.dumps(whole | changes)


UPLOADS: dict[str, tuple[Change, str]] = {
    "a type string that NumPy evaluates": (array(dtype="float32,"), "of type 'float32,'"),
    "a type of objects": (array(dtype="object"), "of type 'object'"),
    "a type of records": (array(dtype="i4,f8"), "of type 'i4,f8'"),
    "a type with escape sequences": (array(dtype="\x1b[31m"), "unprintable"),
    "another encoding": (array(stype="numpy.ndarray"), "is encoded as 'numpy.ndarray'"),
    "a negative axis": (array(shape=(-1, 4)), "of 2 axes"),
    "an axis that is huge": (array(shape=(2**62, 0)), "values; at most"),
    "a hundred axes": (array(shape=(1,) * 100), "of 100 axes"),
    "too few bytes": (array(data=b"\0"), "has 1 bytes"),
    "a scalar of logits": (array(shape=(), data=b"\0" * 4), "of shape"),
    "ids of two axes": (ids_of_two_axes, "public ids"),
    "seconds that are a list": (field("metrics", "seconds", [1.0]), "seconds must be a number"),
    "negative seconds": (field("metrics", "seconds", -1.0), "seconds must be a time"),
    "seconds without end": (field("metrics", "seconds", float("inf")), "seconds must be a time"),
    "accuracies that are a list": (
        field("metrics", "personal_accuracy_after_training", [1.0]),
        "personal_accuracy_after_training must be a number"),
    "an accuracy of 5": (
        field("metrics", "personal_accuracy_after_training", 5.0), "must be from 0 to 1"),
    "a likelihood that is a list": (
        field("metrics", "global_nll_after_training", [1.0]),
        "global_nll_after_training must be a number"),
    "a loss that is a list": (field("metrics", "train_loss", [1.0]), "train_loss must be a number"),
    "a loss that overflows": (field("metrics", "train_loss", 1e308), "must be at most 1e+100"),
    "a leakage that is a list": (
        field("metrics", "label_leakage", [1.0]), "label_leakage must be a number"),
    "class accuracies that are a number": (
        field("metrics", "teacher_by_class", 1.0), "must be a number a class"),
    "too many class accuracies": (
        field("metrics", "teacher_by_class", [0.5] * 9), "must have 4 values, got 9"),
    "no class accuracies": (field("metrics", "teacher_by_class", []), "must have 4 values, got 0"),
    "a million figures": (
        lambda content: content["metrics"].update({f"m{i}": 0.0 for i in range(1001)}),
        "figures came"),
    "an event that is junk": (spent("junk"), "cannot be read: JSONDecodeError"),
    "an empty event": (spent("{}"), "cannot be read"),
    "an event that is a list": (spent("[]"), "expected an object, got list"),
    "an event that is null": (spent("null"), "expected an object, got NoneType"),
    "a deep event": (spent("[" * 9000), "nested deeper than"),
    "an event with a number of 5,000 digits": (spent("9" * 5000), "cannot be read"),
    "an event that is not a number": (
        spent(one_spending(event={"kind": "gaussian", "rows": 1, "sigma": float("nan")})),
        "NaN is no number"),
    "an event that takes hours to count": (
        spent(one_spending(event={
            "kind": "dp_sgd", "noise_multiplier": 1e6, "sample_rate": 0.5, "steps": 1,
            "group": 1})),
        "cannot spend"),
    "an event of noise that the run has not": (
        spent(one_spending(event={
            "kind": "gaussian", "rows": 1, "sensitivity": 1.0, "sigma": 1e9})),
        "cannot spend"),
    "a thousand events": (spent(*(["{}"] * 1000)), "1000 spendings came"),
    "an event of a megabyte": (spent(" " * 2**20), "characters, at most"),
    "no metrics": (lambda content: content.__delitem__("metrics"), "metrics missing"),
    "no fields": (replaced("about", ConfigRecord()), "expected the fields client_id"),
    "about as metrics": (replaced("about", MetricRecord()), "about is a MetricRecord"),
    "a record more": (
        lambda content: content.__setitem__("extra", ConfigRecord()), "'extra' unexpected"),
    "a field less": (without("privacy", "claims"), "expected the fields mechanism"),
    "a signature that is text": (field("about", "client_id", "0"), "client_id must be of type int"),
    "a signature that is true": (field("about", "client_id", False), "must be of type int"),
    "another's signature": (field("about", "client_id", 1), "signed as client 1"),
    "another round": (field("about", "round", 7), "this is round 1, the upload is of round 7"),
    "a round beyond all": (field("about", "round", 2**63 - 1), "whole number of a usual size"),
}  # fmt: skip


@pytest.mark.parametrize("name", UPLOADS)
def test_an_upload_that_no_honest_client_sends_is_rejected_with_the_reason(name: str) -> None:
    change, reason = UPLOADS[name]
    content = honest()
    change(content)
    with pytest.raises(UploadRejected) as rejected:
        received(content)
    said = printable(str(rejected.value))
    assert reason in said
    assert said.isprintable()


def test_the_honest_upload_of_those_cases_is_accepted() -> None:
    assert received(honest()).metrics == METRICS


CARD = {"client_id": 1, "architecture": "mlp", "parameters": 9, "train_size": 7}
CARDS: dict[str, tuple[dict[str, Any] | None, str]] = {
    "nothing": (None, "card missing"),
    "an id below 0": ({**CARD, "client_id": -1}, "client_id must be 0 to 3, got -1"),
    "an id beyond all": ({**CARD, "client_id": 99}, "client_id must be 0 to 3, got 99"),
    "an id that is text": ({**CARD, "client_id": "1"}, "client_id must be of type int"),
    "an id that is a float": ({**CARD, "client_id": 1.0}, "client_id must be of type int"),
    "an id that is true": ({**CARD, "client_id": True}, "client_id must be of type int"),
    "a field more": ({**CARD, "name": "x"}, "expected the fields client_id"),
    "a field less": ({"client_id": 1}, "expected the fields client_id"),
    "a model that is a number": ({**CARD, "architecture": 3}, "architecture must be of type str"),
    "a model of escape sequences": ({**CARD, "architecture": "\x1b[2J"}, "no printable text"),
    "a model of a megabyte": ({**CARD, "architecture": "x" * 2**20}, "no printable text"),
    "a negative size": ({**CARD, "train_size": -7}, "train_size must be >= 0"),
    "a size beyond all": ({**CARD, "train_size": 2**62}, "whole number of a usual size"),
    "label counts that are text": ({**CARD, "label_counts": ["x"]}, "whole number"),
    "negative label counts": ({**CARD, "label_counts": [-1]}, "must be >= 0"),
}


@pytest.mark.parametrize("name", CARDS)
def test_a_card_that_no_honest_client_sends_is_rejected_with_the_reason(name: str) -> None:
    card, reason = CARDS[name]
    content = RecordDict({} if card is None else {"card": ConfigRecord(card)})
    with pytest.raises(UploadRejected, match=reason):
        read_card(over_the_wire(content), clients=4)


def client_card(client_id: int, **changes: Any) -> ClientCard:
    return ClientCard(**{**CARD, "client_id": client_id, "train_size": 10, **changes})


@pytest.mark.parametrize(
    ("cards", "unusable", "reason"),
    [
        ([0, 0, 2], [], "2 nodes said that they are client 0"),
        ([0, 2], ["the message has card missing"], "nobody said to be client 1; instead: the mess"),
        ([0, client_card(1, architecture="cnn"), 2], [], "its model is a cnn, by the scenario a"),
        ([0, client_card(1, train_size=9), 2], [], "it trains on 9, by the scenario on 10"),
        ([0, client_card(1, label_counts=(5, 5)), 2], [], "it sent label counts unasked"),
    ],
)
def test_a_client_that_is_not_the_scenarios_is_left_out_and_the_others_take_part(
    cards: list[Any], unusable: list[str], reason: str
) -> None:
    server = small_server()
    named = dict.fromkeys(range(3), 10)
    server.template = replace(server.template, architectures=("mlp",) * 3, train_sizes=named)
    server.register([c if isinstance(c, ClientCard) else client_card(c) for c in cards], unusable)
    assert any(reason in why for why in server.participation.left_out.values())
    assert 2 not in server.participation.left_out
    assert set(server.select(1).participants) == {0, 1, 2} - set(server.participation.left_out)


def test_a_run_without_a_client_ends_with_the_reason() -> None:
    with pytest.raises(RunError, match=r"no client can take part; client 0 is left out .*: x"):
        small_server().register([], ["x"])


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_replies_of_hostile_values_are_read_or_rejected(seed: int) -> None:
    content = sent_over(spoil(honest(), random.Random(seed)))
    try:
        upload = read_upload(content, CLASSES, Expected(client_id=0, round_number=1))
        Accounting(small_server().aggregator.enforcer).record_reply(
            0, upload, rows=8, train_size=10
        )
    except UploadRejected as rejected:
        said = printable(str(rejected))
        assert said.isprintable()
        assert len(said) <= 500


def test_a_reply_whose_event_cannot_be_read_costs_what_a_lost_one_costs() -> None:
    server = small_server()
    junk = PrivacyEvent(mechanism="none", claims=False, reason="", spent=("junk",))
    steps = server.select(1)
    server.recorder.open(steps, server.first_downloads(steps))
    request = server.request(steps)
    upload = reply(0, privacy=junk).upload
    assert server.account(0, server.receive(Reply(client_id=0, upload=upload)), request) is None
    assert server.recorder.records[0].status == "rejected"
    assert server.recorder.records[0].reason.startswith("the privacy event cannot be read")


def test_an_array_of_objects_is_not_sent_at_all() -> None:
    with pytest.raises(TypeError, match="an array of object cannot be sent"):
        UnencodedArray(np.array([None, {}]))


def test_flags_are_zeros_and_ones() -> None:
    content = honest()
    content["knowledge"] = ArrayRecord({"x": Array("bool", (2,), RAW, b"\x01\x02")})
    with pytest.raises(UploadRejected, match="values other than 0 and 1"):
        read_upload(content, CLASSES)


def test_a_message_of_few_bytes_that_describes_a_huge_array_is_not_decoded() -> None:
    server = small_server(codecs=Codecs(Quantized(bits=1), Full()))
    parts = {
        "ids": np.arange(8, dtype=np.int32),
        "logits:shape": np.array([1, 2**28 - 1], np.uint32),
        "logits:labels": np.zeros(1, np.uint32),
        "logits:means": np.zeros(2, np.float32),
    }
    assert server.reader is not None
    upload = reply(0, knowledge=Packed(parts)).upload
    assert upload is not None
    with pytest.raises(UploadRejected, match=r"have 2.68e\+08 values, expected at most 32"):
        server.reader.read(upload, REQUEST)
