"""Centralized training: one model of each architecture, on all private sets together. The upper
bound.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedkd.knowledge import KnowledgeType, ModelWeights, WeightsCohort
from fedkd.messages import Fusion
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class Centralized:
    """No federation: the first client of each architecture trains on the union of all private sets,
    for everyone.

    Its model is every such client's model at the end of the round. The bytes that are counted are
    those of handing that model around; the private data that would have to move are not counted.
    """

    knowledge: ClassVar[KnowledgeType] = ModelWeights()
    needs: ClassVar[Needs] = Needs(public_set=False, pooled_data=True)

    def fuse(self, cohort: WeightsCohort, state: None) -> Fusion:
        """Return the trained models as they are."""
        teachers = dict(zip(cohort.architectures, cohort.states, strict=True))
        return Fusion(weights=torch.eye(cohort.size), teachers=teachers)
