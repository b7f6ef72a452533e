"""FedCT (Abourayya et al. 2025, arXiv 2310.05696): the clients' majority label is learned by all.

Federated co-training: hard labels on a public set, which any model can give and learn.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedkd.codecs import Codec, Full, Quantized
from fedkd.fusion import (
    are_tied,
    count_votes,
    most_voted,
    reach_majority,
    uniform_weights,
)
from fedkd.messages import Cohort, Fusion
from fedkd.settings.conditions import RunConditions
from fedkd.settings.validators import at_least, at_most, check_choices
from fedkd.strategy import Stream, VoteStream


@dataclass(frozen=True, kw_only=True)
class FedCT:
    """Teach all clients the class that most of them choose.

        vote    c_j(x) = argmax f_j(x), one byte a sample
        share   s_c(x) = share of clients j with c_j(x) = c
        label   argmax_c s_c(x), of samples with max_c s_c(x) >= majority
        loss    cross-entropy with the label

    Trees and networks take part alike: an estimator is fitted to its own rows and the labels
    together, which is the paper's training on both sets.

    Departures: a network trains on the labels in a phase of its own, where the paper's takes
    batches of both sets in turns. Ties, which the released code gives to the lowest class, are left
    out or shared (``ties``), and counted in ``strategy/ties``. The released code's noise on votes
    is not here: it flips labels by a coin for a fixed sensitivity of 3000, which is half and half
    at any epsilon. ``privacy=krr`` and ``privacy=gnmax`` are what may be claimed for labels.
    """

    evaluated_after: ClassVar[str] = "training"
    knowledge: ClassVar[str] = "labels"
    loss: ClassVar[str] = "cross_entropy"

    majority: float | None = None
    """Share of the votes that a label needs to be taught, 0.5 to 1; the released code's qualified
    majority has 0.8. null asks for the most votes alone."""
    ties: Literal["leave_out", "share"] = "leave_out"
    """Leave out samples on which several classes have most votes, or teach these in equal parts."""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.majority is not None:
            at_least(0.5, majority=self.majority)
            at_most(1, majority=self.majority)

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict of a majority with a server that tells winners alone."""
        if self.majority is None or conditions.name_of("privacy") != "gnmax":
            return None
        return (
            f"strategy.majority={self.majority:g} would do nothing: privacy=gnmax tells the class"
            " with most noisy votes and no share; give privacy.threshold"
        )

    @property
    def codec(self) -> tuple[Codec, Codec]:
        """Labels up, and labels down unless classes that tie share a sample."""
        labels = Quantized(bits=1)
        return labels, Full() if self.ties == "share" else labels

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return the majority's labels; samples without one are not taught."""
        return self.from_mean(count_votes(cohort.probs) / cohort.size, cohort.size)

    def accumulator(self, state: None) -> Stream:
        """Return a running count of votes."""
        return VoteStream(self.from_mean)

    def from_mean(self, mean: Float[Tensor, "N C"], clients: int) -> Fusion:
        """Return the majority's labels from the shares of votes [N, C]."""
        tied = are_tied(mean)
        taught = ~tied if self.ties == "leave_out" else torch.ones_like(tied)
        if self.majority is not None:
            taught = taught & reach_majority(mean, self.majority)
        return Fusion(
            weights=uniform_weights(clients),
            teachers=most_voted(mean),
            taught_rows=None if bool(taught.all()) else taught,
            metrics={
                "ties": tied.float().mean().item(),
                "taught": taught.float().mean().item(),
                "agreement": mean.amax(dim=-1).mean().item(),
            },
        )
