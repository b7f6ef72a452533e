"""Cronus (Chang et al. 2019, arXiv 1912.11279): FedMD's protocol with a robust mean of soft
labels.
"""

from dataclasses import dataclass
from typing import ClassVar

from fedkd.errors import SettingError
from fedkd.fusion import filtered_mean
from fedkd.messages import Cohort, Fusion
from fedkd.settings.validators import positive


@dataclass(frozen=True, kw_only=True)
class Cronus:
    """Upload soft labels; the common teacher is each sample's filtered mean, which holds against a
    few attackers.

    Clients are filtered out by their largest projection on the top eigenvector of the covariance,
    sample by sample, until its norm is small (``fedkd.fusion.filtered_mean``, a reconstruction).
    Departure: the paper's clients train on private and public samples at once; here distillation
    and private training are phases of their own.
    """

    knowledge: ClassVar[str] = "probs"

    tolerate: float = 0.2
    """Share of attackers to tolerate, above 0 and below 0.5: twice this share of the clients may be
    filtered out."""
    threshold: float = 0.5
    """Variance along any direction up to which nothing is filtered, > 0, in squares of the clients'
    median distance from their median."""

    def __post_init__(self) -> None:
        if not 0 < self.tolerate < 0.5:
            raise SettingError(f"tolerate must be above 0 and below 0.5, got {self.tolerate}")
        positive(threshold=self.threshold)

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return the filtered mean; a client's weight is its mean weight over samples."""
        mean, weights = filtered_mean(cohort.probs, self.tolerate, self.threshold)
        return Fusion(weights=weights.expand(cohort.size, -1).clone(), teachers=mean)
