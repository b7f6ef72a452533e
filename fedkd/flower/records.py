"""fedkd's messages as Flower's records and back: pure functions, each pair a round trip.

A record holds arrays, numbers and text only, so that any of Flower's engines can carry it. Arrays
become bytes where a message leaves the process, and not before. No function writes into a record or
its arrays: in process, one record may be in many messages.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedkd.errors import UploadRejected
from fedkd.knowledge import KnowledgeType
from fedkd.messages import (
    ClientCard,
    Download,
    Knowledge,
    MessageSize,
    Packed,
    PrivacyEvent,
    Step,
    Upload,
)

_END = "end."
"""Before the names of records that belong to the end of a round, where a message also begins the
next."""

RAW = "fedkd.raw"
"""How arrays are encoded: their values alone, little endian, rows first; Flower's record holds
dtype and shape."""


class UnencodedArray(Array):
    """A NumPy array in a record, encoded only once its bytes are asked for.

    That is where a message leaves the process; elsewhere it arrives as Flower's own ``Array``.
    """

    def __init__(self, values: np.ndarray) -> None:
        """Take an array that nobody writes into from now on."""
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        self.values = np.ascontiguousarray(little).reshape(values.shape)
        self.values.flags.writeable = False
        self.dtype, self.shape, self.stype = values.dtype.name, values.shape, RAW

    @cached_property
    def data(self) -> bytes:  # type: ignore[override]
        """The values' bytes."""
        return self.values.tobytes()

    def encoded(self) -> Array:
        """Return it as Flower's array."""
        return Array(dtype=self.dtype, shape=self.shape, stype=self.stype, data=self.data)

    def deflate(self) -> bytes:
        """Return the bytes that Flower sends for it."""
        return self.encoded().deflate()

    def __reduce__(self) -> tuple[Any, ...]:
        return Array, (self.dtype, self.shape, self.stype, self.data)


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Return named arrays as one record."""
    record = ArrayRecord()
    for name, value in arrays.items():  # its constructor would encode them
        record[name] = UnencodedArray(value)
    return record


def unpack_arrays(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Return the named arrays of a record, read-only; UploadRejected where one cannot be read."""
    return {name: _unpack(name, array) for name, array in record.items()}


def _unpack(name: str, array: Array) -> np.ndarray:
    if isinstance(array, UnencodedArray):
        return array.values
    try:
        if array.stype != RAW:
            raise UploadRejected(f"array {name} is encoded as {array.stype}, expected {RAW}")
        return np.frombuffer(array.data, dtype=np.dtype(array.dtype).newbyteorder("<")).reshape(
            array.shape
        )
    except (ValueError, TypeError) as error:
        raise UploadRejected(f"array {name} cannot be read: {error}") from error


def record_size(record: ArrayRecord) -> MessageSize:
    """Return the size of the values of a record's arrays."""
    return MessageSize.of(
        {
            name: array.values
            if isinstance(array, UnencodedArray)
            else np.frombuffer(array.data, np.uint8)
            for name, array in record.items()
        }
    )


def upload_size(content: RecordDict) -> MessageSize:
    """Return the size of all arrays of an upload's content."""
    return sum(
        (record_size(record) for record in content.values() if isinstance(record, ArrayRecord)),
        MessageSize(),
    )


def download_content(
    download: Download,
    scenario: ConfigRecord,
    teacher: ArrayRecord | None,
    request: ArrayRecord | None,
) -> RecordDict:
    """Return a download's content.

    Args:
        download: The download.
        scenario: The record of the scenario's text, which messages share.
        teacher: The record of its teacher, which messages may share.
        request: The record of its public ids, which messages may share.
    """
    task = ConfigRecord(
        {
            "round": download.round,
            "steps": [str(step) for step in download.steps],
            "start_over": download.start_over,
        }
    )
    content = RecordDict({"scenario": scenario, "task": task})
    if teacher is not None:
        content["teacher"] = teacher
    if request is not None:
        content["request"] = request
    return content


def join(end: RecordDict, beginning: RecordDict) -> RecordDict:
    """Return one content of two: the end of a round, and the beginning of the next one."""
    shared = {
        name: record
        for name, record in end.items()
        if name in beginning and record is beginning[name]
    }
    ended = {f"{_END}{name}": record for name, record in end.items() if name not in shared}
    return RecordDict({**beginning, **ended})


def split(content: RecordDict) -> tuple[RecordDict, ...]:
    """Return the contents that ``join`` made one of, the end first; or a single one as it is."""
    ended = {
        name.removeprefix(_END): record for name, record in content.items() if name.startswith(_END)
    }
    if not ended:
        return (content,)
    return RecordDict(ended), RecordDict(
        {n: record for n, record in content.items() if not n.startswith(_END)}
    )


def request_record(download: Download) -> ArrayRecord | None:
    """Return the public ids asked for as the record that travels."""
    arrays = download.request_arrays()
    return pack_arrays(arrays) if arrays else None


def read_download(
    content: RecordDict, kind: KnowledgeType | None, *, packed: bool = False
) -> Download:
    """Return the download that ``download_content`` made.

    Its teacher is of the run's kind, or ``packed`` where a codec has to read it first.
    """
    task = content["task"]
    request, teacher = _arrays(content, "request"), _arrays(content, "teacher")
    return Download(
        round=cast(int, task["round"]),
        steps=tuple(cast("list[Step]", task["steps"])),
        public_ids=None
        if request is None
        else torch.tensor(unpack_arrays(request)["ids"]).to(torch.int64),
        teacher=None if teacher is None or kind is None else _knowledge(teacher, kind, packed),
        start_over=bool(task["start_over"]),
    )


def upload_content(upload: Upload, kind: KnowledgeType | None) -> RecordDict:
    """Return an upload's content, with knowledge of the run's kind."""
    content = RecordDict(
        {
            "about": ConfigRecord(
                {
                    "client_id": upload.client_id,
                    "round": upload.round,
                    "declined": upload.declined,
                }
            ),
            "metrics": MetricRecord(
                {name: _metric(value) for name, value in upload.metrics.items()}
            ),
        }
    )
    if upload.exposures:
        content["exposures"] = MetricRecord(
            {name: list(bits) for name, bits in upload.exposures.items()}
        )
    if upload.privacy is not None:
        event = upload.privacy
        content["privacy"] = ConfigRecord(
            {
                "mechanism": event.mechanism,
                "claims": event.claims,
                "reason": event.reason,
                "spent": list(event.spent),
            }
        )
    if upload.knowledge is not None and kind is not None:
        sent = upload.knowledge
        arrays = sent.arrays if isinstance(sent, Packed) else kind.encode(sent)
        content["knowledge"] = pack_arrays(arrays)
    return content


def read_upload(content: RecordDict) -> Upload:
    """Return the upload that ``upload_content`` made, its knowledge packed as it travelled.

    Raises UploadRejected where it cannot be read.
    """
    arrays = _arrays(content, "knowledge")
    try:
        about = content["about"]
        event, exposures = content.get("privacy"), content.get("exposures")
        return Upload(
            client_id=cast(int, about["client_id"]),
            round=cast(int, about["round"]),
            metrics={name: _read_metric(value) for name, value in content["metrics"].items()},
            privacy=None if event is None else _event(cast("dict[str, Any]", dict(event))),
            knowledge=None if arrays is None else Packed(unpack_arrays(arrays)),
            declined=_text(about["declined"]),
            exposures={} if exposures is None else _bits(dict(exposures)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UploadRejected(
            f"the message is no upload: {type(error).__name__}: {error}"
        ) from error


def sent_arrays(content: RecordDict) -> dict[str, np.ndarray]:
    """Return an upload's knowledge as it travelled, empty where there is none.

    Raises UploadRejected where it cannot be read.
    """
    arrays = _arrays(content, "knowledge")
    return {} if arrays is None else unpack_arrays(arrays)


def _knowledge(record: ArrayRecord, kind: KnowledgeType, packed: bool) -> Knowledge:
    arrays = unpack_arrays(record)
    return Packed(arrays) if packed else kind.decode(arrays)


def _event(fields: dict[str, Any]) -> PrivacyEvent:
    return PrivacyEvent(**{**fields, "spent": tuple(fields["spent"])})


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def _bits(exposures: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(map(float, values)) for name, values in exposures.items()}


def _metric(value: float | tuple[float, ...]) -> float | list[float]:
    return list(value) if isinstance(value, tuple) else float(value)


def _read_metric(value: Any) -> float | tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, list) else float(value)


def card_content(card: ClientCard) -> RecordDict:
    """Return a client's card as content."""
    fields: dict[str, Any] = {
        "client_id": card.client_id,
        "architecture": card.architecture,
        "parameters": card.parameters,
        "train_size": card.train_size,
    }
    if card.label_counts is not None:
        fields["label_counts"] = list(card.label_counts)
    return RecordDict({"card": ConfigRecord(fields)})


def read_card(content: RecordDict) -> ClientCard:
    """Return the card that ``card_content`` made."""
    fields = cast("dict[str, Any]", dict(content["card"]))
    counts = fields.pop("label_counts", None)
    return ClientCard(**fields, label_counts=None if counts is None else tuple(counts))


def _arrays(content: RecordDict, name: str) -> ArrayRecord | None:
    record = content.get(
        name
    )  # content.array_records would copy all of the content's arrays' names to find one
    return record if isinstance(record, ArrayRecord) else None
