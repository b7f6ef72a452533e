"""RHFL (Fang & Ye 2022, doi 10.1109/CVPR52688.2022.00983): clients that learn well teach more.

Robust heterogeneous federated learning, for private labels of which some are wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fedkd.fusion import mix
from fedkd.knowledge import ClientView, KnowledgeType, PublicPredictions, Scorer
from fedkd.knowledge.beside_predictions import Moment
from fedkd.messages import Cohort, Fusion
from fedkd.settings.conditions import RunConditions
from fedkd.settings.validators import at_least

LARGEST = 1e4
"""The largest loss that a client reports."""


@dataclass(frozen=True, kw_only=True)
class RHFL:
    """Teach each client the others' soft labels, weighted by how far their training losses fell.

        q_j  = max(L_before - L_after, 0) / L_after    on client j's private set, in this round
        w_j  ~ exp(confidence q_j / sum_k q_k)         over the others, of sum 1
        q(x) = sum_{j != i} w_j p_j(x),  loss KL(q || p_i)

    The paper's sum of divergences from each other client has the gradient of the divergence from
    their mean. Its loss for wrong labels, symmetric cross-entropy with 0.1 and 1, is
    ``train.reverse_weight=10``, up to the size of steps; wrong labels are ``shift.wrong_labels``.

    Departures: weights sum to 1 in every round, where the released code's first round has 1 / (K -
    1) for each of K clients; a loss that rose counts as one that stayed. Clients report two losses
    of their private sets, which no mechanism hides: a claim of privacy is refused.
    """

    evaluated_after: ClassVar[str] = "training"

    confidence: float = 0.5
    """How much more a client teaches whose loss fell further, >= 0; the paper's beta is 0.5, and 0
    is the mean of the others."""

    def __post_init__(self) -> None:
        at_least(0, confidence=self.confidence)

    @property
    def knowledge(self) -> KnowledgeType:
        """Soft labels, and the loss of the private set before and after the round's training."""
        return PublicPredictions("probs", scorer=PrivateLosses())

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return each client's weighted mean of the others; a single client teaches itself."""
        losses = torch.ones(cohort.size, 2) if cohort.scores is None else cohort.scores
        weights = others_by_progress(losses, self.confidence)
        return Fusion(weights=weights, teachers=mix(weights, cohort.probs))


def others_by_progress(losses: Float[Tensor, "K 2"], confidence: float) -> Float[Tensor, "K K"]:
    """Return weights of the other clients, larger where a loss fell further; rows sum to 1.

    >>> import torch
    >>> losses = torch.tensor([[1.0, 0.5], [1.0, 1.0], [1.0, 1.0]])
    >>> others_by_progress(losses, 1000.0).tolist()
    [[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    if len(losses) == 1:
        return torch.ones(1, 1)
    fell = (losses[:, 0] - losses[:, 1]).clamp(min=0) / losses[:, 1].clamp(min=1e-6)
    total = fell.sum()
    shares = fell / total if total > 0 else torch.zeros_like(fell)
    scores = (confidence * shares).expand(len(losses), -1).clone()
    return torch.softmax(scores.fill_diagonal_(-torch.inf), dim=1)


class PrivateLosses(Scorer):
    """The mean cross-entropy on private samples before and after a round's private training."""

    @property
    def bounds(self) -> tuple[float, float]:
        """From 0 to the largest that is sent, and what a codec may round."""
        return -1e-3, 2 * LARGEST

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with data without classes."""
        if conditions.has_classes:
            return None
        return f"strategy={conditions.strategy} compares losses of labels, and texts have none"

    def count(self, rows: int) -> int:
        """Return 2."""
        return 2

    def scores(self, view: ClientView) -> Float[Tensor, "S"]:
        """Return the loss before, as it is remembered, and after."""
        now = _loss(view)
        return torch.stack([view.memory.get("loss", now), now])

    def remember(self, view: ClientView, moment: Moment) -> Mapping[str, Tensor] | None:
        """Return the loss before training."""
        return {"loss": _loss(view)} if moment == "before training" else None

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


def _loss(view: ClientView) -> Float[Tensor, ""]:
    labels = view.private_labels().cpu()
    if len(labels) == 0:
        return torch.zeros(())
    return F.cross_entropy(view.private_logits(), labels).clamp(max=LARGEST)
