"""Kinds of knowledge: what a client uploads and learns from, each with its own checks.

A kind knows how a client makes it, how clients learn from it, how it becomes named arrays and back,
what the server accepts, how uploads are stacked, what a fusion of them must look like, and who
learns what from one. Another kind is another module with these, here or anywhere (a strategy may
declare any ``KnowledgeType``), and no special case in the client, the server or the codec.
"""

from fedkd.knowledge.beside_predictions import LocalTerm as LocalTerm
from fedkd.knowledge.beside_predictions import Scorer as Scorer
from fedkd.knowledge.class_tables import ClassTables as ClassTables
from fedkd.knowledge.class_tables import TableCohort as TableCohort
from fedkd.knowledge.companions import CompanionModel as CompanionModel
from fedkd.knowledge.companions import JointKnowledge as JointKnowledge
from fedkd.knowledge.companions import JointLearning as JointLearning
from fedkd.knowledge.companions import LabelLoss as LabelLoss
from fedkd.knowledge.companions import ModelPair as ModelPair
from fedkd.knowledge.global_head import GlobalHead as GlobalHead
from fedkd.knowledge.knowledge_type import AdoptedKnowledge as AdoptedKnowledge
from fedkd.knowledge.knowledge_type import ClassifyingKnowledge as ClassifyingKnowledge
from fedkd.knowledge.knowledge_type import ClientView as ClientView
from fedkd.knowledge.knowledge_type import KnowledgeType as KnowledgeType
from fedkd.knowledge.knowledge_type import ModularKnowledge as ModularKnowledge
from fedkd.knowledge.knowledge_type import Penalty as Penalty
from fedkd.knowledge.knowledge_type import PenaltyKnowledge as PenaltyKnowledge
from fedkd.knowledge.knowledge_type import PredictorKnowledge as PredictorKnowledge
from fedkd.knowledge.knowledge_type import Request as Request
from fedkd.knowledge.knowledge_type import RowKnowledge as RowKnowledge
from fedkd.knowledge.knowledge_type import SharedCompanion as SharedCompanion
from fedkd.knowledge.knowledge_type import SideRelease as SideRelease
from fedkd.knowledge.knowledge_type import Teachers as Teachers
from fedkd.knowledge.knowledge_type import narrowed as narrowed
from fedkd.knowledge.model_weights import ModelWeights as ModelWeights
from fedkd.knowledge.model_weights import WeightsCohort as WeightsCohort
from fedkd.knowledge.predictions import Chooser as Chooser
from fedkd.knowledge.predictions import PublicPredictions as PublicPredictions
from fedkd.knowledge.private_logits import PrivateLogits as PrivateLogits
from fedkd.knowledge.private_logits import PrivateLogitsCohort as PrivateLogitsCohort
from fedkd.knowledge.prototypes import ClassPrototypes as ClassPrototypes
from fedkd.knowledge.prototypes import PrototypeCohort as PrototypeCohort
from fedkd.knowledge.weight_parts import LastLayers as LastLayers
from fedkd.knowledge.weight_parts import WholeModel as WholeModel
from fedkd.settings.conditions import LearnedBy as LearnedBy

KINDS: dict[str, KnowledgeType] = {
    "logits": PublicPredictions("logits"),
    "probs": PublicPredictions("probs"),
    "labels": PublicPredictions("probs", hard=True),
}
"""The kinds that a strategy may declare by name. ``nothing`` has no kind: nothing travels. All
others are declared as a value, such as ``ClassTables(weight=0.5)``."""


def find_kind(knowledge: str | KnowledgeType) -> KnowledgeType | None:
    """Return the kind that a strategy declared, by name or as it is; None for ``nothing``."""
    if isinstance(knowledge, str):
        return None if knowledge == "nothing" else KINDS[knowledge]
    return knowledge
