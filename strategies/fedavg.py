"""FedAvg (McMahan et al. 2017, arXiv 1602.05629): average the weights of one architecture."""

from dataclasses import dataclass
from typing import ClassVar

from fedkd.fusion import average_states
from fedkd.knowledge import KnowledgeType, ModelWeights, WeightsCohort
from fedkd.messages import Fusion
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """Replace every client's model by the mean of all, weighted by training-set sizes.

        w = sum_j n_j w_j / sum_j n_j

    Clients start from the same weights. A client that joins later, or was absent, takes over the
    newest model before it trains. Figures after distillation are those of the averaged model, those
    after training of each client's model after training from it.
    """

    evaluated_after: ClassVar[str] = "distillation"
    knowledge: ClassVar[KnowledgeType] = ModelWeights()
    needs: ClassVar[Needs] = Needs(
        public_set=False, equal_architectures=True, shared_initialization=True
    )

    def fuse(self, cohort: WeightsCohort, state: None) -> Fusion:
        """Return the mean of the clients' weights, weighted by training-set sizes."""
        shares, (name, *_) = cohort.size_shares, cohort.architectures
        return Fusion(
            weights=shares.expand(cohort.size, -1),
            teachers={name: average_states(cohort.states, shares)},
        )
