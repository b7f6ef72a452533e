"""FedTGP (Zhang et al. 2024, arXiv 2401.03230): trainable global prototypes, kept apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedkd.fusion import NamedTensors, descend, linear_weights, mean_by_count
from fedkd.knowledge import ClassPrototypes, KnowledgeType, PrototypeCohort
from fedkd.messages import Fusion
from fedkd.runtime.seeding import numpy_stream, torch_stream
from fedkd.settings.validators import at_least, check_choices, positive
from fedkd.strategy import Needs

EPSILON = 1e-12
"""Added to squared distances below a root, whose gradient at 0 is infinite."""


@dataclass(frozen=True, kw_only=True)
class FedTGP:
    """Draw features to prototypes that the server learns, apart from one another by a margin.

        g_y   = V relu(U e_y + a) + b        prototype of class y: an embedding and two layers
        d_z   = ||c_jy - g_z|| + margin * [z = y],   c_jy mean features of client j's class y
        server  SGD on CE(-d, y) over all pairs (j, y) that exist, kept from round to round
        margin = min(largest over y of the distance of q_y from the nearest q_z, ``margin``),
                 q_y the plain mean of c_jy over the clients that have y
        client  CE + prototype_weight * mean over batch and d of (f(x) - g_y)^2

    Clients predict by the nearest prototype g of all classes. Departures from the released code:
    c_jy are of the trained model in evaluation mode; squared distances are sums of squared
    differences, with 1e-12 added below the root, whose gradient is else NaN where prototypes meet;
    the prototypes of classes that no client ever had take part in the server's loss, but are not
    sent; clients predict by the prototypes that they learned from in the round, where the released
    code takes those of the next; the first weights are the same in every run.
    """

    evaluated_after: ClassVar[str] = "training"

    prototype_weight: float = 10.0
    """Lambda, the weight of the distance from prototypes, > 0."""
    margin: float = 100.0
    """Tau, the largest margin, > 0."""
    server_epochs: int = 100
    """Passes of the server over all prototypes each round, >= 1."""
    server_learning_rate: float = 0.01
    """Learning rate of the server's steps, > 0."""
    server_batch: int = 10
    """Prototypes a step of the server, >= 1."""
    width: int | None = None
    """Width to which features are pooled, >= 1, for models whose features are not equally wide;
    null compares them as they are."""
    prediction: Literal["head", "nearest", "nearest_own"] = "nearest"
    """What accuracies are those of: the model's last layer, or the nearest prototype that the
    client learned from, of all classes or of its own; the last layer before there are any."""

    def __post_init__(self) -> None:
        check_choices(self)
        positive(prototype_weight=self.prototype_weight, margin=self.margin)
        positive(server_learning_rate=self.server_learning_rate)
        at_least(1, server_epochs=self.server_epochs, server_batch=self.server_batch)
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

    def fuse(self, cohort: PrototypeCohort, state: Mapping[str, Tensor] | None) -> Fusion:
        """Return the server's prototypes after a round's steps.

        ``weights`` are each client's mean share of a class; ``state`` is the server's weights, and
        which classes any client ever had.
        """
        has = cohort.counts > 0
        rows, labels = cohort.features[has], has.nonzero()[:, 1]
        means, present, weights = mean_by_count(cohort.features, has.to(torch.float32))
        before = dict(state or first_weights(*means.shape))
        ever = before.pop("ever") | present
        margin = adaptive_margin(means[present], self.margin)
        trained, loss = descend(
            before,
            lambda now, batch: margin_loss(prototypes(now), rows[batch], labels[batch], margin),
            len(labels),
            epochs=self.server_epochs,
            batch_size=self.server_batch,
            learning_rate=self.server_learning_rate,
            stream=numpy_stream(0, "strategy", "fedtgp", "round", cohort.round),
        )
        return Fusion(
            weights=weights.expand(cohort.size, -1),
            teachers={"features": prototypes(trained), "present": ever},
            state={**trained, "ever": ever},
            metrics={"margin": margin, "prototype_loss": loss},
        )


def first_weights(classes: int, width: int) -> dict[str, Tensor]:
    """Return the server's weights before the first round, and that no class was met."""
    stream = torch_stream(0, "strategy", "fedtgp", "weights")
    inner, inner_bias = linear_weights(width, width, stream)
    outer, outer_bias = linear_weights(width, width, stream)
    return {
        "embed": torch.randn(classes, width, generator=stream),
        "inner": inner,
        "inner_bias": inner_bias,
        "outer": outer,
        "outer_bias": outer_bias,
        "ever": torch.zeros(classes, dtype=torch.bool),
    }


def prototypes(weights: NamedTensors) -> Float[Tensor, "C d"]:
    """Return the prototype of each class."""
    hidden = torch.relu(weights["embed"] @ weights["inner"].T + weights["inner_bias"])
    return hidden @ weights["outer"].T + weights["outer_bias"]


def distances(rows: Float[Tensor, "n d"], others: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Return the Euclidean distances, which have a gradient also where two meet.

    >>> distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 0.0]])).round()
    tensor([[5., 0.]])
    """
    return ((rows[:, None] - others).square().sum(dim=-1) + EPSILON).sqrt()


def adaptive_margin(means: Float[Tensor, "C d"], largest: float) -> float:
    """Return the largest distance of a class's mean from the nearest other, at most ``largest``.

    It is ``largest`` where there is one class alone.

    >>> adaptive_margin(torch.tensor([[0.0], [1.0], [4.0]]), 100.0)
    3.0
    """
    apart = distances(means, means).fill_diagonal_(torch.inf).amin(dim=1)
    return min(apart.max().item(), largest)


def margin_loss(
    centers: Float[Tensor, "C d"],
    rows: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    margin: float,
) -> Float[Tensor, ""]:
    """Return the mean cross entropy of the nearest center, the right one moved off by the margin.

    Args:
        centers: The server's prototypes.
        rows: Clients' mean features.
        labels: Their classes.
        margin: What is added to the distance from the right center.
    """
    right: Bool[Tensor, "n C"] = F.one_hot(labels, len(centers)).bool()
    return F.cross_entropy(-(distances(rows, centers) + margin * right), labels)
