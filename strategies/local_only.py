"""Local-only training: clients exchange nothing. The baseline that fusion must beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedkd.messages import Cohort, Fusion
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class LocalOnly:
    """Exchange nothing: a run uploads nothing, makes no teacher, and never calls ``fuse``.

    As a rule over a cohort it is self-distillation: ``q_i(x) = p_i(x)``, W the identity.
    """

    evaluated_after: ClassVar[str] = "training"
    knowledge: ClassVar[str] = "nothing"
    needs: ClassVar[Needs] = Needs(public_set=False)

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return each client's own predictions as its teacher."""
        return Fusion(weights=torch.eye(cohort.size), teachers=cohort.probs)
