"""FCCL (Huang et al. 2022, doi 10.1109/CVPR52688.2022.00990): correlate logits, keep old selves.

Federated cross-correlation and continual learning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.fusion import mean_over_clients, soften, uniform_weights
from fedkd.knowledge import ClientView, KnowledgeType, LocalTerm, Penalty, PublicPredictions
from fedkd.knowledge.beside_predictions import Moment
from fedkd.messages import Cohort, Fusion, Knowledge
from fedkd.settings.validators import at_least
from fedkd.strategy import MeanStream, Stream


@dataclass(frozen=True, kw_only=True)
class FCCL:
    """Bring the correlations of classes over public samples close to those of the mean logits.

        public   q(x) = mean_j f_j(x), M_uv the correlation over a batch of f_i's class u with q's v
                 loss sum_u (1 - M_uu)^2 + 0.0051 sum_{u != v} (1 + M_uv)^2
        private  CE + previous_weight KL(p_before || p) + pretrained_weight KL(p_first || p)

    p_before is what the client's model said of its private samples after the private training
    before this one, p_first after its first one. Neither leaves the client.

    Departures: targets and the own old predictions are of models in evaluation mode and stay fixed
    during a phase, where the released code's nets are in training mode and its targets move; an
    optimizer lives for a phase, not for a batch. The paper pre-trains on private data before the
    first round, which is ``train.warm_up_epochs`` here. FCCL+'s further terms are not here. The
    paper's public batches have 256 samples: ``distill.batch_size=256``.
    """

    loss: ClassVar[str] = "cross_correlation"
    teaches: ClassVar[str] = "logits"

    previous_weight: float = 1.0
    """Weight of the divergence from the client's model of the round before, >= 0; the paper's is
    1."""
    pretrained_weight: float = 1.0
    """Weight of the divergence from the client's first trained model, >= 0; the paper's is 1."""

    def __post_init__(self) -> None:
        at_least(0, previous_weight=self.previous_weight, pretrained_weight=self.pretrained_weight)

    @property
    def knowledge(self) -> KnowledgeType:
        """Logits, with the terms of old selves in private training, unless both weigh nothing."""
        if self.previous_weight == self.pretrained_weight == 0:
            return PublicPredictions("logits")
        term = OldSelves(previous=self.previous_weight, pretrained=self.pretrained_weight)
        return PublicPredictions("logits", term=term)

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return the mean of logits."""
        return self.from_mean(mean_over_clients(cohort.logits), cohort.size)

    def accumulator(self, state: None) -> Stream:
        """Return a running mean of logits."""
        return MeanStream(self.from_mean)

    def from_mean(self, mean: Float[Tensor, "N C"], clients: int) -> Fusion:
        """Return the teacher from the mean of logits."""
        return Fusion(weights=uniform_weights(clients), teachers=mean)


@dataclass(frozen=True, kw_only=True)
class OldSelves(LocalTerm):
    """The divergence of a model from what it said of its private samples earlier."""

    previous: float
    pretrained: float

    def penalty(self, view: ClientView, teacher: Knowledge | None) -> Penalty | None:
        """Return the weighted divergences; None before anything is remembered."""
        memory, device = view.memory, view.private_labels().device
        weights = {"previous": self.previous, "pretrained": self.pretrained}
        old = [(w, memory[n].to(device)) for n, w in weights.items() if n in memory and w > 0]
        if not old:
            return None

        def term(
            batch: Int[Tensor, "batch"], logits: Float[Tensor, "batch C"], features: object
        ) -> Float[Tensor, ""]:
            log_probs = torch.log_softmax(logits, dim=-1)
            apart = [
                w * F.kl_div(log_probs, probs[batch], reduction="batchmean") for w, probs in old
            ]
            return torch.stack(apart).sum()

        return term

    def remember(self, view: ClientView, moment: Moment) -> Mapping[str, Tensor] | None:
        """Return soft labels of the private samples by the model as it was trained."""
        if moment == "before training":
            return None
        now = soften(view.private_logits())
        return {"previous": now, "pretrained": view.memory.get("pretrained", now)}
