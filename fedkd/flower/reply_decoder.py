"""The one reader of what comes from clients: cards and uploads, each checked before it is believed.

Whatever a message holds, it is read or raises UploadRejected with a short reason. Not for: whether
knowledge is what was asked for (``fedkd.federation.acceptance``), nor what a privacy event costs
(``fedkd.federation.accounting``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedkd.errors import UploadRejected, one_line, printable
from fedkd.federation.round_records import check_figures
from fedkd.flower.wire_arrays import SHOWN, check_name, shown, unpack_arrays
from fedkd.messages import ClientCard, Packed, PrivacyEvent, Upload
from fedkd.settings.reply_limits import LIMITS

T = TypeVar("T")
Record = type[ArrayRecord] | type[ConfigRecord] | type[MetricRecord]

UPLOAD: Mapping[str, Record] = {
    "about": ConfigRecord,
    "metrics": MetricRecord,
    "privacy": ConfigRecord,
    "exposures": MetricRecord,
    "knowledge": ArrayRecord,
}
"""The records of an upload's content; the last three may be missing."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a reply must say of itself: who sends it, in which round, and whether it may share."""

    client_id: int
    round_number: int
    shares: bool = True
    """Whether knowledge was asked for."""


def read_upload(content: RecordDict, classes: int, expected: Expected | None = None) -> Upload:
    """Return the upload that a client's content is, its knowledge packed as it travelled.

    Args:
        content: What came.
        classes: C, the length of figures by class.
        expected: What it must say of itself; None accepts any.

    Raises:
        UploadRejected: It is no upload, or not this one.
    """
    return _rejecting(lambda: _upload(content, classes, expected))


def read_card(content: RecordDict, clients: int) -> ClientCard:
    """Return the card that a client's content is. Raises UploadRejected.

    ``clients`` is how many there are.
    """
    return _rejecting(lambda: _card(content, clients))


def read_sent(content: RecordDict) -> dict[str, np.ndarray]:
    """Return an upload's knowledge as it travelled, empty where there is none.

    Raises UploadRejected where it cannot be read.
    """
    found = content.get("knowledge")
    return _rejecting(lambda: unpack_arrays(found) if isinstance(found, ArrayRecord) else {})


def _rejecting(read: Callable[[], T]) -> T:
    """Return what ``read`` returns; whatever it raises otherwise is a rejected upload."""
    try:
        return read()
    except UploadRejected:
        raise
    except Exception as error:  # nothing that a client sends may end the run
        raise UploadRejected(f"the message cannot be read: {one_line(error)}") from error


def _upload(content: RecordDict, classes: int, expected: Expected | None) -> Upload:
    records = _records(content, UPLOAD, {"about", "metrics"})
    about = _fields(records["about"], {"client_id": int, "round": int, "declined": str})
    _check_expected(about, records, expected)
    metrics = {name: _figure(name, value) for name, value in _figures(records["metrics"])}
    check_figures(metrics, classes)
    exposures = {
        name: tuple(map(float, _list(name, value)))
        for name, value in _figures(records.get("exposures", {}))
    }
    knowledge = records.get("knowledge")
    return Upload(
        client_id=about["client_id"],
        round=about["round"],
        metrics=metrics,
        privacy=_event(records["privacy"]) if "privacy" in records else None,
        knowledge=None if knowledge is None else Packed(unpack_arrays(knowledge)),
        declined=printable(about["declined"]),
        exposures=exposures,
    )


def _check_expected(
    about: Mapping[str, Any], records: Mapping[str, Any], expected: Expected | None
) -> None:
    """Raise UploadRejected where an upload is another client's, or was not asked for."""
    if expected is None:
        return
    if about["client_id"] != expected.client_id:
        raise UploadRejected(f"signed as client {about['client_id']}")
    if about["round"] != expected.round_number:
        raise UploadRejected(
            f"this is round {expected.round_number}, the upload is of round {about['round']}"
        )
    if "knowledge" in records and not expected.shares:
        raise UploadRejected("knowledge came where none was asked for")


def _event(record: Mapping[str, Any]) -> PrivacyEvent:
    event = _fields(record, {"mechanism": str, "claims": bool, "reason": str, "spent": list})
    spent: list[Any] = event["spent"]
    if len(spent) > LIMITS.spendings:
        raise UploadRejected(f"{len(spent)} spendings came, at most {LIMITS.spendings} are read")
    if not all(isinstance(text, str) for text in spent):
        raise UploadRejected("a spending is no text")
    return PrivacyEvent(
        mechanism=printable(event["mechanism"]),
        claims=event["claims"],
        reason=printable(event["reason"]),
        spent=tuple(spent),
    )


def _card(content: RecordDict, clients: int) -> ClientCard:
    records = _records(content, {"card": ConfigRecord}, {"card"})
    expected = {"client_id": int, "architecture": str, "parameters": int, "train_size": int}
    counted = {"label_counts": list} if "label_counts" in records["card"] else {}
    card = _fields(records["card"], {**expected, **counted})
    if not 0 <= card["client_id"] < clients:
        raise UploadRejected(f"client_id must be 0 to {clients - 1}, got {card['client_id']}")
    check_name(card["architecture"])
    counts = card.get("label_counts", [])
    for name, count in (
        ("parameters", card["parameters"]),
        ("train_size", card["train_size"]),
        *(("a label count", count) for count in counts),
    ):
        if _whole(name, count) < 0:
            raise UploadRejected(f"{name} must be >= 0, got {count}")
    return ClientCard(
        **{name: card[name] for name in expected},
        label_counts=tuple(counts) if counted else None,
    )


def _records(content: RecordDict, known: Mapping[str, Record], needed: set[str]) -> dict[str, Any]:
    """Return a content's records by name. Raises UploadRejected for one too many or too few."""
    records = dict(content)
    missing, unknown = needed - set(records), set(records) - set(known)
    if missing or unknown:
        what = f"{', '.join(sorted(missing))} missing" if missing else ""
        also = f"{', '.join(map(shown, sorted(unknown)[:3]))} unexpected" if unknown else ""
        raise UploadRejected(f"the message has {' and '.join(filter(None, (what, also)))}")
    for name, record in records.items():
        if not isinstance(record, known[name]):
            raise UploadRejected(f"{name} is a {type(record).__name__}")
    return records


def _fields(record: Mapping[str, Any], expected: Mapping[str, type]) -> dict[str, Any]:
    """Return a record's fields. Raises UploadRejected unless they are exactly those expected."""
    found = dict(record)
    if set(found) != set(expected):
        raise UploadRejected(
            f"expected the fields {', '.join(expected)}, got"
            f" {', '.join(map(shown, sorted(found)[:8])) or 'none'}"
        )
    for name, kind in expected.items():
        if type(found[name]) is not kind:
            came = shown(str(found[name])[:SHOWN])
            raise UploadRejected(
                f"{name} must be of type {kind.__name__}, got {came} of type"
                f" {type(found[name]).__name__}"
            )
        if kind is int:
            _whole(name, found[name])
    return found


def _whole(name: str, value: object) -> int:
    if type(value) is not int or abs(value) > LIMITS.whole_number:
        raise UploadRejected(f"{name} must be a whole number of a usual size")
    return value


def _figures(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the figures of a record. Raises UploadRejected for too many, or odd names."""
    if len(record) > LIMITS.figures:
        raise UploadRejected(f"{len(record)} figures came, at most {LIMITS.figures} are read")
    for name in record:
        check_name(name)
    return list(record.items())


def _figure(name: str, value: Any) -> float | tuple[float, ...]:
    return tuple(map(float, _list(name, value))) if isinstance(value, list) else float(value)


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise UploadRejected(f"{name} is a number, expected a list of them")
    if len(value) > LIMITS.figure_values:
        raise UploadRejected(
            f"{name} has {len(value)} values, at most {LIMITS.figure_values} are read"
        )
    return value
