"""Prediction by the nearest prototype: a classifier made of a model's features and one row a class.

Not for: making prototypes that travel (``fedkd.knowledge.prototypes``).
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from fedkd.knowledge.knowledge_type import ClientView
from fedkd.models.features import forward_with_features

Pool = Callable[[Float[Tensor, "n wide"]], Float[Tensor, "n d"]]
OwnPrediction = Literal["head", "nearest"]
"""By the model's last layer, or by the nearest of the client's own mean features by class."""


def same(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return features as they are."""
    return features


class NearestPrototype(nn.Module):
    """A classifier whose logits are minus the squared distances from prototypes.

    Classes without a prototype have the logit minus infinity.
    """

    def __init__(
        self,
        model: nn.Module,
        head: str | None,
        prototypes: Float[Tensor, "C d"],
        present: Bool[Tensor, "C"],
        pool: Pool = same,
    ) -> None:
        """Classify by a model's features.

        Args:
            model: The model.
            head: The name of its last linear layer, whose input are its features.
            prototypes: A row for each class.
            present: The classes that have one, at least one.
            pool: Brings features to the width of prototypes.
        """
        super().__init__()
        assert head is not None, "declared in needs"
        device = next(model.parameters()).device
        self.model, self.head, self.pool = model, head, pool
        self.prototypes, self.present = prototypes.to(device), present.to(device)

    def forward(self, inputs: Num[Tensor, "n *shape"]) -> Float[Tensor, "n C"]:
        """Return the logits of inputs."""
        features = self.pool(forward_with_features(self.model, self.head, inputs)[1])
        apart = (features[:, None] - self.prototypes).square().sum(dim=-1)
        return (-apart).masked_fill(~self.present, -torch.inf)


def own_counts(view: ClientView) -> Int[Tensor, "C"]:
    """Return how many samples of each class a client trains on."""
    return torch.bincount(view.private_labels().cpu(), minlength=view.classes)


def own_means(view: ClientView, pool: Pool = same) -> Float[Tensor, "C d"]:
    """Return the mean features, in evaluation mode, of each class that a client trains on.

    Rows of other classes are zeros.
    """
    features = pool(view.private_features()).to(torch.float64)
    sums = torch.zeros(view.classes, features.shape[1], dtype=torch.float64)
    sums.index_add_(0, view.private_labels().cpu(), features)
    return (sums / own_counts(view).clamp(min=1)[:, None]).to(torch.float32)


def own_predictor(view: ClientView, prediction: OwnPrediction) -> nn.Module | None:
    """Return what predicts by the client's own mean features; None where the last layer does."""
    if prediction == "head":
        return None
    return NearestPrototype(view.model, view.head, own_means(view), own_counts(view) > 0)
