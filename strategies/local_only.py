"""No exchange: every client trains on its own data. The baseline that fusion must beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedkd.messages import Cohort, Fusion
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class LocalOnly:
    """Exchange nothing. Nothing is uploaded, no teacher is ever made, and ``fuse`` is not called in
    a run.

    As a rule over a cohort it is self-distillation: weights are the identity, and each teacher is
    the client itself.
    """

    knowledge: ClassVar[str] = "nothing"
    needs: ClassVar[Needs] = Needs(public_set=False)

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return each client's own predictions."""
        return Fusion(weights=torch.eye(cohort.size), teachers=cohort.probs)
