"""FedMRL (Yi et al. 2024, arXiv 2406.00488): a shared model and the own make one nested feature."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from fedkd.fusion import average_states
from fedkd.knowledge import (
    CompanionModel,
    JointLearning,
    KnowledgeType,
    LabelLoss,
    ModelPair,
    ModelWeights,
    WeightsCohort,
)
from fedkd.messages import Fusion
from fedkd.settings.validators import check_choices
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class FedMRL:
    """Average a small model whose features and the client's own make one representation.

        m     = P concat(h_s, h) + a,                  as wide as the client's own features d
        loss  = CE(head(m)) + CE(head_s(m[: d_s])),     d_s the width of the shared model's features
        predict by head(m); up and down: the shared model's weights, mean over clients by n_j

    P is the client's own, never sent, and kept from round to round (a public reimplementation draws
    it anew in every round). In the paper's released code the states of clients are not copied, so
    that its mean is the last client's model; here it is the mean. Own features must be at least as
    wide as the shared model's. A client's own model alone is not what predicts here, so that a run
    exports none.
    """

    evaluated_after: ClassVar[str] = "training"

    companion: str = "mlp"
    """Architecture of the shared model, by name or package.module:factory; its features are at most
    as wide as the clients' own."""
    mean: Literal["weighted", "plain"] = "weighted"
    """Weigh clients by the sizes of their training sets, or all alike."""

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def needs(self) -> Needs:
        """A second model at every client, and features of both; no public set."""
        return Needs(public_set=False, companion=self.companion, features="any")

    @property
    def knowledge(self) -> KnowledgeType:
        """The shared model's weights, trained through a common representation."""
        return ModelWeights(part=CompanionModel(), joint=Nested())

    def fuse(self, cohort: WeightsCohort, state: None) -> Fusion:
        """Return the mean of the clients' shared models."""
        shares = cohort.shares_by(self.mean)
        return Fusion(
            weights=shares.expand(cohort.size, -1), teachers=average_states(cohort.states, shares)
        )


@dataclass(frozen=True, kw_only=True)
class Nested(JointLearning):
    """One representation of both models, whose beginning the shared model's last layer reads."""

    @property
    def needs_features(self) -> bool:
        """Yes, of both."""
        return True

    @property
    def predicts_alone(self) -> bool:
        """No: both models do."""
        return False

    def misfit(self, own_width: int | None, companion_width: int | None) -> str | None:
        """Return why the shared model's features do not fit into the client's own."""
        if own_width is None or companion_width is None or companion_width <= own_width:
            return None
        return f"its {companion_width} features are more than the {own_width} of the client's own"

    def beside(self, own_width: int | None, companion_width: int | None) -> nn.Module | None:
        """Return P, from the features of both to the width of the client's own."""
        if own_width is None or companion_width is None:
            return None
        return nn.Linear(companion_width + own_width, own_width)

    def loss(
        self,
        pair: ModelPair,
        inputs: Num[Tensor, "n *shape"],
        labels: Tensor,
        label_loss: LabelLoss,
    ) -> Float[Tensor, ""]:
        """Return the sum of the losses of both last layers."""
        m, width = represent(pair, inputs)
        large, small = pair.own_layer()(m), pair.companion_layer()(m[:, :width])
        return label_loss(large, labels) + label_loss(small, labels)

    def predictor(self, pair: ModelPair) -> nn.Module:
        """Return what predicts by the own model's last layer on the representation."""
        return NestedPredictor(pair)


class NestedPredictor(nn.Module):
    """A client's prediction of both models' features."""

    def __init__(self, pair: ModelPair) -> None:
        """Hold both models, so that evaluation mode reaches them."""
        super().__init__()
        self.models = nn.ModuleList([pair.own, pair.companion])
        self.pair = pair

    def forward(self, inputs: Num[Tensor, "n *shape"]) -> Float[Tensor, "n C"]:
        """Return the logits of inputs."""
        logits: Tensor = self.pair.own_layer()(represent(self.pair, inputs)[0])
        return logits


def represent(pair: ModelPair, inputs: Num[Tensor, "n *shape"]) -> tuple[Float[Tensor, "n d"], int]:
    """Return the common representation of a batch, and the width of the shared model's features."""
    h, h_shared = pair.own_features(inputs)[1], pair.companion_features(inputs)[1]
    return pair.companion.beside(torch.cat([h_shared, h], dim=1)), h_shared.shape[1]
