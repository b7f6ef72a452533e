"""Talking: clients learn features from each other's messages about public samples.

A method of this project's own, without a paper.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fedkd.fusion import row_softmax, without_self
from fedkd.knowledge.hidden_messages import HiddenMessages, MessageCohort
from fedkd.messages import Fusion
from fedkd.settings.validators import at_least
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class Talking:
    """Send encoded features of public samples, and draw features to what others' decode to.

        m    = A h / |A h|, h a client's features of a public sample, A its encoder
        M_i  = mean over clients j other than i of m_j Q_ji
        loss = CE + label_weight CE(W B m, y) + feature_weight |B M - h|^2 / |h|^2
                 + message_weight |m - M|^2

    Features are what the last linear layer W takes; their width may differ. A and the decoder B
    are linear layers of the client's own, trained with its model and never sent. The second term
    is of private samples, and keeps messages from becoming all alike; the last two are of public
    ones. Q_ji is the rotation that brings the messages of j closest to those of i, as encoders
    begin anywhere. Nothing tells a client of classes that it has no samples of.
    """

    evaluated_after: ClassVar[str] = "training"
    needs: ClassVar[Needs] = Needs(features="any")

    width: int = 32
    """Numbers of a message about one sample, >= 2."""
    label_weight: float = 1.0
    """Weight of the loss on private labels of a client's own messages, decoded, >= 0."""
    feature_weight: float = 0.1
    """Weight of the distance of features from others' messages, decoded, >= 0."""
    message_weight: float = 1.0
    """Weight of the distance of a client's messages from others', >= 0."""
    batch: int = 32
    """Public samples of a step of private training, >= 1."""
    rotate: bool = True
    """Rotate the messages of each sender towards the receiver's; false takes them as they are."""

    def __post_init__(self) -> None:
        at_least(2, width=self.width)
        at_least(1, batch=self.batch)
        at_least(0, label_weight=self.label_weight, feature_weight=self.feature_weight)
        at_least(0, message_weight=self.message_weight)

    @property
    def knowledge(self) -> HiddenMessages:
        """Messages of a width, whose terms in the loss have the weights."""
        return HiddenMessages(
            width=self.width,
            label_weight=self.label_weight,
            feature_weight=self.feature_weight,
            message_weight=self.message_weight,
            batch=self.batch,
        )

    def fuse(self, cohort: MessageCohort, state: None) -> Fusion:
        """Return for each client the mean message of the others; a client alone has its own."""
        rows, weights = (
            cohort.rows,
            row_softmax(without_self(torch.zeros(cohort.size, cohort.size))),
        )
        if not self.rotate:
            return Fusion(weights=weights, teachers=torch.einsum("ij,jnm->inm", weights, rows))
        # By receiver: the messages of all in the directions of all would take K times the memory.
        told = [
            torch.einsum("j,jnm->nm", shares, rotated(rows, own))
            for shares, own in zip(weights, rows, strict=True)
        ]
        return Fusion(weights=weights, teachers=torch.stack(told))


def rotated(rows: Float[Tensor, "K N m"], goal: Float[Tensor, "N m"]) -> Float[Tensor, "K N m"]:
    """Return each client's messages as close to a goal as a rotation of them brings.

    ``M_j Q`` with the orthogonal Q that makes ``|M_j Q - goal|`` least (orthogonal Procrustes,
    Schoenemann 1966): ``U V^T``, of the singular vectors of ``M_j^T goal``. Reflections count as
    rotations.

    >>> one = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> turned = one @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    >>> torch.allclose(rotated(turned[None], one)[0], one, atol=1e-6)
    True
    """
    products = torch.einsum("jna,nb->jab", rows.double(), goal.double())
    left, _, right = torch.linalg.svd(products)
    return torch.einsum("jna,jab->jnb", rows, (left @ right).to(rows.dtype))
