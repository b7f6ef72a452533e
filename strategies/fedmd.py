"""FedMD (Li & Wang 2019, arXiv 1910.03581): the mean of the clients' logits teaches all clients."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedkd.fusion import mean_over_clients, uniform_weights
from fedkd.messages import Cohort, Fusion
from fedkd.strategy import MeanStream, Stream


@dataclass(frozen=True, kw_only=True)
class FedMD:
    """Teach all clients the mean of raw logits.

        q(x) = mean_j f_j(x),  loss = mean |f_i(x) - q(x)|, the paper's digest

    The paper's order is ``round_order=distill_first`` (digest, then revisit) after pre-training on
    a labeled public set and on private data (``public.labeled=true train.public_epochs=E
    train.warm_up_epochs=W``); all are settings of the scenario. ``distill.loss`` may be ``mse`` or,
    with the softened mean as target, ``kl``.
    """

    evaluated_after: ClassVar[str] = "training"
    knowledge: ClassVar[str] = "logits"
    teaches: ClassVar[str] = "logits"
    loss: ClassVar[str] = "mae"

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return the mean of logits."""
        return self.from_mean(mean_over_clients(cohort.logits), cohort.size)

    def accumulator(self, state: None) -> Stream:
        """Return a running mean of logits."""
        return MeanStream(self.from_mean)

    def from_mean(self, mean: Tensor, clients: int) -> Fusion:
        """Return the mean [N, C] as the teacher of all clients."""
        return Fusion(weights=uniform_weights(clients), teachers=mean)
