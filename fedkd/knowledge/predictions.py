"""Public-set predictions: a row of logits or soft labels for each requested public sample.

With a chooser, a client answers for some of them only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedkd.errors import NotFinite, RunError, UploadRejected
from fedkd.fusion import hard_labels, soften
from fedkd.knowledge.knowledge_type import (
    ClientView,
    Request,
    RowKnowledge,
    Teachers,
    conflict_without_classes,
    narrowed,
)
from fedkd.messages import Cohort, Fusion, Knowledge, Predictions, Upload
from fedkd.settings.conditions import LearnedBy, RunConditions
from fedkd.training.losses import Scale

TOLERANCE = 1e-3
"""How far an uploaded row of soft labels may be from summing to 1: float32 over a large vocabulary.
What a strategy makes of such rows may be twice as far."""
LARGEST = 1e6
"""The largest magnitude of an uploaded logit: no trained model comes near it, and sums of such
logits are finite."""


@runtime_checkable
class Chooser(Protocol):
    """A client's choice of the public samples that it answers for."""

    def choose(self, view: ClientView) -> Bool[Tensor, "N"]:
        """Return a mask of the requested public samples that are answered; it may be empty."""


@dataclass(frozen=True)
class PublicPredictions(RowKnowledge):
    """The kind of all public-set methods: logits or soft labels, as ``scale`` says.

    With a ``chooser`` a client may answer for some of the samples only; the cohort's ``answered``
    then says who did. With ``hard`` clients send one-hot soft labels of their first choices; a
    server takes any soft label, as noise makes them, and its first largest value is the choice.
    """

    scale: Scale
    chooser: Chooser | None = None
    hard: bool = False
    taught_apart: bool = False
    """Whether a fusion may teach clients on different samples (``taught_rows`` [K, N])."""

    learned_by: ClassVar[LearnedBy] = "distill"
    predicts: ClassVar[bool] = True

    @property
    def in_words(self) -> str:
        """What clients send, after "clients send"."""
        soft = "hard labels" if self.hard else "soft labels"
        return f"their {'logits' if self.scale == 'logits' else soft} on public samples"

    @property
    def all_answer(self) -> bool:
        """Whether no client chooses."""
        return self.chooser is None

    @property
    def learn_alike(self) -> bool:
        """Whether all clients distil on the same samples."""
        return self.all_answer and not self.taught_apart

    @property
    def upload_scale(self) -> Scale:
        """``scale``."""
        return self.scale

    @property
    def reveals_model_only(self) -> bool:
        """Whether no client chooses: a choice may depend on private samples.

        Of this class alone: one derived from it may upload more, and says itself if it does not.
        """
        return type(self) is PublicPredictions and self.all_answer

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict of a chooser with data without classes."""
        if self.all_answer:
            return None
        return conflict_without_classes(conditions, "chooses by the density of images")

    def most_values(self, request: Request, client_id: int) -> int:
        """Return a row of classes for each public sample asked for."""
        return len(request.public_ids) * request.classes

    def extract(self, view: ClientView) -> Predictions:
        """Return logits as they are, their soft labels at the temperature, or their argmax."""
        ids, logits = view.public_ids(), view.public_logits()
        if self.chooser is not None:
            chosen = self.chooser.choose(view)
            ids, logits = ids[chosen], logits[chosen]
        if self.hard:
            return Predictions(ids=ids, values=hard_labels(logits), scale=self.scale)
        values = logits if self.scale == "logits" else soften(logits, view.temperature)
        return Predictions(ids=ids, values=values, scale=self.scale)

    def encode(self, knowledge: Knowledge) -> dict[str, np.ndarray]:
        """Return ``ids`` as int32, and ``values`` under their scale's name.

        Public sets have fewer than 2^31 rows.
        """
        sent = narrowed(knowledge, Predictions)
        return {"ids": sent.ids.numpy().astype(np.int32), sent.scale: sent.values.numpy()}

    def decode(self, arrays: Mapping[str, np.ndarray]) -> Predictions:
        """Return the predictions in ``arrays``.

        Raises UploadRejected where there are none of a known scale.
        """
        for scale in ("logits", "probs"):
            if set(arrays) == {"ids", scale}:
                _check_kinds(arrays, scale)
                values, ids = (
                    torch.tensor(arrays[scale]),
                    torch.tensor(arrays["ids"]).to(torch.int64),
                )
                return Predictions(ids=ids, values=values, scale=scale)
        raise UploadRejected(
            f"expected the arrays ids and {self.scale}, got {', '.join(sorted(arrays)) or 'none'}"
        )

    def check(self, knowledge: Knowledge, request: Request, client_id: int) -> None:
        """Raise UploadRejected on a wrong scale, shape, dtype or id, and on invalid predictions."""
        sent, asked = narrowed(knowledge, Predictions), len(request.public_ids)
        values = sent.values
        if sent.ids.ndim != 1:
            raise UploadRejected(
                f"public ids of shape {list(sent.ids.shape)}; expected a list of them"
            )
        expected = (len(sent.ids) if self.chooser is not None else asked, request.classes)
        if sent.scale != self.scale:
            raise UploadRejected(f"expected {self.scale}, got {sent.scale}")
        if tuple(values.shape) != expected:
            raise UploadRejected(
                f"expected {self.scale} of shape {list(expected)}, got {list(values.shape)}"
            )
        if not values.is_floating_point():
            raise UploadRejected(f"expected floating point {self.scale}, got {values.dtype}")
        if not self._asked_for(sent.ids, request.public_ids):
            unknown = sorted(set(sent.ids.tolist()) - set(request.public_ids.tolist()))
            what = (
                f"unknown public ids {unknown[:5]}"
                if unknown
                else "public ids in another order or number"
            )
            raise UploadRejected(
                f"{what}; expected {'some of ' if self.chooser else ''}the {asked} that were asked"
                " for"
            )
        if len(values) == 0:
            return
        if not torch.isfinite(values).all():
            raise UploadRejected(
                f"{self.scale} contain {'NaN' if values.isnan().any() else 'infinity'}"
            )
        if values.abs().max() > LARGEST:
            raise UploadRejected(
                f"{self.scale} are as large as {values.abs().max().item():.3g}; at most {LARGEST:g}"
            )
        if self.scale == "probs" and not are_distributions(values, TOLERANCE):
            raise UploadRejected("soft labels must be >= 0 and sum to 1 in each row")

    def stack(self, uploads: Sequence[Upload], request: Request) -> Cohort:
        """Return the cohort of uploads that passed ``check``, by client id; without any, K is 0."""
        ordered = sorted(uploads, key=lambda upload: upload.client_id)
        ids = tuple(upload.client_id for upload in ordered)
        counts = None
        if request.label_counts is not None:
            counts = torch.tensor([request.label_counts[i] for i in ids], dtype=torch.float32)
        values, answered = self._table(ordered, request)
        return Cohort(
            round=request.round,
            client_ids=ids,
            public_ids=request.public_ids,
            values=values,
            scale=self.scale,
            temperature=request.temperature,
            train_sizes=tuple(request.train_sizes[i] for i in ids),
            label_counts=counts,
            public_labels=request.public_labels,
            answered=answered,
            round_ids=request.round_ids,
            sequences=request.sequences,
            architectures=tuple(request.architectures[i] for i in ids)
            if request.architectures
            else (),
            server=request.server,
        )

    def values(self, knowledge: Knowledge) -> Float[Tensor, "N C"]:
        """Return the values as float32."""
        return narrowed(knowledge, Predictions).values.to(torch.float32)

    def check_fusion(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> None:
        """Raise RunError where a fusion has another shape or range than the strategy declares."""
        check_weights(fusion.weights, len(client_ids))
        if fusion.public_ids is not None:
            check_tensor("public_ids", fusion.public_ids, "of whole numbers [N]")
        taught = request.public_ids if fusion.public_ids is None else fusion.public_ids
        clients, samples, classes = len(client_ids), len(taught), request.classes
        teachers = check_tensor(
            "teachers", fusion.teachers, f"{[samples, classes]} or {[clients, samples, classes]}"
        )
        shapes = ((samples, classes), (clients, samples, classes))
        if tuple(teachers.shape) not in shapes:
            raise RunError(
                f"fuse returned teachers {list(teachers.shape)}, expected {list(shapes[1])}"
                " (personal) or"
                f" {list(shapes[0])} (common)"
            )
        if not torch.isfinite(teachers).all():
            raise NotFinite("fuse returned teachers that are not finite")
        if scale == "probs" and not are_distributions(teachers, 2 * TOLERANCE):
            raise RunError(
                "fuse returned teachers that are no soft labels; declare teaches = 'logits' to"
                " send logits"
            )
        # Clients that need not answer alike need not learn alike; the others distill on the same
        # samples.
        masks = ((samples,), (clients, samples)) if not self.learn_alike else ((samples,),)
        if fusion.taught_rows is not None and (
            fusion.taught_rows.dtype != torch.bool or tuple(fusion.taught_rows.shape) not in masks
        ):
            raise RunError(
                f"fuse returned taught_rows of {fusion.taught_rows.dtype} and shape"
                f" {list(fusion.taught_rows.shape)}, expected booleans of shape"
                f" {' or '.join(str(list(mask)) for mask in masks)}"
            )

    def teachers(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> Teachers:
        """Return the common teacher, or each client's own; a teacher without rows is none."""
        ids = request.public_ids if fusion.public_ids is None else fusion.public_ids
        taught_rows = fusion.taught_rows

        def teacher_of(values: Tensor, rows: Tensor | None) -> Predictions | None:
            whole = rows is None or bool(rows.all())
            taught, values = (ids, values) if whole else (ids[rows], values[rows])
            return (
                Predictions(ids=taught, values=values, scale=cast(Scale, scale))
                if len(taught)
                else None
            )

        teachers = narrowed(fusion.teachers, Tensor)
        if teachers.ndim == 2 and (taught_rows is None or taught_rows.ndim == 1):
            return Teachers(common=teacher_of(teachers, taught_rows))
        teachers = teachers.expand(len(client_ids), *teachers.shape[-2:])
        each = (
            [None] * len(client_ids)
            if taught_rows is None
            else taught_rows.expand(len(client_ids), taught_rows.shape[-1])
        )
        found = {
            i: teacher_of(values, rows)
            for i, values, rows in zip(client_ids, teachers, each, strict=True)
        }
        return Teachers(
            personal={i: teacher for i, teacher in found.items() if teacher is not None}
        )

    def _asked_for(self, ids: Tensor, asked: Tensor) -> bool:
        """Return whether these ids, in this order, were requested or may be chosen of those."""
        if self.chooser is None:
            return torch.equal(ids, asked)
        return ids.ndim == 1 and torch.equal(ids, asked[torch.isin(asked, ids)])

    def _table(self, ordered: Sequence[Upload], request: Request) -> tuple[Tensor, Tensor | None]:
        """Return all values [K, N, C] and, where clients choose, who answered for what [K, N]."""
        knowledge = [narrowed(upload.knowledge, Predictions) for upload in ordered]
        if not knowledge:
            return torch.zeros(0, len(request.public_ids), request.classes), None
        if self.chooser is None:
            return torch.stack([self.values(mine) for mine in knowledge]), None
        values = torch.zeros(len(ordered), len(request.public_ids), request.classes)
        answered = torch.stack([torch.isin(request.public_ids, mine.ids) for mine in knowledge])
        for row, mine in enumerate(knowledge):
            values[row, answered[row]] = self.values(mine)
        return values, answered


def check_tensor(name: str, value: object, expected: str) -> Tensor:
    """Return a part of a fusion that is a tensor; RunError says of what it was ``expected``."""
    if not isinstance(value, Tensor):
        hint = "; make it one with torch.as_tensor" if isinstance(value, np.ndarray) else ""
        raise RunError(
            f"fuse returned {name} of type {type(value).__name__}, expected a tensor"
            f" {expected}{hint}"
        )
    return value


def check_weights(weights: Tensor, clients: int) -> None:
    """Raise RunError unless these are fusion weights [K, K] whose rows are distributions."""
    check_tensor("weights", weights, f"{[clients, clients]}")
    if tuple(weights.shape) != (clients, clients):
        raise RunError(
            f"fuse returned weights {list(weights.shape)}, expected {[clients, clients]}"
        )
    if not are_distributions(weights, 2 * TOLERANCE):
        raise RunError(
            "fuse returned weights that are not finite, >= 0 and summing to 1 in each row"
        )


def _check_kinds(arrays: Mapping[str, np.ndarray], scale: str) -> None:
    """Raise UploadRejected where arrays are not of numbers, before anything is made of them."""
    for name, kinds, expected in (("ids", "iu", "whole numbers"), (scale, "fiubc", "numbers")):
        if arrays[name].dtype.kind not in kinds:
            raise UploadRejected(
                f"expected {name} to be {expected}, got an array of {arrays[name].dtype}"
            )


def are_distributions(rows: Float[Tensor, "*batch C"], tolerance: float) -> bool:
    """Return whether all rows are finite, >= 0 and sum to 1 within ``tolerance``."""
    sums = rows.sum(dim=-1)
    return bool(
        torch.isfinite(rows).all() and (rows >= 0).all() and ((sums - 1).abs() <= tolerance).all()
    )
