"""Private-set logits: a client's logits on its own samples, with a hash of each; no public set.

A hash and a label of every private sample leave the client, once, and logits each round. Nothing
here hides them: a hash of many bits tells much of the sample, and anyone can search for it with the
hyperplanes, which are no secret.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num, UInt8
from torch import Tensor

from fedkd.errors import NotFinite, RunError, UploadRejected
from fedkd.fusion import soften
from fedkd.knowledge.knowledge_type import (
    ClientView,
    KnowledgeType,
    Penalty,
    Request,
    Teachers,
    conflict_without_classes,
    narrowed,
)
from fedkd.knowledge.predictions import LARGEST, check_weights
from fedkd.messages import AcceptedUploads, Fusion, Knowledge, Upload
from fedkd.runtime.devices import reads_wait, sent
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.conditions import LearnedBy, RunConditions
from fedkd.training.losses import kl, weighted

_NO_MAPPING = "fuse must return teachers as a mapping with an entry for every client of the cohort"


@dataclass(frozen=True, kw_only=True)
class SampleLogits:
    """An upload: ``logits`` [n, C] on the private samples, in the same order each round.

    ``hashes`` [n, bits / 8] and ``labels`` [n] are None once the server knows them.
    """

    logits: Tensor
    hashes: Tensor | None = None
    labels: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class SampleTeacher:
    """A teacher: ``logits`` [n, C] for the client's own samples.

    ``taught`` [n] flags the rows that exist; the others have no meaning.
    """

    logits: Tensor
    taught: Tensor


@dataclass(frozen=True, kw_only=True)
class PrivateLogitsCohort(AcceptedUploads):
    """The accepted uploads of one round, sorted by client id.

    ``uploads[k]`` is of client ``client_ids[k]``. Clients have sets of different sizes, so that
    nothing is stacked.
    """

    uploads: tuple[SampleLogits, ...]


@dataclass(frozen=True, kw_only=True)
class PrivateLogits(KnowledgeType):
    """The knowledge of FedCache: private-set logits, learned from by a term of the training loss.

    Wu et al. 2024, arXiv 2308.07816.

    A fusion's ``teachers`` are a mapping from a client's id to ``logits`` and ``taught``; a client
    that has one is known to the server. The term of the training loss is ``weight * T^2 *
    KL(softmax(teacher / T) || softmax(f / T))`` at the distillation temperature T; samples that are
    not taught add nothing, and count in the mean.
    """

    weight: float
    bits: int
    learned_by: ClassVar[LearnedBy] = "train"
    in_words: ClassVar[str] = "their logits on private samples"
    uses_features: ClassVar[bool] = False

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with data without classes, or with models without gradients."""
        return conflict_without_classes(
            conditions, "exchanges what images of a class have in common"
        ) or super().conflict(conditions)

    def most_values(self, request: Request, client_id: int) -> int:
        """Return a row of classes for each private sample."""
        return request.train_sizes[client_id] * request.classes

    def extract(self, view: ClientView) -> SampleLogits:
        """Return logits on the private set, with hashes and labels if no teacher came."""
        logits = view.private_logits()
        if view.teacher is not None:
            return SampleLogits(logits=logits)
        inputs = view.private_inputs().cpu()
        return SampleLogits(
            logits=logits, hashes=sign_hashes(inputs, self.bits), labels=view.private_labels().cpu()
        )

    def encode(self, knowledge: Knowledge) -> dict[str, np.ndarray]:
        """Return the arrays of an upload or a teacher, named by its fields."""
        if isinstance(knowledge, SampleTeacher):
            taught = knowledge.taught.numpy().astype(np.uint8)
            return {"logits": knowledge.logits.numpy(), "taught": taught}
        upload = narrowed(knowledge, SampleLogits)
        logits = {"logits": upload.logits.numpy()}
        if upload.hashes is None or upload.labels is None:
            return logits
        return {
            **logits,
            "hashes": upload.hashes.numpy(),
            "labels": upload.labels.numpy().astype(np.int32),
        }

    def decode(self, arrays: Mapping[str, np.ndarray]) -> SampleLogits | SampleTeacher:
        """Return the upload or the teacher that the arrays encode.

        Raises UploadRejected where they encode neither.
        """
        allowed: tuple[set[str], ...] = (
            {"logits"},
            {"logits", "hashes", "labels"},
            {"logits", "taught"},
        )
        if set(arrays) not in allowed:
            raise UploadRejected(
                f"expected the array logits, the first time with hashes and labels, got"
                f" {', '.join(sorted(arrays)) or 'none'}"
            )
        for name, kinds, axes in (
            ("logits", "f", 2),
            ("hashes", "u", 2),
            ("labels", "iu", 1),
            ("taught", "u", 1),
        ):
            if name in arrays and (
                arrays[name].dtype.kind not in kinds or arrays[name].ndim != axes
            ):
                raise UploadRejected(
                    f"{name} must have {axes} axes and not be {arrays[name].dtype}"
                )
        found = {name: torch.tensor(array) for name, array in arrays.items()}
        logits = found["logits"].to(torch.float32)
        if "taught" in found:
            return SampleTeacher(logits=logits, taught=found["taught"] != 0)
        labels = found["labels"].to(torch.int64) if "labels" in found else None
        return SampleLogits(logits=logits, hashes=found.get("hashes"), labels=labels)

    def check(self, knowledge: Knowledge, request: Request, client_id: int) -> None:
        """Raise UploadRejected on wrong shapes and values, and on missing or repeated hashes."""
        if not isinstance(knowledge, SampleLogits):
            raise UploadRejected("a teacher was uploaded; expected the array logits")
        samples = request.train_sizes[client_id]
        _check_logits(knowledge.logits, (samples, request.classes))
        if client_id in request.taught:
            if knowledge.hashes is not None or knowledge.labels is not None:
                raise UploadRejected(
                    "hashes and labels came again; they are kept from the first upload"
                )
            return
        if knowledge.hashes is None or knowledge.labels is None:
            raise UploadRejected("expected hashes and labels with the first upload")
        expected = (samples, self.bits // 8)
        if tuple(knowledge.hashes.shape) != expected or knowledge.hashes.dtype != torch.uint8:
            raise UploadRejected(
                f"expected hashes {list(expected)} of bytes, got {list(knowledge.hashes.shape)} of"
                f" {knowledge.hashes.dtype}"
            )
        if tuple(knowledge.labels.shape) != (samples,):
            raise UploadRejected(f"expected {samples} labels, got {list(knowledge.labels.shape)}")
        if knowledge.labels.min() < 0 or knowledge.labels.max() >= request.classes:
            raise UploadRejected(f"labels must be from 0 to {request.classes - 1}")

    def stack(self, uploads: Sequence[Upload], request: Request) -> PrivateLogitsCohort:
        """Return the cohort of uploads that passed ``check``, sorted by client id."""
        ordered = sorted(uploads, key=lambda upload: upload.client_id)
        ids = tuple(upload.client_id for upload in ordered)
        return PrivateLogitsCohort(
            round=request.round,
            client_ids=ids,
            uploads=tuple(narrowed(upload.knowledge, SampleLogits) for upload in ordered),
            train_sizes=tuple(request.train_sizes[i] for i in ids),
        )

    def check_fusion(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> None:
        """Raise RunError unless every client of the cohort has a teacher of the right shape."""
        check_weights(fusion.weights, len(client_ids))
        teachers = _fused_logits(fusion.teachers)
        if not set(client_ids) <= set(teachers):
            raise RunError(_NO_MAPPING)
        for client_id, teacher in teachers.items():
            samples = request.train_sizes[client_id]
            logits, taught = teacher["logits"], teacher["taught"]
            if tuple(logits.shape) != (samples, request.classes) or tuple(taught.shape) != (
                samples,
            ):
                raise RunError(
                    f"fuse returned logits {list(logits.shape)} and taught {list(taught.shape)}"
                    f" for client {client_id}, expected {[samples, request.classes]} and"
                    f" {[samples]}"
                )
            if not torch.isfinite(logits).all():
                raise NotFinite(f"fuse returned logits for client {client_id} that are not finite")

    def teachers(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> Teachers:
        """Return the teacher of each client that the server knows, absent ones included."""
        found = {
            i: SampleTeacher(logits=t["logits"], taught=t["taught"])
            for i, t in _fused_logits(fusion.teachers).items()
        }
        return Teachers(personal=found)

    def penalty(self, view: ClientView, teacher: Knowledge | None) -> Penalty | None:
        """Return the divergence from the teacher's soft label of each sample that has one."""
        if teacher is None:
            return None
        known = narrowed(teacher, SampleTeacher)
        if not known.taught.any():
            return None
        device, temperature = view.private_labels().device, view.temperature
        targets: Tensor = sent(soften(known.logits, temperature), device)
        taught: Bool[Tensor, "n"] | None = None  # where all are, none needs to be looked for
        if not known.taught.all():
            taught = sent(known.taught, device)

        def of_rows(
            rows: Int[Tensor, "m"], logits: Float[Tensor, "m C"], count: int
        ) -> Float[Tensor, ""]:
            share = self.weight * len(rows) / count
            return share * kl(logits, targets[rows], temperature)

        def term(
            batch: Int[Tensor, "batch"], logits: Float[Tensor, "batch C"], features: object
        ) -> Float[Tensor, ""]:
            if taught is None:
                return of_rows(batch, logits, len(batch))
            is_taught = taught[batch]
            if reads_wait(device):  # their number is not asked for
                each = is_taught.to(logits.dtype)
                return self.weight * weighted(kl, logits, targets[batch], each, temperature)
            if not is_taught.any():
                return logits.new_zeros(())
            return of_rows(batch[is_taught], logits[is_taught], len(batch))

        return term


def sign_hashes(inputs: Num[Tensor, "n *shape"], bits: int) -> UInt8[Tensor, "n bytes"]:
    """Return the hash of each input: the side of each of ``bits`` random hyperplanes, as bits.

    Eight bits are packed to a byte; ``bits`` is a multiple of 8. Two hashes differ in a share of
    bits near angle / pi (Charikar 2002, doi 10.1145/509907.509965).
    The hyperplanes go through the origin and depend on the inputs' size and ``bits`` alone: all
    clients of all runs have the same. An input and its multiples have the same hash, its negative
    the opposite one.

    >>> hashes = sign_hashes(torch.tensor([[1.0, 2.0], [2.0, 4.0], [-1.0, -2.0]]), bits=16)
    >>> hashes[0].tolist() == hashes[1].tolist(), (hashes[0] ^ hashes[2]).tolist()
    (True, [255, 255])
    """
    flat = inputs.flatten(1).to(torch.float64).numpy()
    stream = numpy_stream(0, "hyperplanes", flat.shape[1], bits)
    return torch.from_numpy(
        np.packbits(flat @ stream.standard_normal((flat.shape[1], bits)) > 0, axis=1)
    )


def _check_logits(logits: Tensor, expected: tuple[int, int]) -> None:
    """Raise UploadRejected unless these are finite logits of this shape."""
    if tuple(logits.shape) != expected:
        raise UploadRejected(f"expected logits of shape {list(expected)}, got {list(logits.shape)}")
    if not torch.isfinite(logits).all():
        raise UploadRejected(f"logits contain {'NaN' if logits.isnan().any() else 'infinity'}")
    if logits.abs().max() > LARGEST:
        raise UploadRejected(
            f"logits are as large as {logits.abs().max().item():.3g}; at most {LARGEST:g}"
        )


def _fused_logits(teachers: object) -> Mapping[int, Mapping[str, Tensor]]:
    """Return a fusion's teachers by client id; RunError where they are no mapping."""
    if not isinstance(teachers, Mapping):
        raise RunError(_NO_MAPPING)
    return teachers
