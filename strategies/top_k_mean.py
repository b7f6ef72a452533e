"""Adaptive top k (after arXiv 2509.01750): a class's mean is over the clients that sent it.

Clients send as many of the likeliest classes (of text, tokens) of each sample as they need.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedkd.codecs.codec import shape_part, take_part, take_shape
from fedkd.codecs.labels import label_type
from fedkd.errors import SettingError, UploadRejected
from fedkd.knowledge import ClientView, KnowledgeType, PublicPredictions, Request, narrowed
from fedkd.messages import Cohort, Fusion, Knowledge, Predictions
from fedkd.settings.validators import at_least, check_choices

NAME = "the likeliest classes"
ARRAYS = {"ids", "shape", "counts", "classes", "amounts"}
"""The arrays that travel."""


@dataclass(frozen=True, kw_only=True)
class TopKMean:
    """Teach the mean of soft labels of which clients sent the likeliest classes alone.

        k(x)   fewest classes that hold ``mass`` of a client's soft label of x, at most ``most``
        up     these classes of x, with their probabilities p_j(c | x)
        q_c    sum of p_j(c | x) over the clients S_c(x) that sent c, / |S_c(x)|, then q / sum_c q_c

    With ``over=all`` it is the mean over all K clients, to whom a class that they did not send is
    0: what few clients know is then diluted by those that do not know it. A class that nobody sent
    is taught as 0. Known to us from the abstract of the paper, whose k follows the quality of a
    wireless channel, and which fuses logits; that k follows the mass of a prediction is ours.
    """

    mass: float = 0.9
    """Probability that the classes sent of a sample hold at least, above 0 and at most 1."""
    most: int = 32
    """Classes of a sample that are sent at most, >= 1."""
    over: Literal["senders", "all"] = "senders"
    """Average a class over the clients that sent it, or over all."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(1, most=self.most)
        if not 0 < self.mass <= 1:
            raise SettingError(f"mass must be above 0 and at most 1, got {self.mass:g}")

    @property
    def knowledge(self) -> KnowledgeType:
        """The likeliest classes of each sample."""
        return LikeliestClasses("probs", mass=self.mass, most=self.most)

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return the common teacher; ``weights`` are each client's mean share in it."""
        sent = cohort.probs > 0
        parts = class_parts(cohort.probs, sent if self.over == "senders" else None)
        norm = parts.sum(dim=(0, 2), keepdim=True)  # [1, N, 1]
        shares = (parts / norm).sum(dim=2).mean(dim=1)
        counts = sent.sum(dim=2, dtype=torch.float32)
        return Fusion(
            weights=shares.expand(cohort.size, -1).clone(),
            teachers=(parts / norm).sum(dim=0),
            metrics={
                "classes_sent": counts.mean().item(),
                "senders": (counts.sum() / sent.any(dim=0).sum()).item(),
            },
        )


def class_parts(
    probs: Float[Tensor, "K N C"], sent: Bool[Tensor, "K N C"] | None
) -> Float[Tensor, "K N C"]:
    """Return each client's part in the mean of each class, over its senders or else over all.

    >>> probs = torch.tensor([[[0.6, 0.4, 0.0]], [[0.8, 0.0, 0.0]]])
    >>> class_parts(probs, probs > 0).sum(dim=0)
    tensor([[0.7000, 0.4000, 0.0000]])
    """
    if sent is None:
        return probs / len(probs)
    return probs / sent.sum(dim=0).clamp(min=1)


def likeliest(probs: Float[Tensor, "N C"], mass: float, most: int) -> Bool[Tensor, "N C"]:
    """Return a mask of the fewest classes of each row that hold a mass; ties go to the lowest.

    Args:
        probs: Soft labels.
        mass: What they hold at least, where ``most`` lets them.
        most: How many they are at most.

    >>> likeliest(torch.tensor([[0.1, 0.6, 0.3], [0.95, 0.0, 0.05]]), 0.9, 2).tolist()
    [[False, True, True], [True, False, False]]
    """
    ordered, classes = probs.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(dim=1) - ordered
    needed = before < mass
    needed[:, most:] = False
    return torch.zeros_like(needed).scatter(1, classes, needed) & (probs > 0)


@dataclass(frozen=True)
class LikeliestClasses(PublicPredictions):
    """Soft labels of which each row holds its likeliest classes alone; the others are 0.

    They travel as a count for each sample and that many classes with their probabilities. They are
    no predictions that noise could be added to: a class that was not sent says something too.
    """

    mass: float = 0.9
    most: int = 32
    predicts: ClassVar[bool] = False
    in_words: ClassVar[str] = "the likeliest classes of public samples"
    reveals_model_only: ClassVar[bool] = True

    def extract(self, view: ClientView) -> Predictions:
        """Return the soft labels without their tails."""
        whole = super().extract(view)
        mask = likeliest(whole.values, self.mass, self.most)
        return Predictions(ids=whole.ids, values=whole.values * mask, scale="probs")

    def encode(self, knowledge: Knowledge) -> dict[str, np.ndarray]:
        """Return ids, shape, a count for each row, and its classes and probabilities in turn."""
        sent = narrowed(knowledge, Predictions)
        mask = (sent.values > 0).numpy()
        width = mask.shape[1]
        return {
            "ids": sent.ids.numpy().astype(np.int32),
            "shape": shape_part(mask.shape),
            "counts": mask.sum(axis=1).astype(label_type(width + 1)),
            "classes": mask.nonzero()[1].astype(label_type(width)),
            "amounts": sent.values.numpy()[mask].astype(np.float32),
        }

    def decode(self, arrays: Mapping[str, np.ndarray]) -> Predictions:
        """Return the rows; UploadRejected for arrays that encode none."""
        if set(arrays) != ARRAYS:
            raise UploadRejected(
                f"expected the arrays {', '.join(sorted(ARRAYS))}, got"
                f" {', '.join(sorted(arrays)) or 'none'}"
            )
        shape = take_shape(NAME, dict(arrays))
        if len(shape) != 2 or shape[1] < 1:
            raise UploadRejected(f"{NAME} must be rows of classes, got shape {list(shape)}")
        rows, width = shape
        parts = dict(arrays)
        ids = take_part(NAME, parts, "ids", np.int32, rows)
        counts = take_part(NAME, parts, "counts", label_type(width + 1), rows).astype(np.int64)
        total = int(counts.sum())
        classes = take_part(NAME, parts, "classes", label_type(width), total).astype(np.int64)
        amounts = take_part(NAME, parts, "amounts", np.float32, total)
        where = np.repeat(np.arange(rows), counts)
        follows = where[1:] == where[:-1]
        if (classes >= width).any() or (follows & (classes[1:] <= classes[:-1])).any():
            raise UploadRejected(f"the classes of {NAME} must ascend in each row, below {width}")
        if (amounts <= 0).any():
            raise UploadRejected(f"the probabilities of {NAME} must be > 0")
        values = torch.zeros(rows, width)
        values[torch.from_numpy(where), torch.from_numpy(classes)] = torch.from_numpy(
            amounts.copy()
        )
        found = torch.from_numpy(ids.astype(np.int64))
        return Predictions(ids=found, values=values, scale="probs")

    def check(self, knowledge: Knowledge, request: Request, client_id: int) -> None:
        """Raise UploadRejected unless each row is a part of a soft label, and not empty."""
        sent = narrowed(knowledge, Predictions)
        values = sent.values
        if values.ndim == 2 and values.is_floating_point() and len(values):
            if (values == 0).all(dim=1).any():
                raise UploadRejected("each sample needs a class at least")
            values = completed(values)
        super().check(replace(sent, values=values), request, client_id)


def completed(probs: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
    """Return rows in which what lacks to 1 is spread over the classes of 0.

    >>> completed(torch.tensor([[0.6, 0.0, 0.0], [0.5, 0.25, 0.25]]))
    tensor([[0.6000, 0.2000, 0.2000],
            [0.5000, 0.2500, 0.2500]])
    """
    absent = probs == 0
    lacks = (1 - probs.sum(dim=1, keepdim=True)) / absent.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(absent, lacks.clamp(min=0), probs)
