"""Public-set predictions: a row of logits or soft labels for each requested public sample.

With a chooser, a client answers for some of them only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedkd.errors import NotFinite, RunError, UploadRejected
from fedkd.fusion import hard_labels, soften
from fedkd.knowledge.beside_predictions import (
    LocalTerm,
    Moment,
    Scorer,
    check_scores,
    conflict_of_gradients,
)
from fedkd.knowledge.knowledge_type import (
    ClientView,
    Penalty,
    Request,
    RowKnowledge,
    SideRelease,
    Teachers,
    conflict_without_classes,
    narrowed,
)
from fedkd.messages import Cohort, Fusion, Knowledge, Predictions, Upload
from fedkd.settings.conditions import LearnedBy, RunConditions
from fedkd.training.losses import OF_BATCHES, Scale

TOLERANCE = 1e-3
"""How far an uploaded row of soft labels may be from summing to 1: float32 over a large vocabulary.
What a strategy makes of such rows may be twice as far."""
BESIDE: tuple[set[str], ...] = (set(), {"scores"}, {"weights"})
"""What arrays may come beside ids and values: those of an upload, or of a teacher."""
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
    weighs_samples: bool = False
    """Whether a fusion may weigh the samples that it teaches (``sample_weights``)."""
    scorer: Scorer | None = None
    """What clients upload beside their predictions."""
    term: LocalTerm | None = None
    """What clients add to the loss of private training."""

    learned_by: ClassVar[LearnedBy] = "distill"
    predicts: ClassVar[bool] = True
    uses_features: ClassVar[bool] = False

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
        """Whether all clients distil on the same samples, each of which counts as much."""
        return self.all_answer and not self.taught_apart and not self.weighs_samples

    @property
    def upload_scale(self) -> Scale:
        """``scale``."""
        return self.scale

    @property
    def reveals_model_only(self) -> bool:
        """Whether no client chooses, adds a term or scores by more than its model knows.

        Of this class alone: one derived from it may upload more, and says itself if it does not.
        """
        scored = self.scorer is not None and not self.scorer.reveals_model_only
        alone = self.all_answer and self.term is None and not scored
        return type(self) is PublicPredictions and alone

    @property
    def vouches(self) -> type:
        """The class of the scorer, if there is one."""
        return type(self) if self.scorer is None else type(self.scorer)

    @property
    def uploads_scores(self) -> bool:
        """Whether scores leave a client beside its predictions."""
        return self.scorer is not None

    @property
    def adds_penalty(self) -> bool:
        """Whether there is a term."""
        return self.term is not None

    @property
    def remembers(self) -> bool:
        """Whether there is a term, or a scorer, which may remember something."""
        return self.term is not None or self.scorer is not None

    def penalty(self, view: ClientView, teacher: Knowledge | None) -> Penalty | None:
        """Return the term of the loss of private training; None without one."""
        return None if self.term is None else self.term.penalty(view, teacher)

    def remember(self, view: ClientView, moment: Moment) -> Mapping[str, Tensor] | None:
        """Return what the term and the scorer remember; None where neither has anything new."""
        parts = [part.remember(view, moment) for part in (self.term, self.scorer) if part]
        new = {name: found for part in parts if part for name, found in part.items()}
        return {**view.memory, **new} if new else None

    def side_release(self, records: int) -> SideRelease | None:
        """Return the scorer's."""
        return None if self.scorer is None else self.scorer.side_release(records)

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict of a chooser, a scorer, a term or weights with data or models."""
        if self.weighs_samples and conditions.loss in OF_BATCHES:
            return (
                f"strategy={conditions.strategy} weighs single samples, and"
                f" distill.loss={conditions.loss} is of a batch together; use another loss"
            )
        if self.scorer is not None and (found := self.scorer.conflict(conditions)):
            return found
        if self.term is not None:
            asks = "adds a term to the loss of private training"
            if found := conflict_of_gradients(conditions, asks):
                return found
        if self.all_answer:
            return None
        return conflict_without_classes(conditions, "chooses by the density of images")

    def most_values(self, request: Request, client_id: int) -> int:
        """Return a row of classes for each public sample asked for, and the scores."""
        rows = len(request.public_ids)
        return rows * request.classes + (0 if self.scorer is None else self.scorer.count(rows))

    def extract(self, view: ClientView) -> Predictions:
        """Return logits as they are, their soft labels at the temperature, or their argmax."""
        ids, logits = view.public_ids(), view.public_logits()
        if self.chooser is not None:
            chosen = self.chooser.choose(view)
            ids, logits = ids[chosen], logits[chosen]
        if self.hard:
            values = hard_labels(logits)
        else:
            values = logits if self.scale == "logits" else soften(logits, view.temperature)
        scores = None if self.scorer is None else self.scorer.scores(view)
        return Predictions(ids=ids, values=values, scale=self.scale, scores=scores)

    def encode(self, knowledge: Knowledge) -> dict[str, np.ndarray]:
        """Return ``ids`` as int32, ``values`` under their scale's name, and what is beside them.

        Public sets have fewer than 2^31 rows.
        """
        sent = narrowed(knowledge, Predictions)
        beside = {"scores": sent.scores, "weights": sent.weights}
        return {
            "ids": sent.ids.numpy().astype(np.int32),
            sent.scale: sent.values.numpy(),
            **{name: tensor.numpy() for name, tensor in beside.items() if tensor is not None},
        }

    def decode(self, arrays: Mapping[str, np.ndarray]) -> Predictions:
        """Return the predictions in ``arrays``.

        Raises UploadRejected where there are none of a known scale.
        """
        return decoded(arrays, self.scale)

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
        _check_ids(sent.ids, request.public_ids, chooses=self.chooser is not None)
        check_scores(sent.scores, self.scorer, asked)
        if sent.weights is not None:
            raise UploadRejected("weights of samples came from a client")
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
        values, answered = _table(ordered, request, chooses=self.chooser is not None)
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
            scores=_scores(ordered),
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
        check_sample_weights(fusion.sample_weights, samples, weighs=self.weighs_samples)
        # Clients that need not answer alike need not learn alike; the others distill on the same
        # samples.
        apart = not self.all_answer or self.taught_apart
        masks = ((samples,), (clients, samples)) if apart else ((samples,),)
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
            if len(taught) == 0:
                return None
            weights = fusion.sample_weights
            weights = weights if weights is None or whole else weights[rows]
            return Predictions(ids=taught, values=values, scale=cast(Scale, scale), weights=weights)

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


def decoded(arrays: Mapping[str, np.ndarray], expected: str) -> Predictions:
    """Return the predictions in ``arrays``; UploadRejected without any of a known scale."""
    for scale in get_args(Scale):
        beside = set(arrays) - {"ids", scale}
        if {"ids", scale} <= set(arrays) and beside in BESIDE:
            _check_kinds(arrays, scale)
            values, ids = torch.tensor(arrays[scale]), torch.tensor(arrays["ids"]).to(torch.int64)
            more = {name: torch.tensor(arrays[name], dtype=torch.float32) for name in beside}
            return Predictions(ids=ids, values=values, scale=scale, **more)
    raise UploadRejected(
        f"expected the arrays ids and {expected}, got {', '.join(sorted(arrays)) or 'none'}"
    )


def _scores(ordered: Sequence[Upload]) -> Tensor | None:
    """Return all scores [K, S] of uploads that passed ``check``; None where there are none."""
    given = [narrowed(upload.knowledge, Predictions).scores for upload in ordered]
    found = [scores for scores in given if scores is not None]
    return torch.stack(found) if found else None


def _check_ids(ids: Tensor, asked: Tensor, *, chooses: bool) -> None:
    """Raise UploadRejected unless these ids were asked about or, in that order, chosen."""
    expected = asked[torch.isin(asked, ids)] if chooses else asked
    if torch.equal(ids, expected):
        return
    unknown = sorted(set(ids.tolist()) - set(asked.tolist()))
    what = (
        f"unknown public ids {unknown[:5]}" if unknown else "public ids in another order or number"
    )
    some = "some of " if chooses else ""
    raise UploadRejected(f"{what}; expected {some}the {len(asked)} that were asked for")


def _table(
    ordered: Sequence[Upload], request: Request, *, chooses: bool
) -> tuple[Tensor, Tensor | None]:
    """Return all values [K, N, C] and, where clients choose, who answered for what [K, N]."""
    knowledge = [narrowed(upload.knowledge, Predictions) for upload in ordered]
    if not knowledge:
        return torch.zeros(0, len(request.public_ids), request.classes), None
    rows = [mine.values.to(torch.float32) for mine in knowledge]
    if not chooses:
        return torch.stack(rows), None
    values = torch.zeros(len(ordered), len(request.public_ids), request.classes)
    answered = torch.stack([torch.isin(request.public_ids, mine.ids) for mine in knowledge])
    for row, mine in enumerate(rows):
        values[row, answered[row]] = mine
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


def check_sample_weights(weights: Tensor | None, samples: int, *, weighs: bool) -> None:
    """Raise RunError unless these are weights [N] of the samples that are taught, or None."""
    if weights is None:
        return
    if not weighs:
        raise RunError(
            "fuse returned sample_weights, which its knowledge does not announce; declare"
            " PublicPredictions(..., weighs_samples=True)"
        )
    check_tensor("sample_weights", weights, f"{[samples]}")
    if tuple(weights.shape) != (samples,) or not bool(
        torch.isfinite(weights).all() and (weights >= 0).all()
    ):
        raise RunError(
            f"fuse returned sample_weights {list(weights.shape)}, expected {[samples]} numbers >= 0"
        )


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
    for name, kinds, expected in (
        ("ids", "iu", "whole numbers"),
        (scale, "fiubc", "numbers"),
        ("scores", "f", "numbers"),
        ("weights", "f", "numbers"),
    ):
        if name in arrays and arrays[name].dtype.kind not in kinds:
            raise UploadRejected(
                f"expected {name} to be {expected}, got an array of {arrays[name].dtype}"
            )


def are_distributions(rows: Float[Tensor, "*batch C"], tolerance: float) -> bool:
    """Return whether all rows are finite, >= 0 and sum to 1 within ``tolerance``."""
    sums = rows.sum(dim=-1)
    return bool(
        torch.isfinite(rows).all() and (rows >= 0).all() and ((sums - 1).abs() <= tolerance).all()
    )
