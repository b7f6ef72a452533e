"""FedDF where only logits travel (Lin et al. 2020, arXiv 2006.07242): clients distil the softened
mean of logits.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from fedkd.fusion import mean_over_clients, uniform_weights
from fedkd.messages import Cohort, Fusion
from fedkd.strategy import MeanStream, Stream


@dataclass(frozen=True, kw_only=True)
class FedDFLogits:
    """Upload logits; the teacher is ``softmax(mean_j f_j(x) / T)``, the distillation loss KL.

    The paper sends weights and distils at the server (``feddf``); here the clients distil, each
    into its own model, so that architectures may differ and no weight leaves a client. The paper's
    T is 1 (``distill.temperature``).
    """

    knowledge: ClassVar[str] = "logits"
    teaches: ClassVar[str] = "logits"

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return the mean of logits, which clients soften."""
        return self.from_mean(mean_over_clients(cohort.logits), cohort.size)

    def accumulator(self, state: None) -> Stream:
        """Return a running mean of logits."""
        return MeanStream(self.from_mean)

    def from_mean(self, mean: Float[Tensor, "N C"], clients: int) -> Fusion:
        """Return the mean as everyone's teacher."""
        return Fusion(weights=uniform_weights(clients), teachers=mean)
