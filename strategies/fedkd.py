"""FedKD (Wu et al. 2022, doi 10.1038/s41467-022-29763-x): adaptive mutual distillation, low rank.

Not to be confused with this program, of which it is one method.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor, nn

from fedkd.codecs import Codec, LowRank
from fedkd.errors import RunError
from fedkd.fusion import average_states, uniform_weights
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
from fedkd.settings.validators import at_least, share
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class FedKD:
    """Average the changes of a small shared model that each client's own model teaches and learns.

        own     CE + (KL(p_s || p) + MSE(h, W h_s)) / (CE + CE_s)
        shared  CE_s + (KL(p || p_s) + MSE(h, W h_s)) / (CE + CE_s)
        up      the change of each weight of the shared model, by its largest singular values
        server  w <- w + mean over clients of their changes
        down    what changed of w, in the same way

    h are features, W a matrix of the client's own, which is kept from round to round and not sent.
    The less sure both models are of the labels, the less they learn of each other; the denominator
    has no gradient, and neither has the teacher of a divergence (in the released code both have).
    Departures: h are the input of the last layer alone, no attention maps are matched; the share of
    energy rises over ``over`` messages of each way, in the paper over all rounds of a run; the
    released code sends zeros of a matrix that needs its last singular value, and multiplies factors
    wrongly unless they are square, where this does neither.
    """

    evaluated_after: ClassVar[str] = "unknown"

    companion: str = "mlp"
    """Architecture of the shared model, the paper's mentee, by name or package.module:factory."""
    hidden: bool = True
    """Match features as well, which both models must have."""
    energy: float = 0.95
    """Share of each change's energy that travels at first, above 0 and at most 1."""
    last_energy: float = 0.98
    """Share that travels at last, above 0 and at most 1."""
    over: int = 50
    """Messages over which the share goes from the first to the last, >= 1."""

    def __post_init__(self) -> None:
        share(energy=self.energy, last_energy=self.last_energy)
        at_least(1, over=self.over)

    @property
    def needs(self) -> Needs:
        """A second model at every client, and features of both if they are matched."""
        return Needs(
            public_set=False,
            companion=self.companion,
            features="any" if self.hidden else None,
        )

    @property
    def knowledge(self) -> KnowledgeType:
        """The changes of the shared model, with adaptive mutual distillation at the clients."""
        part = CompanionModel(sends_changes=True)
        return ModelWeights(part=part, joint=AdaptiveMutual(hidden=self.hidden))

    @property
    def codec(self) -> tuple[Codec, Codec]:
        """Singular values of the changes that clients send, and of what changed since for them."""
        up = LowRank(energy=self.energy, last_energy=self.last_energy, over=self.over)
        return up, replace(up, changes=True)

    def fuse(self, cohort: WeightsCohort, state: Mapping[str, Tensor] | None) -> Fusion:
        """Return the shared model after the mean of the clients' changes; it is the state too."""
        before = cohort.start if state is None else state
        if before is None:
            raise RunError("fedkd needs the weights that shared models began with")
        shares = uniform_weights(cohort.size)[0]
        change = average_states(cohort.states, shares)
        after = {
            name: tensor + change[name] if tensor.is_floating_point() else change[name]
            for name, tensor in before.items()
        }
        return Fusion(weights=shares.expand(cohort.size, -1), teachers=after, state=after)


@dataclass(frozen=True, kw_only=True)
class AdaptiveMutual(JointLearning):
    """Mutual distillation that counts the more, the better both models know the labels."""

    hidden: bool

    @property
    def needs_features(self) -> bool:
        """Whether features are matched."""
        return self.hidden

    def beside(self, own_width: int | None, companion_width: int | None) -> nn.Module | None:
        """Return W, from the features of the shared model to those of the client's own."""
        if not self.hidden or own_width is None or companion_width is None:
            return None
        return nn.Linear(companion_width, own_width, bias=False)

    def loss(
        self,
        pair: ModelPair,
        inputs: Num[Tensor, "n *shape"],
        labels: Tensor,
        label_loss: LabelLoss,
    ) -> Float[Tensor, ""]:
        """Return the sum of both losses, each of which moves its own model; the second moves W."""
        if not self.hidden:
            own, shared = pair.logits(inputs)
            return adaptive_loss(own, shared, labels, label_loss, own.new_zeros(()))
        own, h = pair.own_features(inputs)
        shared, h_shared = pair.companion_features(inputs)
        projected = pair.companion.beside(h_shared)
        apart = F.mse_loss(h, projected.detach()) + F.mse_loss(projected, h.detach())
        return adaptive_loss(own, shared, labels, label_loss, apart)


def adaptive_loss(
    own: Float[Tensor, "n *rows C"],
    shared: Float[Tensor, "n *rows C"],
    labels: Tensor,
    label_loss: LabelLoss,
    apart: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Return the labels' losses of both models, and their divergences over the sum of these.

    Args:
        own: Logits of the client's own model.
        shared: Logits of the shared one.
        labels: Targets.
        label_loss: The run's loss on labels.
        apart: What features differ by.
    """
    of_own, of_shared = label_loss(own, labels), label_loss(shared, labels)
    scale = (of_own + of_shared).detach().clamp(min=1e-8)
    log_own, log_shared = (x.flatten(0, -2).log_softmax(dim=-1) for x in (own, shared))
    each = [
        F.kl_div(student, teacher.detach(), reduction="batchmean", log_target=True)
        for student, teacher in ((log_own, log_shared), (log_shared, log_own))
    ]
    return of_own + of_shared + (torch.stack(each).sum() + apart) / scale
