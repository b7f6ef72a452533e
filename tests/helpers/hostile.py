"""Replies as a hostile client could send them, on Flower's own serialization.

``spoil`` changes a few fields of an honest content, chosen by a generator of random numbers from
lists of values that code tends to trip over. ``spoiling`` makes a run's clients send them.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedkd.federation.round_records import RoundRecord
from fedkd.flower.engine_run import FIRST_CLIENT_NODE_ID
from fedkd.flower.local_grid import LocalGrid
from fedkd.flower.wire_arrays import RAW

DTYPES_READ = ("float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint16")
NAN, INF = float("nan"), float("inf")
TEXTS = [
    "", "x" * 5000, "\x1b[31mred\x1b[0m", "a\x00b", "\u202eleft", "=1+1", "a\r\nb", "float32,",
    "[/bold]", "{0}%s", "\U0001f600" * 300, "\x9b5n", "-1", "../../x", "\u2028",
]  # fmt: skip
WHOLE = [-1, 0, 1, 99, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]
FLOATS = [NAN, INF, -INF, -1.0, 0.5, 1.5, 1e308, -1e308, 5e-324, 1.0]
SCALARS = [*TEXTS, *WHOLE, *FLOATS, True, b"", b"\xff\x00"]
LISTS: list[Any] = [
    [],
    [1],
    [0.5, NAN],
    ["x"],
    [True],
    [b"x"],
    [1] * 5000,
    [1e308, 1e308],
    ["\x1b"],
]
DTYPES = [
    "float32,", "object", "O", "V8", "datetime64[s]", "f4", "<f4", "complex64", "str", "U10",
    "(2,)f4", "i4,f8", "bfloat16", "float128", "\x1b[31m", "", "float64", "int8", "bool", "uint64",
    "{'names':['a'],'formats':['f4']}",
]  # fmt: skip
SHAPES: list[tuple[int, ...]] = [
    (), (0,), (-1,), (2**62,), (0, 2**28), (2**28, 0, 2**28), (1,) * 65, (-1, -1), (2**63 - 1, 2),
    (3, 3), (1, 1, 1), (2**40, 0),
]  # fmt: skip
STATEMENTS = [
    "junk", "{}", "[]", "null", "0", "true", '"x"', "[" * 5000, '{"a":' * 2000, "9" * 5000, "NaN",
    "\x1b[31m", "x" * 50_000, "[[[[[[[]]]]]]]",
]  # fmt: skip
EVENTS: list[Any] = [
    {"kind": "gaussian", "rows": 2**53, "sensitivity": 1e-300, "sigma": 1e300},
    {"kind": "gaussian", "rows": 10**400, "sensitivity": 1.0, "sigma": 1.0},
    {"kind": "gaussian", "rows": -1, "sensitivity": 1.0, "sigma": 1.0},
    {"kind": "gaussian", "rows": 1.5, "sensitivity": "1", "sigma": None},
    {"kind": "laplace", "rows": 1, "sensitivity": 1e308, "scale": 1e-308},
    {"kind": "randomized_labels", "rows": 1, "classes": 2**80, "label_epsilon": 1e300},
    {"kind": "dp_sgd", "noise_multiplier": 1e6, "sample_rate": 0.5, "steps": 1},
    {"kind": "dp_sgd", "noise_multiplier": 1e-300, "sample_rate": 1e-300, "steps": 2**60},
    {"kind": "dp_sgd", "noise_multiplier": True, "sample_rate": [], "steps": {}},
    {"kind": "votes", "costs": [-1.0] * 161, "plain_mu": 0.0},
    {"kind": "no_claim", "reason": "\x1b[31m" + "x" * 9000},
    {"kind": ["gaussian"]}, {"kind": {}}, {}, [], None, "x",
]  # fmt: skip

OFTEN = {"knowledge": 5, "privacy": 3, "metrics": 2}
"""How often a record is changed, next to the others: where there is more to get wrong."""
Spoil = Callable[[RecordDict, random.Random], RecordDict]


def over_protobuf(content: RecordDict) -> RecordDict:
    """Pass content through Flower's protobuf messages."""
    wire = recorddict_to_proto(content).SerializeToString()
    return recorddict_from_proto(ProtoRecordDict.FromString(wire))


def over_the_wire(content: RecordDict) -> RecordDict:
    """Pass content through Flower's objects, as nodes on other machines send them."""
    objects = {key: value.deflate() for key, value in get_all_nested_objects(content).items()}
    inflated = inflate_object_from_contents(content.object_id, objects)
    assert isinstance(inflated, RecordDict)
    return inflated


def sent_over(content: RecordDict) -> RecordDict:
    """Pass content through protobuf, or through objects what protobuf cannot hold."""
    try:
        return over_protobuf(content)
    except ValueError:  # of a number that is too large for it
        return over_the_wire(content)


def copied(content: RecordDict) -> dict[str, Any]:
    """Return a content's records as dictionaries, which may be changed."""
    return {name: (type(record), dict(record)) for name, record in content.items()}


def rebuilt(records: dict[str, Any]) -> RecordDict:
    """Return changed records as a content that Flower sends; what it cannot hold is left out."""
    found = RecordDict()
    for name, (kind, fields) in records.items():
        record = kind()
        for field, value in fields.items():
            try:
                record[field] = value
            except (TypeError, ValueError, OverflowError):
                continue
        found[name] = record
    return found


def spoil(content: RecordDict, stream: random.Random) -> RecordDict:
    """Return a content of which one to three things are as no honest client sends them."""
    records = copied(content)
    for _ in range(stream.choice([1, 1, 2, 3])):
        if not records:
            break
        names = sorted(records)
        weights = [next((w for end, w in OFTEN.items() if n.endswith(end)), 1) for n in names]
        _spoil_record(records, stream.choices(names, weights)[0], stream)
    return rebuilt(records)


def spoil_surely(content: RecordDict, stream: random.Random) -> RecordDict:
    """Return a content that is spoiled so that no server may accept it."""
    spoiled = spoil(content, stream)
    if "about" in spoiled:
        del spoiled["about"]
    return spoiled


def _spoil_record(records: dict[str, Any], name: str, stream: random.Random) -> None:
    kind, fields = records[name]
    how = stream.random()
    if how < 0.06:
        del records[name]
    elif how < 0.12:
        records[stream.choice(["extra", "end.about", "end.metrics", "\x1b[31m", *TEXTS])] = (
            kind, dict(fields),
        )  # fmt: skip
    elif how < 0.18:
        records[name] = (stream.choice([ArrayRecord, ConfigRecord, MetricRecord]), {})
    elif how < 0.26 and fields:
        del fields[stream.choice(sorted(fields))]
    elif kind is ArrayRecord:
        _spoil_array(fields, stream)
    elif name.endswith("privacy") and how < 0.7:
        fields["spent"] = [_statement(fields.get("spent") or [], stream)]
    else:
        field = stream.choice(
            [*sorted(fields), stream.choice([*TEXTS, "personal_accuracy_after_training"])]
        )
        fields[field] = stream.choice([*SCALARS, *LISTS])


def _statement(honest: list[str], stream: random.Random) -> str:
    try:
        spending = json.loads(stream.choice(honest)) if honest else {}
    except (ValueError, TypeError, RecursionError):
        spending = {}
    how = stream.random()
    if how < 0.4 or not isinstance(spending, dict):
        return stream.choice(STATEMENTS)
    base = {"unit": "record", "layer": "upload", "seen_by": ["server"], **spending}
    if how < 0.7:
        base["event"] = stream.choice(EVENTS)
    else:
        base[stream.choice(sorted(base))] = stream.choice(
            [*TEXTS[:5], None, [], {}, [[1]], ["server"] * 9, 1, NAN, "teacher", "side_release"]
        )
    return json.dumps(base)


def _spoil_array(fields: dict[str, Any], stream: random.Random) -> None:
    name = stream.choice(sorted(fields)) if fields else "logits"
    old = fields.get(name) or Array("float32", (0,), RAW, b"")
    dtype, shape, stype, data = old.dtype, tuple(old.shape), old.stype, old.data
    how = stream.randrange(11)
    if how >= 7:
        data = _extreme(dtype, data, stream)
    elif how == 0:
        dtype = stream.choice(DTYPES)
    elif how == 1:
        shape = stream.choice(SHAPES)
    elif how == 2:
        stype = stream.choice(["numpy.ndarray", *TEXTS])
    elif how == 3:
        data = stream.choice([b"", data[:-1], data + b"\0", data * 2])
    elif how == 4:
        data = stream.randbytes(len(data))
    elif how == 5:
        data = stream.choice([b"\0", b"\xff", b"\x7f\x80", b"\0\0\xc0\x7f", b"\0\0\x80\x7f"]) * (
            len(data)
        )
        data = data[: len(old.data)]
    else:
        name = stream.choice([*TEXTS, "ids", "probs", "logits", "logits:shape", "codec:message"])
    fields[name] = Array(dtype=dtype, shape=shape, stype=stype, data=bytes(data))


def _extreme(dtype: str, data: bytes, stream: random.Random) -> bytes:
    """Return values of the same type and number that are rare, some of which may be accepted."""
    if dtype not in DTYPES_READ or len(data) % np.dtype(dtype).itemsize:
        return data
    values = np.frombuffer(data, dtype).copy()
    largest = np.finfo(dtype).max if values.dtype.kind == "f" else np.iinfo(dtype).max
    rare = [0, 1, -1, 1e6, -1e6, 1e-30, 1e-7, largest / 4, -largest / 4, NAN, INF, 0.25]
    value = stream.choice(rare)
    with np.errstate(all="ignore"):
        if stream.random() < 0.5 or not values.size:
            values[:] = np.array(value).astype(dtype)
        else:
            values[stream.randrange(values.size)] = np.array(value).astype(dtype)
    return values.tobytes()


def exchanged(record: RoundRecord, clients: Iterable[int]) -> list[Any]:
    """Return a round's figures of some clients, and what was taught."""
    chosen = [replace(record.clients[i], seconds=0.0) for i in clients]
    return [record.knowledge_sha256, *chosen]


@contextmanager
def spoiling(change: Callable[[int, Message], RecordDict | Error | None]) -> Iterator[None]:
    """Make the clients of the local engine reply through Flower's serialization, some changed.

    ``change`` gets a client and its reply; it returns another content or error, None for the reply
    as it is.
    """
    honest = LocalGrid.answers

    def answers(self: LocalGrid, messages: Iterable[Message]) -> Iterator[Message]:
        sent = list(messages)
        asked = {message.metadata.dst_node_id: message for message in sent}
        for reply in honest(self, sent):
            node = reply.metadata.src_node_id
            changed = change(node - FIRST_CLIENT_NODE_ID, reply)
            if changed is None and reply.has_error():
                yield reply
            elif isinstance(changed, Error):
                yield Message(changed, reply_to=asked[node])
            else:
                content = reply.content if changed is None else changed
                yield Message(sent_over(content), reply_to=asked[node])

    with patch.object(LocalGrid, "answers", answers):
        yield
