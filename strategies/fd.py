"""FD, federated distillation (Jeong et al. 2018, arXiv 1811.11479): mean soft labels by class, no
public set.
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
    """Upload the mean soft label of each true class; learn from the mean of the *others'* tables
    while training.

    Client i's teacher for class y is the mean over the other clients that have the class. The loss
    is ``CE + gamma * CE(teacher's row of y, p_i(x))``; a class that nobody else has adds nothing.
    With two clients the tables are swapped. Departure: the paper averages the outputs met during
    training; here the trained model is evaluated once on its training set.
    """

    needs: ClassVar[Needs] = Needs(public_set=False)

    gamma: float = 0.1
    """Weight of the distillation term, > 0."""

    def __post_init__(self) -> None:
        positive(gamma=self.gamma)

    @property
    def knowledge(self) -> KnowledgeType:
        """Class tables, with gamma as the weight of their term."""
        return ClassTables(weight=self.gamma)

    def fuse(self, cohort: TableCohort, state: None) -> Fusion:
        """Return each client's table of the others; weights are means over the classes that a
        client is taught.
        """
        tables, present, weights = leave_one_out(cohort.probs, cohort.present)
        return Fusion(weights=weights, teachers={"probs": tables, "present": present})
