"""FedProto (Tan et al. 2022, arXiv 2105.00243): clients learn each class's mean features."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fedkd.fusion import mean_by_count
from fedkd.knowledge import ClassPrototypes, KnowledgeType, PrototypeCohort
from fedkd.messages import Fusion
from fedkd.settings.validators import at_least, check_choices, positive
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class FedProto:
    """Draw each sample's features to the mean features of its class over all clients.

    With ``c_jy`` the mean over client j's ``n_jy`` samples of class y of the features f(x), what
    the model's last linear layer takes:

        c_y  = sum_j n_jy c_jy / sum_j n_jy                   with mean=weighted
        c_y  = mean of c_jy over the clients j with class y   with mean=plain
        loss = CE + prototype_weight * mean over batch and d of (f(x) - c_y)^2

    Classes that no client has are left out. A single client learns its own prototypes of the round
    before. Weights by counts are the paper's aggregation, the plain mean is its released code's.
    Departure: prototypes are of the trained model in evaluation mode, not of what training met.
    """

    evaluated_after: ClassVar[str] = "training"

    prototype_weight: float = 1.0
    """Lambda, the weight of the distance from prototypes, > 0; the paper has 1, and 0.1 on
    CIFAR-10."""
    mean: Literal["weighted", "plain"] = "weighted"
    """Weigh each client's prototype of a class by its samples of the class, or all alike."""
    width: int | None = None
    """Width to which features are pooled, >= 1, for models whose features are not equally wide;
    null compares them as they are."""
    prediction: Literal["head", "nearest", "nearest_own"] = "head"
    """What accuracies are those of: the model's last layer, or the nearest prototype that the
    client learned from, of all classes or of its own; the last layer before there are any."""

    def __post_init__(self) -> None:
        check_choices(self)
        positive(prototype_weight=self.prototype_weight)
        if self.width is not None:
            at_least(1, width=self.width)

    @property
    def needs(self) -> Needs:
        """Models with features, equally wide unless they are pooled; no public set."""
        return Needs(public_set=False, features="equal" if self.width is None else "any")

    @property
    def knowledge(self) -> KnowledgeType:
        """Class prototypes, whose term in the loss has the weight lambda."""
        return ClassPrototypes(
            weight=self.prototype_weight, width=self.width, prediction=self.prediction
        )

    def fuse(self, cohort: PrototypeCohort, state: None) -> Fusion:
        """Return the common prototypes; ``weights`` are each client's mean share of a class."""
        counts = cohort.counts
        if self.mean == "plain":
            counts = (counts > 0).to(counts.dtype)
        features, present, weights = mean_by_count(cohort.features, counts)
        return Fusion(
            weights=weights.expand(cohort.size, -1),
            teachers={"features": features, "present": present},
        )
