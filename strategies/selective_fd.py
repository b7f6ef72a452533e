"""Selective-FD (Shao et al. 2024, arXiv 2304.01731): clients answer for what they know."""

from dataclasses import dataclass

import torch

from fedkd.errors import SettingError
from fedkd.knowledge import KnowledgeType, PublicPredictions
from fedkd.knowledge.selective import Density, InDistribution
from fedkd.messages import Cohort, Fusion
from fedkd.settings.validators import at_least, one_of, only_with, positive
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class SelectiveFD:
    """Upload soft labels of public samples that look like one's own; average over those who
    answered; keep the sure.

    A client answers where its estimated density is at least a quantile of that of its own held-out
    samples. The server keeps x where ``2 (1 - max q(x)) < tau``, the L1 distance of q to its
    argmax. A client's weight is its mean share in the samples kept. Ours: the auxiliary samples are
    uniform between the least and the largest private value; a fifth of the private samples is held
    out; the default of tau.
    """

    density: Density = "kulsif"
    """Estimator: kulsif or kmeans on inputs, or feature_gaussian on the model's features."""
    quantile: float = 0.25
    """Share of its own held-out samples that a client would not answer for, in [0, 1)."""
    width: float | None = None
    """Width of kulsif's Gaussian kernel, > 0; null is the paper's 5. An error with another
    density."""
    auxiliary: int | None = None
    """Auxiliary samples of kulsif, >= 1; null is the paper's 250. An error with another density."""
    tau: float = 1.0
    """Most vagueness of a fused label that is kept, above 0 and below 2; 1 keeps labels above one
    half."""

    def __post_init__(self) -> None:
        one_of(("kulsif", "kmeans", "feature_gaussian"), density=self.density)
        only_with(
            self.density == "kulsif",
            f"density={self.density}",
            width=self.width,
            auxiliary=self.auxiliary,
        )
        if self.width is not None:
            positive(width=self.width)
        if self.auxiliary is not None:
            at_least(1, auxiliary=self.auxiliary)
        if not 0 <= self.quantile < 1:
            raise SettingError(f"quantile must be at least 0 and below 1, got {self.quantile}")
        positive(tau=self.tau)
        if self.tau >= 2:
            raise SettingError(
                f"tau must be below 2, got {self.tau}: no label is so vague that it would be"
                " dropped"
            )

    @property
    def needs(self) -> Needs:
        """Features, where densities are theirs."""
        return Needs(features="any" if self.density == "feature_gaussian" else None)

    @property
    def knowledge(self) -> KnowledgeType:
        """Soft labels of the samples that a client chooses to answer for."""
        chooser = InDistribution(
            density=self.density,
            quantile=self.quantile,
            width=self.width or 5.0,
            auxiliary=self.auxiliary or 250,
        )
        return PublicPredictions("probs", chooser)

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return the means over who answered, kept where they are sure. Samples that nobody
        answered are not taught.
        """
        answered = cohort.answered
        votes = (
            torch.ones(cohort.probs.shape[:2])
            if answered is None
            else answered.to(cohort.probs.dtype)
        )
        count = votes.sum(dim=0)
        classes = cohort.probs.shape[-1]
        mean = torch.einsum("kn,knc->nc", votes, cohort.probs) / count.clamp(min=1)[:, None]
        mean = torch.where((count > 0)[:, None], mean, torch.full_like(mean, 1 / classes))
        kept = (count > 0) & (2 * (1 - mean.amax(dim=-1)) < self.tau)
        shares = ((votes / count.clamp(min=1)) * kept).sum(dim=1)
        weights = (
            shares / shares.sum() if shares.sum() > 0 else torch.full_like(shares, 1 / cohort.size)
        )
        return Fusion(
            weights=weights.expand(cohort.size, -1).clone(),
            teachers=mean,
            taught_rows=kept,
            metrics={"answered": votes.mean().item(), "kept": kept.float().mean().item()},
        )
