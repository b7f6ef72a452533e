"""Public-set predictions: one row of logits, or of soft labels, for each public sample asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.errors import RunError, UploadRejected
from fedkd.fusion import soften
from fedkd.knowledge.kind import Request
from fedkd.losses import Scale
from fedkd.messages import Cohort, Fusion, Predictions, Upload

TOLERANCE = 1e-3
"""How far an uploaded row of soft labels may be from summing to 1: float32 over a large vocabulary. What a strategy
makes of such rows may be twice as far."""
LARGEST = 1e6
"""The largest magnitude of an uploaded logit: no trained model comes near it, and sums of such logits are finite."""


@dataclass(frozen=True)
class PublicPredictions:
    """The kind of all public-set methods. ``scale`` says whether logits or soft labels are uploaded."""

    scale: Scale

    def extract(self, logits: Float[Tensor, "N C"], ids: Int[Tensor, "N"], temperature: float) -> Predictions:
        """Return the logits as they are, or their soft labels at ``temperature``."""
        values = logits if self.scale == "logits" else soften(logits, temperature)
        return Predictions(ids=ids, values=values, scale=self.scale)

    def arrays(self, knowledge: Predictions) -> dict[str, np.ndarray]:
        """Return ``ids`` as int32 (public sets have fewer than 2^31 rows) and ``values`` under their scale's name."""
        return {"ids": knowledge.ids.numpy().astype(np.int32), knowledge.scale: knowledge.values.numpy()}

    def knowledge(self, arrays: Mapping[str, np.ndarray]) -> Predictions:
        """Return the predictions in ``arrays``; UploadRejected where there are none of a known scale."""
        for scale in ("logits", "probs"):
            if set(arrays) == {"ids", scale}:
                _check_kinds(arrays, scale)
                values, ids = torch.tensor(arrays[scale]), torch.tensor(arrays["ids"]).to(torch.int64)
                return Predictions(ids=ids, values=values, scale=scale)
        raise UploadRejected(f"expected the arrays ids and {self.scale}, got {', '.join(sorted(arrays)) or 'none'}")

    def check(self, knowledge: Predictions, request: Request) -> None:
        """Raise UploadRejected on a wrong scale, shape, dtype or id, and on values that are no predictions."""
        values, expected = knowledge.values, (len(request.public_ids), request.classes)
        if knowledge.scale != self.scale:
            raise UploadRejected(f"expected {self.scale}, got {knowledge.scale}")
        if tuple(values.shape) != expected:
            raise UploadRejected(f"expected {self.scale} of shape {list(expected)}, got {list(values.shape)}")
        if not values.is_floating_point():
            raise UploadRejected(f"expected floating point {self.scale}, got {values.dtype}")
        if not torch.equal(knowledge.ids, request.public_ids):
            unknown = sorted(set(knowledge.ids.tolist()) - set(request.public_ids.tolist()))
            what = f"unknown public ids {unknown[:5]}" if unknown else "public ids in another order or number"
            raise UploadRejected(f"{what}; expected the {expected[0]} that were asked for")
        if not torch.isfinite(values).all():
            raise UploadRejected(f"{self.scale} contain {'NaN' if values.isnan().any() else 'infinity'}")
        if values.abs().max() > LARGEST:
            raise UploadRejected(f"{self.scale} are as large as {values.abs().max().item():.3g}; at most {LARGEST:g}")
        if self.scale == "probs" and not _are_distributions(values, TOLERANCE):
            raise UploadRejected("soft labels must be >= 0 and sum to 1 in each row")

    def stack(self, uploads: Sequence[Upload], request: Request) -> Cohort:
        """Return the cohort of uploads that passed ``check``, in the order of their client ids."""
        ordered = sorted(uploads, key=lambda upload: upload.client_id)
        ids = tuple(upload.client_id for upload in ordered)
        counts = None
        if request.label_counts is not None:
            counts = torch.tensor([request.label_counts[i] for i in ids], dtype=torch.float32)
        values = torch.stack([self.values(u.knowledge) for u in ordered if u.knowledge is not None])
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
        )

    def values(self, knowledge: Predictions) -> Float[Tensor, "N C"]:
        """Return the values as float32."""
        return knowledge.values.to(torch.float32)

    def check_fusion(self, fusion: Fusion, shape: tuple[int, int, int], scale: str) -> None:
        """Raise RunError where a strategy broke its promise: a bug in it, so the run cannot be trusted to go on."""
        clients, samples, classes = shape
        if tuple(fusion.weights.shape) != (clients, clients):
            raise RunError(f"fuse returned weights {list(fusion.weights.shape)}, expected {[clients, clients]}")
        if not _are_distributions(fusion.weights, 2 * TOLERANCE):
            raise RunError("fuse returned weights that are not finite, >= 0 and summing to 1 in each row")
        shapes = ((samples, classes), (clients, samples, classes))
        if tuple(fusion.teachers.shape) not in shapes:
            raise RunError(
                f"fuse returned teachers {list(fusion.teachers.shape)}, expected {list(shapes[1])} (personal) or"
                f" {list(shapes[0])} (common)"
            )
        if not torch.isfinite(fusion.teachers).all():
            raise RunError("fuse returned teachers that are not finite")
        if scale == "probs" and not _are_distributions(fusion.teachers, 2 * TOLERANCE):
            raise RunError("fuse returned teachers that are no soft labels; declare teaches = 'logits' to send logits")


def _check_kinds(arrays: Mapping[str, np.ndarray], scale: str) -> None:
    """Raise UploadRejected where arrays are not of numbers, before anything is made of them."""
    for name, kinds, expected in (("ids", "iu", "whole numbers"), (scale, "fiubc", "numbers")):
        if arrays[name].dtype.kind not in kinds:
            raise UploadRejected(f"expected {name} to be {expected}, got an array of {arrays[name].dtype}")


def _are_distributions(rows: Float[Tensor, "*batch C"], tolerance: float) -> bool:
    sums = rows.sum(dim=-1)
    return bool(torch.isfinite(rows).all() and (rows >= 0).all() and ((sums - 1).abs() <= tolerance).all())
