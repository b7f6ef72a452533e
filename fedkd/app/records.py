"""fedkd's messages as Flower's records and back: pure functions, each pair a round trip.

A record holds arrays, numbers and text only, so that any of Flower's engines can carry it. Array contents are
copied once on the way in and once on the way out. No function writes into a record: in process, one record may be
in many messages.
"""

from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedkd.errors import UploadRejected
from fedkd.knowledge import KINDS, Kind
from fedkd.messages import ClientCard, Download, Predictions, PrivacyEvent, Step, Upload


def pack_arrays(arrays: dict[str, np.ndarray]) -> ArrayRecord:
    """Return named arrays as one record."""
    return ArrayRecord({name: Array(np.ascontiguousarray(value)) for name, value in arrays.items()})


def unpack_arrays(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Return the named arrays of a record; UploadRejected where one cannot be read."""
    try:
        return {name: array.numpy() for name, array in record.items()}
    except (ValueError, TypeError, EOFError, OSError) as error:
        raise UploadRejected(f"an array cannot be read: {error}") from error


def payload_bytes(content: RecordDict) -> int:
    """Return the bytes of all arrays in a message's content, as encoded (NumPy's format, header included)."""
    return sum(len(array.data) for record in content.array_records.values() for array in record.values())


def teacher_record(teacher: Predictions) -> ArrayRecord:
    """Return a teacher as the record that travels; a common one is made once and put into every message."""
    return pack_arrays(_kind_of(teacher).arrays(teacher))


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


def read_download(content: RecordDict) -> Download:
    """Return the download that ``download_content`` made."""
    import torch

    task = content.config_records["task"]
    request = content.array_records.get("request")
    teacher = content.array_records.get("teacher")
    return Download(
        round=cast(int, task["round"]),
        steps=tuple(cast("list[Step]", task["steps"])),
        public_ids=None if request is None else torch.tensor(unpack_arrays(request)["ids"]).to(torch.int64),
        teacher=None if teacher is None else _read_knowledge(teacher),
    )


def upload_content(upload: Upload) -> RecordDict:
    """Return an upload's content."""
    content = RecordDict(
        {
            "about": ConfigRecord({"client_id": upload.client_id, "round": upload.round}),
            "metrics": MetricRecord({name: float(value) for name, value in upload.metrics.items()}),
        }
    )
    if upload.privacy is not None:
        event = upload.privacy
        content["privacy"] = ConfigRecord(
            {"mechanism": event.mechanism, "claims": event.claims, "reason": event.reason}
        )
    if upload.knowledge is not None:
        content["knowledge"] = pack_arrays(_kind_of(upload.knowledge).arrays(upload.knowledge))
    return content


def read_upload(content: RecordDict) -> Upload:
    """Return the upload that ``upload_content`` made; UploadRejected where its knowledge cannot be read."""
    about = content.config_records["about"]
    event = content.config_records.get("privacy")
    knowledge = content.array_records.get("knowledge")
    return Upload(
        client_id=cast(int, about["client_id"]),
        round=cast(int, about["round"]),
        metrics={name: cast(float, value) for name, value in content.metric_records["metrics"].items()},
        privacy=None if event is None else PrivacyEvent(**cast("dict[str, Any]", dict(event))),
        knowledge=None if knowledge is None else _read_knowledge(knowledge),
    )


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
    fields = cast("dict[str, Any]", dict(content.config_records["card"]))
    counts = fields.pop("label_counts", None)
    return ClientCard(**fields, label_counts=None if counts is None else tuple(counts))


def _kind_of(knowledge: Predictions) -> Kind:
    return KINDS[knowledge.scale]


def _read_knowledge(record: ArrayRecord) -> Predictions:
    arrays = unpack_arrays(record)
    for scale, kind in KINDS.items():
        if scale in arrays:
            return kind.knowledge(arrays)
    raise UploadRejected(f"no known kind of knowledge has the arrays {', '.join(sorted(arrays)) or 'none'}")
