"""Heads up, generated features down: what FedGen's clients exchange in place of samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.errors import NotFinite, RunError, UploadRejected
from fedkd.knowledge.global_head import LastLinear
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
from fedkd.knowledge.received import check_names, check_numbers
from fedkd.messages import AcceptedUploads, Fusion, Knowledge, Upload
from fedkd.runtime.devices import sent
from fedkd.settings.conditions import LearnedBy, RunConditions


@dataclass(frozen=True, kw_only=True)
class LabeledFeatures:
    """A teacher: ``features`` [S, d] with the ``labels`` [S] that they were made for."""

    features: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class HeadCohort(AcceptedUploads):
    """The accepted last layers of one round, sorted by client id, and the clients' label counts."""

    weight: Float[Tensor, "K C d"]
    bias: Float[Tensor, "K C"]
    label_counts: Float[Tensor, "K C"]


@dataclass(frozen=True, kw_only=True)
class GeneratedFeatures(KnowledgeType):
    """The knowledge of FedGen on heads: last layers up, labeled features down.

    Zhu et al. 2021, arXiv 2105.10056. A fusion's ``teachers`` are a mapping of ``features`` [S, d]
    and ``labels`` [S], the same for all clients. The term of the training loss is ``weight`` times
    the mean cross entropy of the client's last layer on a batch of them, as large as the private
    one, drawn anew for each step. It trains the last layer alone.
    """

    weight: float
    learned_by: ClassVar[LearnedBy] = "train"
    in_words: ClassVar[str] = "their last layer, and how many samples of each class they have"
    uses_features: ClassVar[bool] = False

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with tokens, or with models without gradients."""
        return conflict_without_classes(
            conditions, "exchanges features of classes"
        ) or super().conflict(conditions)

    def misfit(self, request: Request) -> str | None:
        """Return which architecture's last layer has no bias."""
        for name, head in request.heads.items():
            if f"{head}.bias" not in request.shapes.get(name, {f"{head}.bias": ()}):
                return f"the last layer of {name}, {head}, has no bias"
        return None

    def most_values(self, request: Request, client_id: int) -> int:
        """Return the values of a last layer."""
        wide = request.features[request.architectures[client_id]]
        return request.classes * (wide + 1)

    def extract(self, view: ClientView) -> LastLinear:
        """Return a copy of the model's last layer."""
        layer = _head(view)
        weight, bias = (t.detach().cpu().float().clone() for t in (layer.weight, layer.bias))
        return LastLinear(weight=weight, bias=bias)

    def encode(self, knowledge: Knowledge) -> dict[str, np.ndarray]:
        """Return ``weight`` and ``bias``, or ``features`` and ``labels`` as int32."""
        if isinstance(knowledge, LabeledFeatures):
            labels = knowledge.labels.numpy().astype(np.int32)
            return {"features": knowledge.features.numpy(), "labels": labels}
        layer = narrowed(knowledge, LastLinear)
        return {"weight": layer.weight.numpy(), "bias": layer.bias.numpy()}

    def decode(self, arrays: Mapping[str, np.ndarray]) -> LastLinear | LabeledFeatures:
        """Return the layer or the features in the arrays; UploadRejected for neither."""
        if set(arrays) == {"features", "labels"}:
            features, labels = arrays["features"], arrays["labels"]
            if features.dtype.kind != "f" or labels.dtype.kind not in "iu":
                raise UploadRejected("expected features to be numbers and labels whole numbers")
            if features.ndim != 2 or labels.shape != features.shape[:1]:
                raise UploadRejected("expected features [S, d] and labels [S]")
            return LabeledFeatures(
                features=torch.tensor(features, dtype=torch.float32),
                labels=torch.tensor(labels).to(torch.int64),
            )
        check_names(arrays, "weight", "bias")
        weight, bias = arrays["weight"], arrays["bias"]
        if weight.dtype.kind != "f" or bias.dtype.kind != "f":
            raise UploadRejected("expected weight and bias to be numbers")
        return LastLinear(
            weight=torch.tensor(weight, dtype=torch.float32),
            bias=torch.tensor(bias, dtype=torch.float32),
        )

    def check(self, knowledge: Knowledge, request: Request, client_id: int) -> None:
        """Raise UploadRejected unless this is a finite last layer of the client's model."""
        if not isinstance(knowledge, LastLinear):
            raise UploadRejected("expected a last layer, got generated features")
        wide = request.features[request.architectures[client_id]]
        check_numbers("weight", knowledge.weight, (request.classes, wide), LARGEST)
        check_numbers("bias", knowledge.bias, (request.classes,), LARGEST)

    def stack(self, uploads: Sequence[Upload], request: Request) -> HeadCohort:
        """Return the cohort of last layers that passed ``check``, sorted by client id."""
        ordered = sorted(uploads, key=lambda upload: upload.client_id)
        ids = tuple(upload.client_id for upload in ordered)
        layers = [narrowed(upload.knowledge, LastLinear) for upload in ordered]
        counts = request.label_counts or {}
        return HeadCohort(
            round=request.round,
            client_ids=ids,
            train_sizes=tuple(request.train_sizes[i] for i in ids),
            weight=torch.stack([layer.weight for layer in layers]),
            bias=torch.stack([layer.bias for layer in layers]),
            label_counts=torch.tensor([counts[i] for i in ids], dtype=torch.float32),
        )

    def check_fusion(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> None:
        """Raise RunError unless the features are finite, as wide as the models', and labeled."""
        check_weights(fusion.weights, len(client_ids))
        teacher = _fused(fusion.teachers)
        wide = request.features[request.architectures[0]]
        rows = len(teacher.labels)
        if tuple(teacher.features.shape) != (rows, wide) or teacher.labels.ndim != 1:
            raise RunError(
                f"fuse returned features {list(teacher.features.shape)} for {rows} labels, expected"
                f" {[rows, wide]}"
            )
        if not torch.isfinite(teacher.features).all():
            raise NotFinite("fuse returned features that are not finite")

    def teachers(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> Teachers:
        """Return the features as the teacher of all clients, absent ones included."""
        return Teachers(common=_fused(fusion.teachers))

    def penalty(self, view: ClientView, teacher: Knowledge | None) -> Penalty | None:
        """Return the loss of the last layer on a batch of the features; None without any."""
        if teacher is None:
            return None
        known, layer = narrowed(teacher, LabeledFeatures), _head(view)
        if len(known.labels) == 0:
            return None
        device, stream = view.private_labels().device, view.stream("generated features")
        features, labels = sent(known.features, device), sent(known.labels, device)
        weight = self.weight

        def term(
            batch: Int[Tensor, "batch"], logits: Float[Tensor, "batch C"], of: object
        ) -> Float[Tensor, ""]:
            drawn = torch.from_numpy(stream.integers(len(labels), size=len(batch)))
            rows = sent(drawn, device)
            return weight * F.cross_entropy(layer(features[rows]), labels[rows])

        return term


def _head(view: ClientView) -> nn.Linear:
    """Return the last linear layer of a client's model."""
    assert view.head is not None, "declared in needs"
    layer = view.model.get_submodule(view.head)
    assert isinstance(layer, nn.Linear), "found as the last linear layer"
    return layer


def _fused(teachers: object) -> LabeledFeatures:
    """Return the features of a fusion; RunError where there are none."""
    if not isinstance(teachers, Mapping) or set(teachers) != {"features", "labels"}:
        raise RunError("fuse must return teachers as a mapping of features [S, d] and labels [S]")
    return LabeledFeatures(features=teachers["features"], labels=teachers["labels"])
