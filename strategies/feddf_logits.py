"""FedDF (Lin et al. 2020, arXiv 2006.07242) by logits alone: clients distil their mean."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from fedkd.fusion import mean_over_clients, uniform_weights
from fedkd.messages import Cohort, Fusion
from fedkd.strategy import MeanStream, Stream


@dataclass(frozen=True, kw_only=True)
class FedDFLogits:
    """Teach all clients the softened mean of logits.

        q(x) = softmax(mean_j f_j(x) / T),  loss KL

    The paper's T is 1 (``distill.temperature``). Departure: the paper sends weights and distils at
    the server (``feddf``); here the clients distil, each into its own model, so that architectures
    may differ and no weight leaves a client.
    """

    evaluated_after: ClassVar[str] = "distillation"
    knowledge: ClassVar[str] = "logits"
    teaches: ClassVar[str] = "logits"

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return the mean of logits, which clients soften."""
        return self.from_mean(mean_over_clients(cohort.logits), cohort.size)

    def accumulator(self, state: None) -> Stream:
        """Return a running mean of logits."""
        return MeanStream(self.from_mean)

    def from_mean(self, mean: Float[Tensor, "N C"], clients: int) -> Fusion:
        """Return the mean [N, C] as the teacher of all clients."""
        return Fusion(weights=uniform_weights(clients), teachers=mean)
