"""Gram matrices: products of a client's features of public samples.

[N, N] numbers that depend neither on classes nor on the width of features. Not for predictions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

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
from fedkd.knowledge.predictions import check_tensor, check_weights
from fedkd.knowledge.received import check_names, check_numbers
from fedkd.messages import AcceptedUploads, Fusion, Knowledge, Upload
from fedkd.settings.conditions import LearnedBy, RunConditions

LARGEST = 1e12
"""The largest magnitude of an uploaded product of features."""


@dataclass(frozen=True, kw_only=True)
class Gram:
    """Products ``kernel`` [N, N] of the features of public samples ``ids`` [N]."""

    ids: Tensor
    kernel: Tensor


@dataclass(frozen=True, kw_only=True)
class GramCohort(AcceptedUploads):
    """The accepted matrices of one round, stacked by client id."""

    public_ids: Int[Tensor, "N"]
    kernels: Float[Tensor, "K N N"]


@dataclass(frozen=True, kw_only=True)
class GramMatrices(KnowledgeType):
    """The knowledge of FedHeNN: kernels of features, learned from by a term of the training loss.

    Makhija et al. 2022, arXiv 2202.07757. A fusion's ``teachers`` are a common kernel [N, N] on the
    round's public samples. The term is ``weight * (1 - CKA(K, teacher))``, times t in round t where
    it ``rises``, K the kernel of the model's features of those samples as it trains.
    """

    weight: float
    rises: bool = False
    learned_by: ClassVar[LearnedBy] = "train"
    in_words: ClassVar[str] = "products of their features of public samples"
    uses_features: ClassVar[bool] = False
    asks_about_public: ClassVar[bool] = True

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with tokens, or with models without gradients."""
        return conflict_without_classes(
            conditions, "compares features of whole samples"
        ) or super().conflict(conditions)

    def most_values(self, request: Request, client_id: int) -> int:
        """Return the values of one kernel."""
        return len(request.public_ids) ** 2

    def extract(self, view: ClientView) -> Gram:
        """Return the kernel of the model's features in evaluation mode."""
        features = view.public_features().to(torch.float64)
        return Gram(ids=view.public_ids(), kernel=(features @ features.T).to(torch.float32))

    def encode(self, knowledge: Knowledge) -> dict[str, np.ndarray]:
        """Return ``ids`` as int32 and the upper half of the kernel, which is symmetric."""
        gram = narrowed(knowledge, Gram)
        rows, columns = np.triu_indices(len(gram.ids))
        return {
            "ids": gram.ids.numpy().astype(np.int32),
            "kernel": gram.kernel.numpy()[rows, columns],
        }

    def decode(self, arrays: Mapping[str, np.ndarray]) -> Gram:
        """Return the matrix that the arrays encode; UploadRejected where they encode none."""
        check_names(arrays, "ids", "kernel")
        ids, half = arrays["ids"], arrays["kernel"]
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or half.ndim != 1 or half.dtype.kind != "f":
            raise UploadRejected("expected ids to be whole numbers [N] and kernel numbers")
        if len(half) != len(ids) * (len(ids) + 1) // 2:
            raise UploadRejected(
                f"expected the {len(ids) * (len(ids) + 1) // 2} numbers of half a kernel of"
                f" {len(ids)} samples, got {len(half)}"
            )
        rows, columns = np.triu_indices(len(ids))
        kernel = torch.zeros(len(ids), len(ids))
        numbers = torch.tensor(half, dtype=torch.float32)
        kernel[rows, columns] = numbers
        kernel[columns, rows] = numbers
        return Gram(ids=torch.tensor(ids).to(torch.int64), kernel=kernel)

    def check(self, knowledge: Knowledge, request: Request, client_id: int) -> None:
        """Raise UploadRejected on other samples than those asked about, and on bad values."""
        gram = narrowed(knowledge, Gram)
        if not torch.equal(gram.ids, request.public_ids):
            raise UploadRejected("a kernel of other public samples than those that were asked for")
        check_numbers("kernel", gram.kernel, (len(gram.ids), len(gram.ids)), LARGEST)

    def stack(self, uploads: Sequence[Upload], request: Request) -> GramCohort:
        """Return the cohort of matrices that passed ``check``, sorted by client id."""
        ordered = sorted(uploads, key=lambda upload: upload.client_id)
        ids = tuple(upload.client_id for upload in ordered)
        size = len(request.public_ids)
        kernels = [narrowed(upload.knowledge, Gram).kernel for upload in ordered]
        return GramCohort(
            round=request.round,
            client_ids=ids,
            train_sizes=tuple(request.train_sizes[i] for i in ids),
            public_ids=request.public_ids,
            kernels=torch.stack(kernels) if kernels else torch.zeros(0, size, size),
        )

    def check_fusion(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> None:
        """Raise RunError unless weights and the common kernel have the right shape and range."""
        check_weights(fusion.weights, len(client_ids))
        size = len(request.public_ids)
        kernel = check_tensor("teachers", fusion.teachers, f"{[size, size]}")
        if tuple(kernel.shape) != (size, size):
            raise RunError(f"fuse returned a kernel {list(kernel.shape)}, expected {[size, size]}")
        if not torch.isfinite(kernel).all():
            raise NotFinite("fuse returned a kernel that is not finite")

    def teachers(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> Teachers:
        """Return the common kernel as the teacher of all clients."""
        kernel = narrowed(fusion.teachers, Tensor)
        return Teachers(common=Gram(ids=request.public_ids, kernel=kernel))

    def penalty(self, view: ClientView, teacher: Knowledge | None) -> Penalty | None:
        """Return how far the model's kernel on public samples is from the teacher's."""
        if teacher is None:
            return None
        gram = narrowed(teacher, Gram)
        goal = gram.kernel.to(view.private_labels().device)
        weight = self.weight * (view.round if self.rises else 1)

        def term(
            batch: Int[Tensor, "batch"], logits: Float[Tensor, "batch C"], features: object
        ) -> Float[Tensor, ""]:
            own = view.features_with_gradient(gram.ids)
            return weight * (1 - kernel_alignment(own @ own.T, goal))

        return term


def kernel_alignment(one: Float[Tensor, "N N"], other: Float[Tensor, "N N"]) -> Float[Tensor, ""]:
    """Return the centred alignment of two kernels: 1 where one is a multiple of the other.

    ``<HKH, HLH> / (|HKH| |HLH|)`` with H = I - 1/N (Cortes et al. 2012): of kernels as they are, in
    [0, 1] where both are Gram matrices. 0 where a centred kernel is 0.

    >>> kernel = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    >>> round(kernel_alignment(kernel, 5 * kernel).item(), 6)
    1.0
    """

    def centred(kernel: Tensor) -> Tensor:
        means = kernel.mean(dim=0)
        return kernel - means - means[:, None] + means.mean()

    first, second = centred(one), centred(other)
    found: Tensor = (first * second).sum() / (first.norm() * second.norm()).clamp(min=1e-12)
    return found
