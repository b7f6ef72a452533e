"""Selective-FD (Shao et al. 2024, arXiv 2304.01731): clients predict only on familiar samples."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedkd.errors import SettingError
from fedkd.knowledge import KnowledgeType, PublicPredictions
from fedkd.knowledge.selective import Density, InDistribution
from fedkd.messages import Cohort, Fusion
from fedkd.settings.validators import at_least, check_choices, only_with, positive
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class SelectiveFD:
    """Teach all clients the mean soft label over those that predicted, where that mean is certain.

        client  predicts on x where density(x) >= quantile of its own held-out samples' densities
        server  q(x) = mean of p_j(x) over the clients j that predicted on x
        teaches x where 2 (1 - max q(x)) < tau, the L1 distance of q to its argmax

    ``weights`` are the clients' mean shares in the samples taught. Samples on which no client
    predicted are not taught. Ours: the auxiliary samples are uniform between the least and the
    largest private value; a fifth of the private samples is held out; the default of tau.
    """

    evaluated_after: ClassVar[str] = "distillation"

    density: Density = "kulsif"
    """Estimator: kulsif or kmeans on inputs, or feature_gaussian on the model's features."""
    quantile: float = 0.25
    """Share of its own held-out samples on which a client would not predict, in [0, 1)."""
    width: float | None = None
    """Width of kulsif's Gaussian kernel, > 0; null is the paper's 5. An error with another
    density."""
    auxiliary: int | None = None
    """Auxiliary samples of kulsif, >= 1; null is the paper's 250. An error with another density."""
    tau: float = 1.0
    """Bound on the vagueness of a label that is taught, above 0 and below 2; 1 teaches labels above
    one half."""

    def __post_init__(self) -> None:
        check_choices(self)
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
        """Features, with ``density=feature_gaussian``."""
        return Needs(features="any" if self.density == "feature_gaussian" else None)

    @property
    def knowledge(self) -> KnowledgeType:
        """Soft labels of the samples that a client chooses to predict on."""
        chooser = InDistribution(
            density=self.density,
            quantile=self.quantile,
            width=self.width or 5.0,
            auxiliary=self.auxiliary or 250,
        )
        return PublicPredictions("probs", chooser)

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return the mean over the clients that predicted, to be taught where it is certain."""
        probs, answered = cohort.probs, cohort.answered
        votes = torch.ones(probs.shape[:2]) if answered is None else answered.to(probs.dtype)
        count = votes.sum(dim=0)
        mean = torch.einsum("kn,knc->nc", votes, probs) / count.clamp(min=1)[:, None]
        mean = torch.where((count > 0)[:, None], mean, torch.full_like(mean, 1 / probs.shape[-1]))
        certain = (count > 0) & (2 * (1 - mean.amax(dim=-1)) < self.tau)
        shares = ((votes / count.clamp(min=1)) * certain).sum(dim=1)
        weights = (
            shares / shares.sum() if shares.sum() > 0 else torch.full_like(shares, 1 / cohort.size)
        )
        return Fusion(
            weights=weights.expand(cohort.size, -1).clone(),
            teachers=mean,
            taught_rows=certain,
            metrics={"answered": votes.mean().item(), "kept": certain.float().mean().item()},
        )
