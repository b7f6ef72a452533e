"""DS-FL (Itahara et al. 2021, arXiv 2008.06180): the mean soft label, entropy-reduced, teaches."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from fedkd.fusion import mean_over_clients, reduce_entropy, uniform_weights
from fedkd.messages import Cohort, Fusion
from fedkd.settings.validators import at_least, at_most, check_choices, only_with, positive
from fedkd.strategy import MeanStream, Stream

PAPER_TEMPERATURE = 0.1


@dataclass(frozen=True, kw_only=True)
class DSFL:
    """Teach all clients the mean soft label, sharpened or as it is.

        aggregation=era    q(x) = softmax(mean_j p_j(x) / T), a softmax over probabilities
        aggregation=mean   q(x) = mean_j p_j(x)

    Departure from the paper: there is no server model, only clients learn.
    """

    evaluated_after: ClassVar[str] = "distillation"
    knowledge: ClassVar[str] = "probs"

    aggregation: Literal["era", "mean"] = "era"
    """Entropy reduction (era) or simple averaging (mean)."""
    era_temperature: float | None = None
    """T of entropy reduction, 0.001 to 1e6; small sharpens. null is the paper's 0.1; an error with
    aggregation=mean."""

    def __post_init__(self) -> None:
        check_choices(self)
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
        """Return the mean soft label, sharpened with ``aggregation=era``."""
        return self.from_mean(mean_over_clients(cohort.probs), cohort.size)

    def accumulator(self, state: None) -> Stream:
        """Return a running mean of soft labels."""
        return MeanStream(self.from_mean)

    def from_mean(self, mean: Tensor, clients: int) -> Fusion:
        """Return the teacher from the clients' mean soft label [N, C]."""
        if self.aggregation == "era":
            teacher = reduce_entropy(mean, self.era_temperature or PAPER_TEMPERATURE)
        else:
            teacher = mean
        return Fusion(weights=uniform_weights(clients), teachers=teacher)
