"""DS-FL (Itahara et al. 2021, arXiv 2008.06180): the mean soft label with its entropy reduced."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from fedkd.fusion import mean_over_clients, reduce_entropy, uniform_weights
from fedkd.messages import Cohort, Fusion
from fedkd.settings.validators import at_least, at_most, one_of, only_with, positive
from fedkd.strategy import MeanStream, Stream

PAPER_TEMPERATURE = 0.1


@dataclass(frozen=True, kw_only=True)
class DSFL:
    """Upload soft labels; the common teacher is their mean, sharpened (``era``) or as it is
    (``mean``).

    Entropy reduction: ``q(x) = softmax(mean_j p_j(x) / T)``, a softmax over probabilities. Simple
    averaging: ``q(x) = mean_j p_j(x)``. Departure from the paper: there is no server model, only
    clients learn.
    """

    knowledge: ClassVar[str] = "probs"

    aggregation: Literal["era", "mean"] = "era"
    """Entropy reduction (era) or simple averaging (mean)."""
    era_temperature: float | None = None
    """T of entropy reduction, 0.001 to 1e6; small sharpens. null is the paper's 0.1; an error with
    aggregation=mean."""

    def __post_init__(self) -> None:
        one_of(("era", "mean"), aggregation=self.aggregation)
        only_with(
            self.aggregation == "era",
            "aggregation=mean has no temperature",
            era_temperature=self.era_temperature,
        )
        if self.era_temperature is not None:
            positive(era_temperature=self.era_temperature)
            at_least(1e-3, era_temperature=self.era_temperature)
            at_most(1e6, era_temperature=self.era_temperature)

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return the aggregated soft labels."""
        return self.from_mean(mean_over_clients(cohort.probs), cohort.size)

    def accumulator(self, state: None) -> Stream:
        """Return a running mean of soft labels."""
        return MeanStream(self.from_mean)

    def from_mean(self, mean: Tensor, clients: int) -> Fusion:
        """Return the mean, sharpened where the aggregation says so."""
        sharp = (
            reduce_entropy(mean, self.era_temperature or PAPER_TEMPERATURE)
            if self.aggregation == "era"
            else mean
        )
        return Fusion(weights=uniform_weights(clients), teachers=sharp)
