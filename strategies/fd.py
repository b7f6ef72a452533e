"""FD (Jeong et al. 2018, arXiv 1811.11479): clients share mean soft labels by class; no public set.

Federated distillation, the first method of that name.
"""

from dataclasses import dataclass
from typing import ClassVar

from fedkd.fusion import leave_one_out
from fedkd.knowledge import ClassTables, KnowledgeType, TableCohort
from fedkd.messages import Fusion
from fedkd.settings.validators import positive
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class FD:
    """Teach each client, for each class, the mean soft label of the *other* clients that have it.

        t_iy = mean over j != i that have class y of s_jy,  s_jy client j's mean soft label of y
        loss = CE + gamma * CE(t_iy, p_i(x))

    A class that no other client has adds nothing. With two clients the tables are swapped.
    Departure: the paper averages the outputs met during training; here the trained model is
    evaluated once on its training set.
    """

    evaluated_after: ClassVar[str] = "training"
    needs: ClassVar[Needs] = Needs(public_set=False)

    gamma: float = 0.1
    """Weight of the distillation term, > 0."""

    def __post_init__(self) -> None:
        positive(gamma=self.gamma)

    @property
    def knowledge(self) -> KnowledgeType:
        """Class tables, whose term in the loss has the weight gamma."""
        return ClassTables(weight=self.gamma)

    def fuse(self, cohort: TableCohort, state: None) -> Fusion:
        """Return the mean table of the others for each client.

        ``weights`` are means over the classes that a client is taught.
        """
        tables, present, weights = leave_one_out(cohort.probs, cohort.present)
        return Fusion(weights=weights, teachers={"probs": tables, "present": present})
