"""FML (Shen et al. 2020, arXiv 2006.16765): a small shared model and the own teach each other."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor

from fedkd.errors import SettingError
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
from fedkd.settings.validators import check_choices, share
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class FML:
    """Average a small model that every client trains in mutual distillation with its own.

        own model  own_weight CE(f) + (1 - own_weight) KL(p_s || p)
        shared     shared_weight CE(f_s) + (1 - shared_weight) KL(p || p_s)
        up, down   the shared model's weights; s = mean over clients

    In each divergence the teacher's side, the first, has no gradient. The client's own model stays,
    and predicts. In the released code the lines that hand out and merge the shared model are
    commented out, and its merging adds up what counts batches; here weights and buffers are
    averaged. Both models take the steps of one optimizer with states of their own; it would differ
    from two alone where ``train.clip_grad_norm`` shortens the gradient of both as one.
    """

    evaluated_after: ClassVar[str] = "training"

    companion: str = "mlp"
    """Architecture of the shared model, the paper's meme, by name or package.module:factory."""
    own_weight: float = 0.5
    """Alpha, the weight of labels in the own model's loss, above 0 and below 1."""
    shared_weight: float = 0.5
    """Beta, the weight of labels in the shared model's loss, above 0 and at most 1."""
    mean: Literal["weighted", "plain"] = "plain"
    """Weigh clients by the sizes of their training sets, or all alike, as the paper does."""

    def __post_init__(self) -> None:
        check_choices(self)
        share(own_weight=self.own_weight, shared_weight=self.shared_weight)
        if self.own_weight == 1:
            raise SettingError(
                "own_weight must be below 1, got 1: clients' own models would learn nothing from"
                " others"
            )

    @property
    def needs(self) -> Needs:
        """A second model at every client; no public set."""
        return Needs(public_set=False, companion=self.companion)

    @property
    def knowledge(self) -> KnowledgeType:
        """The shared model's weights, with mutual distillation at the clients."""
        joint = Mutual(own_weight=self.own_weight, shared_weight=self.shared_weight)
        return ModelWeights(part=CompanionModel(), joint=joint)

    def fuse(self, cohort: WeightsCohort, state: None) -> Fusion:
        """Return the mean of the clients' shared models."""
        shares = cohort.shares_by(self.mean)
        return Fusion(
            weights=shares.expand(cohort.size, -1), teachers=average_states(cohort.states, shares)
        )


@dataclass(frozen=True, kw_only=True)
class Mutual(JointLearning):
    """Mutual distillation of a client's own model and the shared one."""

    own_weight: float
    shared_weight: float

    def loss(
        self,
        pair: ModelPair,
        inputs: Num[Tensor, "n *shape"],
        labels: Tensor,
        label_loss: LabelLoss,
    ) -> Float[Tensor, ""]:
        """Return the sum of both losses, each of which moves its own model alone."""
        own, shared = pair.logits(inputs)
        alpha, beta = self.own_weight, self.shared_weight
        of_own = alpha * label_loss(own, labels) + (1 - alpha) * divergence(shared, own)
        of_shared = beta * label_loss(shared, labels) + (1 - beta) * divergence(own, shared)
        return of_own + of_shared


def divergence(
    teacher: Float[Tensor, "n *rows C"], student: Float[Tensor, "n *rows C"]
) -> Float[Tensor, ""]:
    """Return the mean over samples of KL(teacher || student) of logits; the teacher stays.

    >>> import torch
    >>> round(divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])).item(), 4)
    0.1201
    """
    target, said = (x.flatten(0, -2).log_softmax(dim=-1) for x in (teacher.detach(), student))
    return F.kl_div(said, target, reduction="batchmean", log_target=True)
