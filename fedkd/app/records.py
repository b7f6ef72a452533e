"""fedkd's messages as Flower's records and back: pure functions, each pair a round trip.

A record holds arrays, numbers and text only, so that any of Flower's engines can carry it. Array contents are
copied once on the way in and once on the way out. No function writes into a record: in process, one record may be
in many messages.
"""

from typing import Any, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedkd.errors import UploadRejected
from fedkd.knowledge import Kind
from fedkd.messages import ClientCard, Download, Knowledge, PrivacyEvent, Step, Upload

RAW = "fedkd.raw"
"""How arrays are encoded: their values alone, little endian, rows first; Flower's record holds dtype and shape."""


def pack_arrays(arrays: dict[str, np.ndarray]) -> ArrayRecord:
    """Return named arrays as one record."""
    return ArrayRecord({name: _pack(value) for name, value in arrays.items()})


def unpack_arrays(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Return the named arrays of a record, read-only; UploadRejected where one cannot be read."""
    return {name: _unpack(name, array) for name, array in record.items()}


def _pack(value: np.ndarray) -> Array:
    little = value.astype(value.dtype.newbyteorder("<"), copy=False)
    return Array(dtype=value.dtype.name, shape=value.shape, stype=RAW, data=little.tobytes())


def _unpack(name: str, array: Array) -> np.ndarray:
    try:
        if array.stype != RAW:
            raise UploadRejected(f"array {name} is encoded as {array.stype}, expected {RAW}")
        return np.frombuffer(array.data, dtype=np.dtype(array.dtype).newbyteorder("<")).reshape(array.shape)
    except (ValueError, TypeError) as error:
        raise UploadRejected(f"array {name} cannot be read: {error}") from error


def payload_bytes(content: RecordDict) -> int:
    """Return the bytes of the values of all arrays in a message's content, as they travel."""
    arrays = [array for record in content.values() if isinstance(record, ArrayRecord) for array in record.values()]
    return sum(len(array.data) for array in arrays)


def teacher_record(teacher: Knowledge, kind: Kind) -> ArrayRecord:
    """Return a teacher as the record that travels; a common one is made once and put into every message."""
    return pack_arrays(kind.arrays(teacher))


def download_content(
    download: Download, scenario: ConfigRecord, teacher: ArrayRecord | None, request: ArrayRecord | None
) -> RecordDict:
    """Return a download's content from the records that messages share: scenario, teacher and public ids."""
    task = ConfigRecord({"round": download.round, "steps": [str(step) for step in download.steps]})
    content = RecordDict({"scenario": scenario, "task": task})
    if teacher is not None:
        content["teacher"] = teacher
    if request is not None:
        content["request"] = request
    return content


def request_record(download: Download) -> ArrayRecord | None:
    """Return the public ids asked for as the record that travels."""
    if download.public_ids is None:
        return None
    return pack_arrays({"ids": download.public_ids.numpy().astype(np.int32)})


def read_download(content: RecordDict, kind: Kind | None) -> Download:
    """Return the download that ``download_content`` made, with knowledge of the run's kind."""
    task = content["task"]
    request, teacher = _arrays(content, "request"), _arrays(content, "teacher")
    return Download(
        round=cast(int, task["round"]),
        steps=tuple(cast("list[Step]", task["steps"])),
        public_ids=None if request is None else torch.tensor(unpack_arrays(request)["ids"]).to(torch.int64),
        teacher=None if teacher is None or kind is None else kind.knowledge(unpack_arrays(teacher)),
    )


def upload_content(upload: Upload, kind: Kind | None) -> RecordDict:
    """Return an upload's content, with knowledge of the run's kind."""
    content = RecordDict(
        {
            "about": ConfigRecord({"client_id": upload.client_id, "round": upload.round}),
            "metrics": MetricRecord({name: _metric(value) for name, value in upload.metrics.items()}),
        }
    )
    if upload.privacy is not None:
        event = upload.privacy
        content["privacy"] = ConfigRecord(
            {"mechanism": event.mechanism, "claims": event.claims, "reason": event.reason}
        )
    if upload.knowledge is not None and kind is not None:
        content["knowledge"] = pack_arrays(kind.arrays(upload.knowledge))
    return content


def read_upload(content: RecordDict, kind: Kind | None) -> Upload:
    """Return the upload that ``upload_content`` made; UploadRejected where it cannot be read."""
    arrays = _arrays(content, "knowledge")
    if arrays is not None and kind is None:
        raise UploadRejected("knowledge came in a run that exchanges none")
    try:
        about = content["about"]
        event = content.get("privacy")
        return Upload(
            client_id=cast(int, about["client_id"]),
            round=cast(int, about["round"]),
            metrics={name: _read_metric(value) for name, value in content["metrics"].items()},
            privacy=None if event is None else PrivacyEvent(**cast("dict[str, Any]", dict(event))),
            knowledge=None if arrays is None or kind is None else kind.knowledge(unpack_arrays(arrays)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UploadRejected(f"the message is no upload: {type(error).__name__}: {error}") from error


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
    record = content.get(name)  # content.array_records would copy all of the content's arrays' names to find one
    return record if isinstance(record, ArrayRecord) else None
