"""KnFu (Seyedmohammadi et al. 2024, arXiv 2403.11892): clients with similar labels teach.

Effective knowledge fusion. The paper's exact estimate and distance were not available to us: this
is our reconstruction from its abstract and public summaries, with beta = 10 as in all of its
experiments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.fusion import (
    DIVERGENCES,
    SCALES,
    argmax_histogram,
    keep_nearest,
    keep_within,
    mean_soft_label,
    mix,
    row_softmax,
    smooth,
    without_self,
)
from fedkd.messages import Cohort, Fusion
from fedkd.settings.validators import at_least, at_most, check_choices, only_with, positive
from fedkd.strategy import Needs

SMOOTHING = 1e-3


@dataclass(frozen=True, kw_only=True)
class KnFu:
    """Teach each client a mean of soft labels, weighted by the similarity of label distributions.

    With ``P_i`` [C] the estimated label distribution (EPD) of client i, smoothed by 0.001:

        d_ij   = KL(P_i || P_j)                   (or another divergence, perhaps scaled)
        W_ij   = exp(-beta d_ij) / sum_k exp(-beta d_ik)    self included
        q_i(x) = sum_j W_ij p_j(x)

    beta = 0 is the unweighted mean of soft labels, beta to infinity self-distillation; clients that
    are alike weigh the same for every beta. A client without any neighbor teaches itself.
    """

    teaches: ClassVar[str] = "probs"

    beta: float = 10.0
    """Sharpness of the weights, 0 to 1e6. What it means depends on the divergence: watch
    effective_neighbors."""
    epd: Literal["mean_soft_label", "argmax_histogram", "label_histogram"] = "mean_soft_label"
    """Label distribution: the mean soft label over the public set, the histogram of first choices,
    or the true histogram of private labels (label_histogram, an oracle: clients disclose their
    counts)."""
    epd_timing: Literal["first_round", "each_round"] = "each_round"
    """Estimate label distributions again each round, or use each client's first estimate for good.
    When data is scarce, estimates made again drift to the same distribution for all clients, and so
    the weights to uniform."""
    divergence: Literal["kl", "js", "tv", "cosine", "l2"] = "kl"
    """Divergence between label distributions: kl and js in nats, tv, cosine (1 - cos) and l2
    without a unit."""
    scale: Literal["none", "largest", "row"] = "none"
    """Range of the divergences: as they are, over the largest of the cohort, or over the largest of
    each client's own row. A scaled divergence lies in [0, 1], so that beta means the same for each
    divergence; but then somebody is always far, however alike all clients are."""
    neighbors: Literal["all", "top_k", "threshold"] = "all"
    """Which clients may teach: all, the top_k nearest, or those no farther than threshold
    (a scaled divergence, with scale)."""
    top_k: int | None = None
    """Number of neighbors (ties stay), >= 1; needed by, and only for, neighbors=top_k."""
    threshold: float | None = None
    """Largest divergence of a neighbor, > 0; needed by, and only for, neighbors=threshold."""
    include_self: bool = True
    """Let a client's own knowledge be part of its teacher."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(0, beta=self.beta)
        at_most(1e6, beta=self.beta)
        for name, value in (("top_k", self.top_k), ("threshold", self.threshold)):
            only_with(self.neighbors == name, f"neighbors={self.neighbors}", **{name: value})
            if self.neighbors == name and value is None:
                raise SettingError(f"{name} must be given with neighbors={name}")
        if self.top_k is not None:
            at_least(1, top_k=self.top_k)
        if self.threshold is not None:
            positive(threshold=self.threshold)
        if self.epd == "label_histogram" and self.epd_timing == "first_round":
            raise SettingError(
                "epd_timing=first_round would do nothing: a label_histogram is the same in every"
                " round"
            )

    @property
    def needs(self) -> Needs:
        """The oracle needs the clients' true label counts."""
        return Needs(label_counts=self.epd == "label_histogram")

    def fuse(self, cohort: Cohort, state: Mapping[int, Tensor] | None) -> Fusion:
        """Return weights [K, K] and personal teachers [K, N, C].

        ``state`` has each client's first estimate, with ``epd_timing=first_round``.
        """
        estimates, state = self._estimates(cohort, state or {})
        weights = self.weigh(estimates)
        return Fusion(weights=weights, teachers=mix(weights, cohort.probs), state=state)

    def weigh(self, estimates: Tensor) -> Tensor:
        """Return the weights [K, K] that follow from label distributions [K, C]."""
        distances = DIVERGENCES[self.divergence](smooth(estimates, SMOOTHING))
        divergences = SCALES[self.scale](distances)
        scores = -self.beta * divergences
        if not self.include_self:
            scores = without_self(scores)
        if self.top_k is not None:
            scores = keep_nearest(scores, divergences, self.top_k)
        if self.threshold is not None:
            scores = keep_within(scores, divergences, self.threshold)
        return row_softmax(scores)

    def estimate(self, cohort: Cohort) -> Tensor:
        """Return the clients' estimated label distributions [K, C].

        From soft labels at temperature 1, whatever the temperature of distillation.
        """
        if self.epd == "label_histogram":
            assert cohort.label_counts is not None, "declared in needs"
            return cohort.label_counts / cohort.label_counts.sum(dim=1, keepdim=True)
        probs = cohort.probs_at(1.0)
        return argmax_histogram(probs) if self.epd == "argmax_histogram" else mean_soft_label(probs)

    def _estimates(
        self, cohort: Cohort, known: Mapping[int, Tensor]
    ) -> tuple[Tensor, Mapping[int, Tensor]]:
        """Return the estimates [K, C] that this round uses, and the first ones to remember."""
        fresh = self.estimate(cohort)
        if self.epd_timing == "each_round":
            return fresh, {}
        first = {**dict(zip(cohort.client_ids, fresh, strict=True)), **known}
        return torch.stack([first[i] for i in cohort.client_ids]), first
