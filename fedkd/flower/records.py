"""fedkd's messages as Flower's records, and downloads back: pure functions.

A record holds arrays, numbers and text only, so that any of Flower's engines can carry it. No
function writes into a record: in process, one record may be in many messages. Not for: reading what
clients send (``fedkd.flower.reply_decoder``).
"""

from typing import Any, cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedkd.flower.wire_arrays import pack_arrays, record_size, unpack_arrays
from fedkd.knowledge import KnowledgeType
from fedkd.messages import (
    ClientCard,
    Download,
    Knowledge,
    MessageSize,
    Packed,
    Step,
    Upload,
)

_END = "end."
"""Before the names of records that belong to the end of a round, where a message also begins the
next."""


def upload_size(content: RecordDict) -> MessageSize:
    """Return the size of all arrays of an upload's content."""
    return sum(
        (record_size(record) for record in content.values() if isinstance(record, ArrayRecord)),
        MessageSize(),
    )


def unread_size(content: RecordDict) -> MessageSize:
    """Return the bytes of all arrays of a content that nobody reads; they are not looked at."""
    found = [record for record in content.values() if isinstance(record, ArrayRecord)]
    total = sum(len(array.data) for record in found for array in record.values())
    return MessageSize(total, total)


def task_record(download: Download) -> ConfigRecord:
    """Return what a download asks for as the record that travels."""
    return ConfigRecord(
        {
            "round": download.round,
            "steps": [str(step) for step in download.steps],
            "start_over": download.start_over,
        }
    )


def download_content(
    scenario: ConfigRecord,
    task: ConfigRecord,
    teacher: ArrayRecord | None,
    request: ArrayRecord | None,
) -> RecordDict:
    """Return a download's content, of records that messages may share.

    Args:
        scenario: The record of the scenario's text.
        task: That of what it asks for.
        teacher: That of its teacher.
        request: That of its public ids.
    """
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


def _knowledge(record: ArrayRecord, kind: KnowledgeType, packed: bool) -> Knowledge:
    arrays = unpack_arrays(record)
    return Packed(arrays) if packed else kind.decode(arrays)


def _metric(value: float | tuple[float, ...]) -> float | list[float]:
    return list(value) if isinstance(value, tuple) else float(value)


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


def _arrays(content: RecordDict, name: str) -> ArrayRecord | None:
    record = content.get(
        name
    )  # content.array_records would copy all of the content's arrays' names to find one
    return record if isinstance(record, ArrayRecord) else None
