"""FedHeNN (Makhija et al. 2022, arXiv 2202.07757): clients bring their features' kernels together.

Architecture-agnostic: what is compared are products of features of public samples.
"""

from dataclasses import dataclass
from typing import ClassVar

from fedkd.fusion import uniform_weights
from fedkd.knowledge.gram_matrices import GramCohort, GramMatrices
from fedkd.messages import Fusion
from fedkd.settings.validators import positive
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class FedHeNN:
    """Draw each client's similarities of public samples to the clients' mean.

        K_j  = Phi_j Phi_j^T, Phi_j client j's features of the round's N public samples
        K    = mean_j K_j
        loss = CE + weight t (1 - CKA(K_j, K)) in round t

    Features are what the last linear layer takes; their width may differ. Every step of private
    training takes the N public samples once more, and N^2 / 2 numbers travel: take few, as by
    ``public.per_round=32``.

    The paper's code is not released, and of its weight we know that it rises with the rounds.
    Nothing is taken over of a reimplementation that adds + CKA, which drives clients apart, and
    takes the linear CKA of kernels as if these were features, which is of kernels of kernels.
    BatchNorm layers see the public samples in these steps too.
    """

    evaluated_after: ClassVar[str] = "training"
    needs: ClassVar[Needs] = Needs(features="any")

    weight: float = 1.0
    """Weight of the distance of kernels, > 0; the default is ours."""
    rises: bool = True
    """Multiply the weight by the number of the round; false keeps it."""

    def __post_init__(self) -> None:
        positive(weight=self.weight)

    @property
    def knowledge(self) -> GramMatrices:
        """Gram matrices, whose term in the loss has the weight."""
        return GramMatrices(weight=self.weight, rises=self.rises)

    def fuse(self, cohort: GramCohort, state: None) -> Fusion:
        """Return the mean of the clients' kernels."""
        return Fusion(weights=uniform_weights(cohort.size), teachers=cohort.kernels.mean(dim=0))
