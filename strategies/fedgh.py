"""FedGH (Yi et al. 2023, arXiv 2303.13137): the server trains a global head on class means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.fusion import NamedTensors, descend, linear_weights
from fedkd.knowledge import GlobalHead, KnowledgeType, PrototypeCohort
from fedkd.messages import Fusion
from fedkd.runtime.seeding import numpy_stream, torch_stream
from fedkd.settings.validators import at_least, check_choices, positive
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class FedGH:
    """Train one last layer on all clients' mean features by class; clients take it over.

        c_jy  mean features of client j's class y, what its last linear layer takes
        head  SGD on CE(W c_jy + b, y) over all pairs (j, y) that exist, kept from round to round
        down  W and b, which replace the last layer of every client

    The released code steps the optimizer of the last *client*, so that its head never learns, and
    adds up gradients that it never clears; here the head learns. Departures: mean features are of
    the trained model in evaluation mode, over all samples of the class (released: in training mode,
    the mean of means of batches); prototypes are taken in random order; the first head is the same
    in every run. Steps of single prototypes are the released code's, and so are ``server_epochs``
    and the learning rate.
    """

    evaluated_after: ClassVar[str] = "training"
    needs: ClassVar[Needs] = Needs(public_set=False, features="equal")

    server_epochs: int = 1
    """Passes of the head over all prototypes each round, >= 1."""
    server_learning_rate: float = 0.01
    """Learning rate of the head, > 0."""
    server_batch: int = 1
    """Prototypes a step of the head, >= 1."""
    prediction: Literal["head", "nearest"] = "head"
    """What accuracies are those of: the model's last layer, or the nearest mean features of a class
    of the client's own training set."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(1, server_epochs=self.server_epochs, server_batch=self.server_batch)
        positive(server_learning_rate=self.server_learning_rate)

    @property
    def knowledge(self) -> KnowledgeType:
        """Class prototypes up, a last layer down."""
        return GlobalHead(prediction=self.prediction)

    def fuse(self, cohort: PrototypeCohort, state: Mapping[str, Tensor] | None) -> Fusion:
        """Return the head after a round's steps; ``weights`` are shares of all prototypes."""
        has = cohort.counts > 0
        features, labels = cohort.features[has], has.nonzero()[:, 1]
        head = state or first_head(*cohort.features.shape[1:])
        trained, loss = descend(
            head,
            lambda now, batch: head_loss(now, features[batch], labels[batch]),
            len(labels),
            epochs=self.server_epochs,
            batch_size=self.server_batch,
            learning_rate=self.server_learning_rate,
            stream=numpy_stream(0, "strategy", "fedgh", "round", cohort.round),
        )
        shares = has.sum(dim=1) / has.sum()
        return Fusion(
            weights=shares.expand(cohort.size, -1).clone(),
            teachers=trained,
            state=trained,
            metrics={"head_loss": loss},
        )


def first_head(classes: int, width: int) -> dict[str, Tensor]:
    """Return the head before the first round."""
    stream = torch_stream(0, "strategy", "fedgh", "weights")
    weight, bias = linear_weights(width, classes, stream)
    return {"weight": weight, "bias": bias}


def head_loss(
    head: NamedTensors, features: Float[Tensor, "n d"], labels: Int[Tensor, "n"]
) -> Float[Tensor, ""]:
    """Return the mean cross entropy of a head on prototypes.

    >>> import torch
    >>> head = {"weight": torch.zeros(2, 1), "bias": torch.zeros(2)}
    >>> head_loss(head, torch.ones(3, 1), torch.tensor([0, 1, 1]))
    tensor(0.6931)
    """
    return F.cross_entropy(features @ head["weight"].T + head["bias"], labels)
