"""Class prototypes: a client's mean features for each class of its private set, with counts.

No public set is needed. Not for predictions: a prototype lives in the space of features, which only
models that learned together share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fedkd.errors import NotFinite, RunError, UploadRejected
from fedkd.knowledge.knowledge_type import (
    ClientView,
    KnowledgeType,
    Penalty,
    Request,
    Teachers,
    conflict_without_classes,
    narrowed,
)
from fedkd.knowledge.nearest import NearestPrototype, own_counts, own_means
from fedkd.knowledge.predictions import LARGEST, check_weights
from fedkd.knowledge.received import check_names
from fedkd.messages import AcceptedUploads, Fusion, Knowledge, Upload
from fedkd.settings.conditions import LearnedBy, RunConditions

Prediction = Literal["head", "nearest", "nearest_own"]
"""By the model's last layer, or by the nearest prototype of all classes, or of those of the
client's own training set."""


@dataclass(frozen=True, kw_only=True)
class Prototypes:
    """Mean features by class: row y of ``features`` [C, d] is for class y, ``counts`` [C] samples.

    Rows of classes with a count of 0 are zeros without a meaning. A teacher's counts are 1 or 0: it
    says which rows exist, not how many samples others have.
    """

    features: Tensor
    counts: Tensor


@dataclass(frozen=True, kw_only=True)
class PrototypeCohort(AcceptedUploads):
    """The accepted prototypes of one round, stacked by client id."""

    features: Float[Tensor, "K C d"]
    counts: Float[Tensor, "K C"]


@dataclass(frozen=True, kw_only=True)
class ClassPrototypes(KnowledgeType):
    """The knowledge of FedProto: prototypes, learned from by a term of the training loss.

    Tan et al. 2022, arXiv 2105.00243.

    A fusion's ``teachers`` are a mapping of ``features`` [C, d] and ``present`` [C], common to all.
    The term of the training loss is ``weight * mean over batch and d of (f(x) - c_y)^2``, where f
    are features, as wide as d, and c_y the teacher's row of the sample's label; samples whose row
    is missing add nothing, and count in the mean.

    ``width`` makes features of any model that wide by adaptive average pooling: entry i is the mean
    over its stretch of the features. None takes them as they are, which must then be equally wide
    for all clients.
    """

    weight: float
    width: int | None = None
    prediction: Prediction = "head"
    """What clients predict by; the default measures ``classify`` among own classes."""
    learned_by: ClassVar[LearnedBy] = "train"
    in_words: ClassVar[str] = "the mean features of each class of their private set"
    uses_features: ClassVar[bool] = True

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with data without classes, or with models without gradients."""
        return conflict_without_classes(
            conditions, "exchanges what images of a class have in common"
        ) or super().conflict(conditions)

    @property
    def predicts_alone(self) -> bool:
        """Whether the last layer predicts."""
        return self.prediction == "head"

    def most_values(self, request: Request, client_id: int) -> int:
        """Return the values of a prototype of each class."""
        return request.classes * self._width(request, client_id)

    def extract(self, view: ClientView) -> Prototypes:
        """Return the mean features, in evaluation mode, of each class of the private set."""
        return Prototypes(features=own_means(view, self.pooled), counts=own_counts(view))

    def pooled(self, features: Float[Tensor, "n wide"]) -> Float[Tensor, "n d"]:
        """Return features pooled to the width of prototypes.

        >>> ClassPrototypes(weight=1.0, width=2).pooled(torch.tensor([[1.0, 3.0, 5.0, 7.0]]))
        tensor([[2., 6.]])
        """
        if self.width is None or features.shape[1] == self.width:
            return features
        return F.adaptive_avg_pool1d(features[:, None], self.width)[:, 0]

    def encode(self, knowledge: Knowledge) -> dict[str, np.ndarray]:
        """Return ``counts`` and the rows of ``features`` that exist; others do not travel."""
        mean = narrowed(knowledge, Prototypes)
        return {
            "counts": mean.counts.numpy().astype(np.int32),
            "features": mean.features[mean.counts > 0].numpy(),
        }

    def decode(self, arrays: Mapping[str, np.ndarray]) -> Prototypes:
        """Return the prototypes that the arrays encode; UploadRejected where they encode none."""
        check_names(arrays, "counts", "features")
        counts, rows = arrays["counts"], arrays["features"]
        if (
            counts.ndim != 1
            or counts.dtype.kind not in "iu"
            or rows.ndim != 2
            or rows.dtype.kind != "f"
        ):
            raise UploadRejected(
                "expected counts to be whole numbers [C] and features to be numbers [rows, d]"
            )
        if len(rows) != int((counts > 0).sum()):
            raise UploadRejected(
                f"expected {int((counts > 0).sum())} rows, one for each count above 0, got"
                f" {len(rows)}"
            )
        totals = torch.tensor(counts).to(torch.int64)
        features = torch.zeros(len(counts), rows.shape[1])
        features[totals > 0] = torch.tensor(rows, dtype=torch.float32)
        return Prototypes(features=features, counts=totals)

    def check(self, knowledge: Knowledge, request: Request, client_id: int) -> None:
        """Raise UploadRejected on wrong shapes, bad values, and counts of another training size."""
        mean = narrowed(knowledge, Prototypes)
        wide = self._width(request, client_id)
        if (
            tuple(mean.features.shape) != (request.classes, wide)
            or len(mean.counts) != request.classes
        ):
            raise UploadRejected(
                f"expected prototypes {[request.classes, wide]}, got"
                f" {list(mean.features.shape)} with {len(mean.counts)} counts"
            )
        if not torch.isfinite(mean.features).all():
            raise UploadRejected(
                f"features contain {'NaN' if mean.features.isnan().any() else 'infinity'}"
            )
        if mean.features.abs().max() > LARGEST:
            raise UploadRejected(
                f"features are as large as {mean.features.abs().max():.3g}; at most {LARGEST:g}"
            )
        samples = request.train_sizes[client_id]
        if (mean.counts < 0).any() or int(mean.counts.sum()) != samples:
            raise UploadRejected(
                f"counts must be >= 0 and sum to the {samples} training samples of this client,"
                f" got {mean.counts.tolist()[:10]}"
            )

    def stack(self, uploads: Sequence[Upload], request: Request) -> PrototypeCohort:
        """Return the cohort of prototypes that passed ``check``, sorted by client id."""
        ordered = sorted(uploads, key=lambda upload: upload.client_id)
        ids = tuple(upload.client_id for upload in ordered)
        means = [narrowed(upload.knowledge, Prototypes) for upload in ordered]
        return PrototypeCohort(
            round=request.round,
            client_ids=ids,
            features=torch.stack([mean.features for mean in means]),
            counts=torch.stack([mean.counts for mean in means]).to(torch.float32),
            train_sizes=tuple(request.train_sizes[i] for i in ids),
        )

    def check_fusion(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> None:
        """Raise RunError unless weights and prototypes are of the right shape and range."""
        check_weights(fusion.weights, len(client_ids))
        features, present = _fused_prototypes(fusion.teachers)
        if (
            features.ndim != 2
            or len(features) != request.classes
            or tuple(present.shape) != (request.classes,)
        ):
            raise RunError(
                f"fuse returned features {list(features.shape)} and present {list(present.shape)},"
                f" expected {[request.classes, 'd']} and {[request.classes]}"
            )
        if not torch.isfinite(features).all():
            raise NotFinite("fuse returned features that are not finite")

    def teachers(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> Teachers:
        """Return the common prototypes as the teacher of all clients, absent ones included."""
        features, present = _fused_prototypes(fusion.teachers)
        return Teachers(
            common=Prototypes(features=features * present[:, None], counts=present.to(torch.int64))
        )

    def classify(self, view: ClientView, teacher: Knowledge, inputs: Tensor) -> Int[Tensor, "n"]:
        """Return the class of the prototype that is nearest to each input's features.

        Only classes of the client's private set count, unless accuracies are those of the nearest
        prototype of all classes.
        """
        prototypes = narrowed(teacher, Prototypes)
        counts = self._predicted(view, prototypes)
        features = self.pooled(view.features_of(inputs))
        distances = torch.cdist(features, prototypes.features.cpu())
        nearest = distances.masked_fill(~counts, torch.inf).argmin(dim=1)
        return nearest if bool(counts.any()) else torch.full_like(nearest, -1)

    def predictor(self, view: ClientView, teacher: Knowledge | None) -> nn.Module | None:
        """Return what predicts by the nearest prototype, where that is asked for and there are."""
        if self.prediction == "head" or teacher is None:
            return None
        prototypes = narrowed(teacher, Prototypes)
        counts = self._predicted(view, prototypes)
        if not bool(counts.any()):
            return None
        return NearestPrototype(view.model, view.head, prototypes.features, counts, self.pooled)

    def _predicted(self, view: ClientView, prototypes: Prototypes) -> Bool[Tensor, "C"]:
        """Return which classes a client may predict by prototypes."""
        exist = prototypes.counts.cpu() > 0
        return exist if self.prediction == "nearest" else exist & (own_counts(view) > 0)

    def _width(self, request: Request, client_id: int) -> int:
        return self.width or request.features[request.architectures[client_id]]

    def penalty(self, view: ClientView, teacher: Knowledge | None) -> Penalty | None:
        """Return the mean squared distance of features from their class's prototype."""
        if teacher is None:
            return None
        mean, labels = narrowed(teacher, Prototypes), view.private_labels()
        rows, present = mean.features.to(labels.device), (mean.counts > 0).to(labels.device)
        weight = self.weight

        def term(
            batch: Int[Tensor, "batch"],
            logits: Float[Tensor, "batch C"],
            features: Float[Tensor, "batch wide"] | None,
        ) -> Float[Tensor, ""]:
            assert features is not None, "the kind uses features"
            own = labels[batch]
            apart = (self.pooled(features) - rows[own]).square().mean(dim=1)
            return weight * (apart * present[own]).mean()

        return term


def _fused_prototypes(teachers: object) -> tuple[Tensor, Tensor]:
    """Return the ``features`` and ``present`` of a fusion's teachers; RunError without them."""
    if not isinstance(teachers, Mapping) or set(teachers) != {"features", "present"}:
        raise RunError("fuse must return teachers as a mapping of features [C, d] and present [C]")
    return teachers["features"], teachers["present"]
