"""Local teacher (after FitNets, arXiv 1412.6550): a large model at home teaches the small one.

Not of one paper on federated learning: its parts are.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.fusion import average_states, soften
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
from fedkd.settings.validators import at_least, check_choices, positive
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class LocalTeacher:
    """Average small students, each of which a large model of the client's own teaches at home.

        teacher  CE(f_t)                                             ``models``, never sent
        student  (1 - a) CE(f_s) + a T^2 KL(p_t || p_s) + b MSE(W n(h_s), n(h_t))
        up, down the student's weights; mean over clients by n_j

    The teacher has no gradient from the student's loss. h are features, what the last linear layers
    take, n(h) their rows at length 1 times the root of their width, and W a linear map of the
    client's own, which is trained with the student and never sent. Clients predict by the student.
    Teachers may be of any size and architecture, also others for other clients, and begin to teach
    trained where ``train.warm_up_epochs`` says so.
    """

    evaluated_after: ClassVar[str] = "training"

    companion: str = "mlp"
    """Architecture of the student, by name or package.module:factory, the same for all clients."""
    soft_label_weight: float = 0.5
    """a, the weight of the teacher's soft labels against labels, from 0 and below 1."""
    feature_weight: float = 1.0
    """b, the weight of the distance of features, >= 0."""
    temperature: float = 2.0
    """T, at which the teacher's soft labels are taken, > 0."""
    mean: Literal["weighted", "plain"] = "weighted"
    """Weigh clients by the sizes of their training sets, or all alike."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(0, soft_label_weight=self.soft_label_weight, feature_weight=self.feature_weight)
        positive(temperature=self.temperature)
        if self.soft_label_weight >= 1:
            raise SettingError(
                f"soft_label_weight must be below 1, got {self.soft_label_weight:g}: the student"
                " would learn no labels"
            )
        if self.soft_label_weight == 0 and self.feature_weight == 0:
            raise SettingError(
                "soft_label_weight and feature_weight are both 0: nobody would be taught; use"
                " fedavg with the student's architecture"
            )
        if self.soft_label_weight == 0 and self.temperature != 2.0:
            raise SettingError(
                f"temperature={self.temperature:g} would do nothing: soft_label_weight is 0"
            )

    @property
    def needs(self) -> Needs:
        """A second model at every client, features of both where they are compared."""
        features: Literal["any"] | None = "any" if self.feature_weight > 0 else None
        return Needs(public_set=False, companion=self.companion, features=features)

    @property
    def knowledge(self) -> KnowledgeType:
        """The student's weights, trained beside its teacher."""
        joint = Taught(
            soft_label_weight=self.soft_label_weight,
            feature_weight=self.feature_weight,
            temperature=self.temperature,
        )
        return ModelWeights(part=CompanionModel(), joint=joint)

    def fuse(self, cohort: WeightsCohort, state: None) -> Fusion:
        """Return the mean of the clients' students."""
        shares = cohort.shares_by(self.mean)
        return Fusion(
            weights=shares.expand(cohort.size, -1), teachers=average_states(cohort.states, shares)
        )


@dataclass(frozen=True, kw_only=True)
class Taught(JointLearning):
    """One direction: the client's own model teaches the student that travels."""

    soft_label_weight: float
    feature_weight: float
    temperature: float

    @property
    def needs_features(self) -> bool:
        """Whether features are compared."""
        return self.feature_weight > 0

    @property
    def predicts_alone(self) -> bool:
        """No: the student predicts."""
        return False

    def beside(self, own_width: int | None, companion_width: int | None) -> nn.Module | None:
        """Return W, from the student's features to the teacher's."""
        if own_width is None or companion_width is None:
            return None
        return nn.Linear(companion_width, own_width, bias=False)

    def loss(
        self,
        pair: ModelPair,
        inputs: Num[Tensor, "n *shape"],
        labels: Tensor,
        label_loss: LabelLoss,
    ) -> Float[Tensor, ""]:
        """Return the sum of both losses; the teacher's moves the teacher alone."""
        apart = torch.zeros((), device=inputs.device)
        if self.needs_features:
            taught, h = pair.own_features(inputs)
            said, h_student = pair.companion_features(inputs)
            mapped: Tensor = pair.companion.beside(spread(h_student))
            apart = F.mse_loss(mapped, spread(h.detach()))
        else:
            taught, said = pair.logits(inputs)
        weight, temperature = self.soft_label_weight, self.temperature
        own, student = label_loss(taught, labels), label_loss(said, labels)
        soft = softened_divergence(taught, said, temperature) if weight > 0 else 0.0
        return own + (1 - weight) * student + weight * soft + self.feature_weight * apart

    def predictor(self, pair: ModelPair) -> nn.Module:
        """Return the student."""
        return pair.companion.shared


def spread(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return features scaled to a mean square of 1 in each row.

    >>> spread(torch.tensor([[3.0, 4.0]])).square().mean()
    tensor(1.)
    """
    scale: float = features.shape[-1] ** 0.5
    return F.normalize(features, dim=-1) * scale


def softened_divergence(
    teacher: Float[Tensor, "n *rows C"], student: Float[Tensor, "n *rows C"], temperature: float
) -> Float[Tensor, ""]:
    """Return T^2 times the mean of KL(teacher || student) at a temperature; the teacher stays.

    Args:
        teacher: Logits without a gradient from this.
        student: Logits.
        temperature: T.
    """
    target = soften(teacher.detach().flatten(0, -2), temperature)
    said = (student.flatten(0, -2) / temperature).log_softmax(dim=-1)
    return temperature**2 * F.kl_div(said, target, reduction="batchmean")
