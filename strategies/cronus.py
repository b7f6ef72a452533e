"""Cronus (Chang et al. 2019, arXiv 1912.11279): a robust mean of soft labels teaches."""

from dataclasses import dataclass
from typing import ClassVar

from fedkd.errors import SettingError
from fedkd.fusion import filtered_mean
from fedkd.messages import Cohort, Fusion
from fedkd.settings.validators import positive


@dataclass(frozen=True, kw_only=True)
class Cronus:
    """Teach all clients a mean soft label that a few attackers cannot move far.

        q(x) = sum_j c_j(x) p_j(x) / sum_j c_j(x)

    Sample by sample, c_j(x) falls from 1 to 0 for the clients with the largest projections on the
    top eigenvector of the covariance, until its eigenvalue is small
    (``fedkd.fusion.filtered_mean``, a reconstruction). Departure: the paper's clients train on
    private and public samples at once; here distillation and private training are phases of their
    own.
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
        """Return the filtered mean of soft labels; ``weights`` are means over samples."""
        mean, weights = filtered_mean(cohort.probs, self.tolerate, self.threshold)
        return Fusion(weights=weights.expand(cohort.size, -1).clone(), teachers=mean)
