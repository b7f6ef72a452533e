"""Centralized training, an upper bound: one model of each architecture learns all private sets."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedkd.knowledge import KnowledgeType, ModelWeights, WeightsCohort
from fedkd.messages import Fusion
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class Centralized:
    """Train one model of each architecture on the union of all private sets, for every client.

    The first client of each architecture trains it; at the end of the round every client of that
    architecture has it. The bytes that are counted are those of handing that model around; the
    private data that would have to move are not counted.
    """

    evaluated_after: ClassVar[str] = "training"
    knowledge: ClassVar[KnowledgeType] = ModelWeights()
    needs: ClassVar[Needs] = Needs(public_set=False, pooled_data=True)

    def fuse(self, cohort: WeightsCohort, state: None) -> Fusion:
        """Return the trained model of each architecture as it is."""
        teachers = dict(zip(cohort.architectures, cohort.states, strict=True))
        return Fusion(weights=torch.eye(cohort.size), teachers=teachers)
