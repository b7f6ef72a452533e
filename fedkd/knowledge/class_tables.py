"""Class tables: a client's mean soft label for each class of its private set; no public set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedkd.errors import RunError, UploadRejected
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
from fedkd.knowledge.predictions import TOLERANCE, are_distributions, check_weights
from fedkd.knowledge.received import check_names
from fedkd.messages import AcceptedUploads, Fusion, Knowledge, Upload
from fedkd.settings.conditions import LearnedBy, RunConditions


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """A table of mean soft labels: row y of ``probs`` [C, C] is for true class y.

    ``present`` [C] flags the rows that exist. The other rows are zeros without a meaning.
    """

    probs: Tensor
    present: Tensor


@dataclass(frozen=True, kw_only=True)
class TableCohort(AcceptedUploads):
    """The accepted tables of one round, stacked by client id."""

    probs: Float[Tensor, "K C C"]
    present: Bool[Tensor, "K C"]


@dataclass(frozen=True, kw_only=True)
class ClassTables(KnowledgeType):
    """The knowledge of FD: class tables, learned from by a term of the private training's loss.

    Jeong et al. 2018, arXiv 1811.11479.

    A fusion's ``teachers`` are a mapping of ``probs`` [K, C, C] and ``present`` [K, C]. The term of
    the training loss is ``weight * mean over the batch of -sum_c q_y(c) ln p(c)``, where q_y is the
    teacher's row of the sample's label; samples whose row is missing add nothing, and count in the
    mean.
    """

    weight: float
    learned_by: ClassVar[LearnedBy] = "train"
    in_words: ClassVar[str] = "the mean soft label of each class of their private set"
    uses_features: ClassVar[bool] = False

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with data without classes, or with models without gradients."""
        return conflict_without_classes(
            conditions, "exchanges what images of a class have in common"
        ) or super().conflict(conditions)

    def most_values(self, request: Request, client_id: int) -> int:
        """Return the values of a whole table."""
        return request.classes**2

    def extract(self, view: ClientView) -> ClassTable:
        """Return the mean soft label, at temperature 1, of each class of the private set."""
        probs = soften(view.private_logits().to(torch.float64), 1.0)
        labels = view.private_labels().cpu()
        counts = torch.bincount(labels, minlength=view.classes)
        sums = torch.zeros(view.classes, view.classes, dtype=torch.float64)
        means = sums.index_add_(0, labels, probs) / counts.clamp(min=1)[:, None]
        return ClassTable(probs=means.to(torch.float32), present=counts > 0)

    def encode(self, knowledge: Knowledge) -> dict[str, np.ndarray]:
        """Return ``present`` and the rows of ``probs`` that are present; others do not travel."""
        table = narrowed(knowledge, ClassTable)
        return {
            "present": table.present.numpy().astype(np.uint8),
            "probs": table.probs[table.present].numpy(),
        }

    def decode(self, arrays: Mapping[str, np.ndarray]) -> ClassTable:
        """Return the table that the arrays encode; UploadRejected where they encode none."""
        check_names(arrays, "present", "probs")
        present, rows = arrays["present"], arrays["probs"]
        if present.ndim != 1 or present.dtype.kind not in "biu" or rows.dtype.kind != "f":
            raise UploadRejected("expected present to be flags [C] and probs to be numbers")
        if rows.shape != (int((present != 0).sum()), len(present)):
            raise UploadRejected(
                f"expected a row of {len(present)} for each class present, got {list(rows.shape)}"
            )
        probs, flags = torch.zeros(len(present), len(present)), torch.tensor(present != 0)
        probs[flags] = torch.tensor(rows, dtype=torch.float32)
        return ClassTable(probs=probs, present=flags)

    def check(self, knowledge: Knowledge, request: Request, client_id: int) -> None:
        """Raise UploadRejected on a wrong shape, an empty table, or rows that do not sum to 1."""
        table = narrowed(knowledge, ClassTable)
        if tuple(table.probs.shape) != (request.classes, request.classes):
            raise UploadRejected(
                f"expected a table of {[request.classes] * 2}, got {list(table.probs.shape)}"
            )
        if not table.present.any():
            raise UploadRejected("the table has no class at all")
        if not are_distributions(table.probs[table.present], TOLERANCE):
            raise UploadRejected("the rows of a table must be finite, >= 0 and sum to 1")

    def stack(self, uploads: Sequence[Upload], request: Request) -> TableCohort:
        """Return the cohort of tables that passed ``check``, sorted by client id."""
        ordered = sorted(uploads, key=lambda upload: upload.client_id)
        tables = [narrowed(upload.knowledge, ClassTable) for upload in ordered]
        ids = tuple(upload.client_id for upload in ordered)
        return TableCohort(
            round=request.round,
            client_ids=ids,
            probs=torch.stack([table.probs for table in tables]),
            present=torch.stack([table.present for table in tables]),
            train_sizes=tuple(request.train_sizes[i] for i in ids),
        )

    def check_fusion(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> None:
        """Raise RunError unless weights and tables are of the right shape and range."""
        clients, classes = len(client_ids), request.classes
        check_weights(fusion.weights, clients)
        probs, present = _fused_tables(fusion.teachers)
        if tuple(probs.shape) != (clients, classes, classes) or tuple(present.shape) != (
            clients,
            classes,
        ):
            raise RunError(
                f"fuse returned probs {list(probs.shape)} and present {list(present.shape)},"
                f" expected {[clients, classes, classes]} and {[clients, classes]}"
            )
        if not are_distributions(probs[present], 2 * TOLERANCE):
            raise RunError(
                "fuse returned probs whose present rows are no soft labels: each must be"
                " >= 0 and sum to 1"
            )

    def teachers(
        self, fusion: Fusion, client_ids: Sequence[int], request: Request, scale: str
    ) -> Teachers:
        """Return each client's table; a client whose table is empty has no teacher."""
        probs, present = _fused_tables(fusion.teachers)
        tables = {
            i: ClassTable(probs=probs[k], present=present[k]) for k, i in enumerate(client_ids)
        }
        return Teachers(personal={i: table for i, table in tables.items() if table.present.any()})

    def penalty(self, view: ClientView, teacher: Knowledge | None) -> Penalty | None:
        """Return the cross entropy with the teacher's row of each sample's label."""
        if teacher is None:
            return None
        table, labels = narrowed(teacher, ClassTable), view.private_labels()
        rows = (table.probs * table.present[:, None]).to(labels.device)
        weight = self.weight

        def term(
            batch: Int[Tensor, "batch"], logits: Float[Tensor, "batch C"], features: object
        ) -> Float[Tensor, ""]:
            return (
                weight * -(rows[labels[batch]] * F.log_softmax(logits, dim=-1)).sum(dim=-1).mean()
            )

        return term


def _fused_tables(teachers: object) -> tuple[Tensor, Tensor]:
    """Return the ``probs`` and ``present`` of a fusion's teachers; RunError where they are none."""
    if not isinstance(teachers, Mapping) or set(teachers) != {"probs", "present"}:
        raise RunError(
            "fuse must return teachers as a mapping of probs [K, C, C] and present [K, C]"
        )
    return teachers["probs"], teachers["present"]
