"""LG-FedAvg (Liang et al. 2020, arXiv 2001.01523): average the last layers, keep the others."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fedkd.fusion import average_states
from fedkd.knowledge import KnowledgeType, LastLayers, ModelWeights, WeightsCohort
from fedkd.messages import Fusion
from fedkd.settings.validators import at_least, check_choices
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class LgFedAvg:
    """Replace the last layers of every client's model by the mean of all; the others stay its own.

        w_last = sum_j s_j w_last,j,   s_j = n_j / sum n with mean=weighted, 1/K with mean=plain

    Models may differ below, but not in the shapes of what travels. The plain mean is the released
    code's. Departures: that code starts from a model that FedAvg has trained, here clients of one
    architecture start from the same untrained weights (``start_from=RUN`` begins with those of a
    run of fedavg); and it reports each client's best round by its test set, here every round is.
    """

    evaluated_after: ClassVar[str] = "distillation"
    needs: ClassVar[Needs] = Needs(public_set=False, features="equal", shared_initialization=True)

    layers: int = 1
    """Layers that are averaged, counted from the last linear layer, which puts out the logits,
    >= 1."""
    mean: Literal["weighted", "plain"] = "weighted"
    """Weigh clients by the sizes of their training sets, or all alike."""
    prediction: Literal["head", "nearest"] = "head"
    """What accuracies are those of: the model's last layer, or the nearest mean features of a class
    of the client's own training set."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(1, layers=self.layers)

    @property
    def knowledge(self) -> KnowledgeType:
        """The weights of the last layers."""
        return ModelWeights(part=LastLayers(self.layers), prediction=self.prediction)

    def fuse(self, cohort: WeightsCohort, state: None) -> Fusion:
        """Return the mean of the clients' last layers."""
        shares = cohort.shares_by(self.mean)
        return Fusion(
            weights=shares.expand(cohort.size, -1), teachers=average_states(cohort.states, shares)
        )
