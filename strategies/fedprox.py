"""FedProx (Li et al. 2020, arXiv 1812.06127): FedAvg with a proximal term in local training."""

from dataclasses import dataclass
from typing import ClassVar

from fedkd.fusion import average_states
from fedkd.knowledge import KnowledgeType, ModelWeights, WeightsCohort
from fedkd.messages import Fusion
from fedkd.settings.validators import positive
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class FedProx:
    """Average weights as FedAvg does, and hold local training close to the averaged model.

        loss = CE + mu / 2 * ||w - w_g||^2,  w_g the weights that training starts from

    mu = 0 would be FedAvg, and is refused. Departure: clients do the same number of epochs; the
    paper also lets slow clients do less.
    """

    evaluated_after: ClassVar[str] = "distillation"
    needs: ClassVar[Needs] = Needs(
        public_set=False, equal_architectures=True, shared_initialization=True
    )

    mu: float = 0.01
    """Strength of the proximal term, > 0; the paper tries 0.001 to 1."""

    def __post_init__(self) -> None:
        positive(mu=self.mu)

    @property
    def knowledge(self) -> KnowledgeType:
        """Model weights, with the proximal term in the training loss."""
        return ModelWeights(proximal=self.mu)

    def fuse(self, cohort: WeightsCohort, state: None) -> Fusion:
        """Return the mean of the clients' weights, weighted by training-set sizes."""
        shares, (name, *_) = cohort.size_shares, cohort.architectures
        return Fusion(
            weights=shares.expand(cohort.size, -1),
            teachers={name: average_states(cohort.states, shares)},
        )
