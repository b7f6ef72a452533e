"""Kinds of knowledge: what a client uploads and learns from, each with its own checks.

A kind knows how a client makes it, how clients learn from it, how it becomes named arrays and back, what the server
accepts, how uploads are stacked, what a fusion of them must look like, and who learns what from one. Another kind is
another module with these, here or anywhere (a strategy may declare any ``Kind``), and no special case in the client,
the server or the codec.
"""

from fedkd.knowledge.kind import AdoptedKind as AdoptedKind
from fedkd.knowledge.kind import ClientView as ClientView
from fedkd.knowledge.kind import Kind as Kind
from fedkd.knowledge.kind import Lesson as Lesson
from fedkd.knowledge.kind import Lessons as Lessons
from fedkd.knowledge.kind import Penalty as Penalty
from fedkd.knowledge.kind import PenaltyKind as PenaltyKind
from fedkd.knowledge.kind import Request as Request
from fedkd.knowledge.kind import RowKind as RowKind
from fedkd.knowledge.predictions import Chooser as Chooser
from fedkd.knowledge.predictions import PublicPredictions as PublicPredictions
from fedkd.knowledge.private import PrivateLogits as PrivateLogits
from fedkd.knowledge.private import PrivateLogitsCohort as PrivateLogitsCohort
from fedkd.knowledge.prototypes import ClassPrototypes as ClassPrototypes
from fedkd.knowledge.prototypes import PrototypeCohort as PrototypeCohort
from fedkd.knowledge.tables import ClassTables as ClassTables
from fedkd.knowledge.tables import TableCohort as TableCohort
from fedkd.knowledge.weights import ModelWeights as ModelWeights
from fedkd.knowledge.weights import WeightsCohort as WeightsCohort

KINDS: dict[str, Kind] = {"logits": PublicPredictions("logits"), "probs": PublicPredictions("probs")}
"""The kinds that a strategy may declare by name. ``nothing`` has no kind: nothing travels. All others are declared as a
value, such as ``ClassTables(weight=0.5)``."""


def find_kind(knowledge: str | Kind) -> Kind | None:
    """Return the kind that a strategy declared, by name or as it is; None for ``nothing``."""
    if isinstance(knowledge, str):
        return None if knowledge == "nothing" else KINDS[knowledge]
    return knowledge
