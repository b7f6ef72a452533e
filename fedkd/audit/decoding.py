"""Decoding of a transcript: soft labels and teachers from messages as sent."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, cast

import numpy as np
import torch

from fedkd.codecs import CODECS, Codec
from fedkd.errors import UploadRejected, unknown_name
from fedkd.knowledge import KnowledgeType
from fedkd.messages import Knowledge
from fedkd.settings.import_paths import import_class, is_import_path
from fedkd.storage.transcript import About, Transcript

Direction = Literal["upload", "teacher"]
SoftLabels = dict[int, np.ndarray]
"""Soft labels [C] by public id."""


def codec_of(about: About, direction: Direction, client: int | None = None) -> Codec:
    """Return the codec of uploads or of teachers, as a transcript's ``about`` describes it.

    It is that of a client's messages; None asks for what all clients share.
    Where ``about`` names no codec it is full precision. Raises SettingError for an unknown codec.
    """
    settings = dict(about.get("codecs", {}).get(direction) or {"name": "full"})
    name = str(settings.pop("name", "full"))
    if name not in CODECS and not is_import_path(name):
        raise unknown_name("codec", name, CODECS)
    own = is_import_path(name)
    cls = import_class(name, what="codec", seam=Codec) if own else CODECS[name]
    # JSON has lists where settings have tuples.
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    codec = cast(Callable[..., Codec], cls)(**values)
    return codec if client is None else codec.of_client(client)


def upload_probs(transcript: Transcript) -> dict[int, SoftLabels]:
    """Return the mean soft labels over rounds that each client uploaded, by client id.

    Logits are softened at temperature 1. Clients that uploaded another kind of knowledge (weights,
    class tables) are left out, as are messages that cannot be decoded, which the server rejects.
    """
    uploads = {}
    for client in transcript.clients("upload"):
        labels_by_id = _decoded(transcript, "upload", client)
        if labels_by_id:
            uploads[client] = {i: np.mean(labels, axis=0) for i, labels in labels_by_id.items()}
    return uploads


def mean_teacher(transcript: Transcript) -> SoftLabels:
    """Return the mean soft labels of all teachers, which all clients together have seen."""
    gathered: dict[int, list[np.ndarray]] = {}
    recipients: Sequence[int | None] = transcript.clients("teacher") or [None]
    for client in recipients:
        for public_id, labels in _decoded(transcript, "teacher", client).items():
            gathered.setdefault(public_id, []).extend(labels)
    return {public_id: np.mean(labels, axis=0) for public_id, labels in gathered.items()}


def teachers_by_client(
    transcript: Transcript, kind: KnowledgeType
) -> dict[int, dict[int, Knowledge]]:
    """Return the last teacher sent to each client in each round, by client id, then round."""
    teachers: dict[int, dict[int, Knowledge]] = {}
    for client in transcript.clients("teacher"):
        codec, memory = codec_of(transcript.about, "teacher", client), None
        for entry, sent in transcript.of("teacher", client):
            arrays, memory = codec.decode(sent, memory)
            teachers.setdefault(client, {})[entry.round] = kind.decode(arrays)
    return teachers


def _decoded(
    transcript: Transcript, direction: Direction, client: int | None
) -> dict[int, list[np.ndarray]]:
    """Return the soft labels in one client's messages, by public id and in order of rounds."""
    codec, memory = codec_of(transcript.about, direction, client), None
    gathered: dict[int, list[np.ndarray]] = {}
    for _, sent in transcript.of(direction, client):
        try:
            arrays, memory = codec.decode(sent, memory)
            ids, rows = _soft_labels(arrays)
        except (UploadRejected, ValueError, TypeError, LookupError):
            continue
        known = next(iter(gathered.values()), None)
        if not _are_rows(ids, rows, None if known is None else len(known[0])):
            continue
        for public_id, probs in zip(ids, rows, strict=True):
            gathered.setdefault(int(public_id), []).append(probs)
    return gathered


def _are_rows(ids: np.ndarray, rows: np.ndarray, classes: int | None) -> bool:
    """Return whether these are soft labels of as many ids, of ``classes`` where that is known."""
    return (
        ids.ndim == 1
        and ids.dtype.kind in "iu"
        and rows.ndim == 2
        and len(rows) == len(ids)
        and (classes is None or rows.shape[1] == classes)
        and bool(np.isfinite(rows).all())
    )


def _soft_labels(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return a message's public ids [N] and soft labels [N, C]; N is 0 for other knowledge."""
    if "ids" not in arrays or not ({"probs", "logits"} & set(arrays)):
        return np.zeros(0, np.int64), np.zeros((0, 1))
    if "probs" in arrays:
        return arrays["ids"], arrays["probs"].astype(np.float64)
    logits = torch.from_numpy(arrays["logits"].astype(np.float64))
    return arrays["ids"], torch.softmax(logits, dim=-1).numpy()
