"""A second head for what teachers say, beside the one for labels: dual-head optimization.

Kang et al. 2025, arXiv 2505.07675. A head that learns from labels and from teachers is pulled both
ways; two heads on the same features are not, and their predictions are mixed. Not for strategies
that exchange features: a mixture of two heads is the output of no linear layer. Nor without
distillation: nobody would teach the second head.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.models.features import find_head, forward_with_features
from fedkd.models.head_settings import Heads
from fedkd.settings.conditions import RunConditions
from fedkd.settings.validators import positive


@dataclass(frozen=True, kw_only=True)
class DualHeadSettings(Heads):
    """Two heads (DHO): one learns from labels, one from teachers; predictions are mixed.

    Both are trained, and neither steps the other's weights: training on private labels moves the
    features and the head for labels, distillation the features and the head for teachers. The
    temperature of distillation is ``distill.temperature``, 2 in the paper. The local-only baseline
    has the same head for labels, trained the same, and predicts by it alone, since nobody teaches
    its other one.
    """

    label_weight: float = 0.5
    """Weight of cross entropy on labels, above 0 and below 1; the rest is the weight of the
    distillation loss."""
    label_share: float = 0.5
    """Share of the first head in a prediction, in [0, 1]: 1 predicts by the head for labels alone,
    0 by the other."""
    sharpening: float = 1.0
    """Temperature of the second head in a prediction, > 0; below 1 makes it surer."""

    def __post_init__(self) -> None:
        positive(sharpening=self.sharpening)
        if not 0 < self.label_weight < 1:
            raise SettingError(f"label_weight must be above 0 and below 1, got {self.label_weight}")
        if not 0 <= self.label_share <= 1:
            raise SettingError(f"label_share must be in [0, 1], got {self.label_share}")
        if self.label_share == 1 and self.sharpening != 1:
            raise SettingError(
                f"sharpening={self.sharpening} would do nothing: label_share=1 leaves that head out"
            )

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with a run that teaches no second head, or needs its features."""
        found = super().conflict(conditions)
        if found is not None:
            return found
        where, name = f"heads={conditions.name_of('heads')}", conditions.strategy
        if conditions.exchanges and conditions.learned_by != "distill":
            return (
                f"{where}: clients of strategy={name} take weights over and distill nothing, so"
                " that nobody would teach the second head; use a strategy whose teachers are"
                " predictions on a public set, or heads=none"
            )
        if not conditions.exchanges and self.label_share < 1:
            return (
                f"{where}: strategy={name} has no teachers, so that nobody would teach the second"
                " head; leave it out of predictions with heads.label_share=1, as the local-only"
                " baseline of other strategies does, or say heads=none"
            )
        if conditions.features is not None:
            return (
                f"{where}: strategy={name} needs the features of models, the input of a linear"
                " layer that puts out the logits, and a mixture of two heads is the output of no"
                " such layer; use heads=none"
            )
        return None

    def put_on(self, model: nn.Module, inputs: Float[Tensor, "n *shape"]) -> "DualHead":
        """Return the model with a second head. Raises SettingError where it has no features."""
        return DualHead(model, inputs, self)

    def alone(self) -> "DualHeadSettings":
        """Return the settings of a client without teachers: it predicts by the head for labels."""
        return replace(self, label_share=1.0, sharpening=1.0)


class DualHead(nn.Module):
    """A model with a second head on its features; it predicts by both (``mix_heads``).

    Raises SettingError for a model whose logits are not the output of a linear layer. Build it
    where the model is built, with torch's global generator seeded: the second head's weights are
    drawn from it.
    """

    def __init__(
        self, model: nn.Module, inputs: Float[Tensor, "n *shape"], settings: DualHeadSettings
    ) -> None:
        super().__init__()
        head = _head_of(model, inputs)
        layer = model.get_submodule(head)
        assert isinstance(layer, nn.Linear), "what find_head finds"
        self.model, self.head, self.settings = model, head, settings
        self.taught = nn.Linear(layer.in_features, layer.out_features)

    def both(
        self, inputs: Float[Tensor, "n *shape"]
    ) -> tuple[Float[Tensor, "n C"], Float[Tensor, "n C"]]:
        """Return the logits of the head for labels and of the head for teachers."""
        label_logits, features = forward_with_features(self.model, self.head, inputs)
        return label_logits, self.taught(features)

    def forward(self, inputs: Float[Tensor, "n *shape"]) -> Float[Tensor, "n C"]:
        """Return the logarithm of the mixed prediction, whose softmax it is."""
        return mix_heads(*self.both(inputs), self.settings)

    def label_logits(self, inputs: Float[Tensor, "n *shape"]) -> Float[Tensor, "n C"]:
        """Return the logits of the head for labels."""
        logits: Tensor = self.model(inputs)
        return logits

    def label_loss(
        self, inputs: Float[Tensor, "n *shape"], labels: Int[Tensor, "n"]
    ) -> Float[Tensor, ""]:
        """Return ``label_term`` of a batch."""
        return label_term(self.label_logits(inputs), labels, self.settings)

    def taught_loss(
        self,
        inputs: Float[Tensor, "n *shape"],
        loss: Callable[[Float[Tensor, "n C"]], Float[Tensor, ""]],
    ) -> Float[Tensor, ""]:
        """Return ``taught_term`` of a batch."""
        return taught_term(loss(self.both(inputs)[1]), self.settings)

    def phase_parameters(self, distills: bool) -> list[nn.Parameter]:
        """Return all parameters but those of the head that has no part in the phase."""
        idle = self.model.get_submodule(self.head) if distills else self.taught
        left_out = {id(parameter) for parameter in idle.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in left_out]


def mix_heads(
    label_logits: Float[Tensor, "n C"],
    taught_logits: Float[Tensor, "n C"],
    settings: DualHeadSettings,
) -> Float[Tensor, "n C"]:
    """Return the logits ``ln(a softmax(labels) + (1 - a) softmax(taught / b))`` of two mixed heads.

    a is ``label_share``, b ``sharpening``. a = 1 is the first head's own prediction, a = 0 the
    second's; two heads that agree predict what each does where b = 1.

    >>> one_sided = torch.tensor([[0.0, -1e9]]), torch.tensor([[-1e9, 0.0]])
    >>> mix_heads(*one_sided, DualHeadSettings(label_share=0.25)).exp()
    tensor([[0.2500, 0.7500]])
    """
    share = settings.label_share
    first, second = (
        label_logits.log_softmax(dim=-1),
        (taught_logits / settings.sharpening).log_softmax(dim=-1),
    )
    if share in (0, 1):
        return first if share == 1 else second
    shares = torch.tensor([share, 1 - share], dtype=first.dtype, device=first.device).log()
    return torch.logaddexp(first + shares[0], second + shares[1])


def label_term(
    label_logits: Float[Tensor, "n C"], labels: Int[Tensor, "n"], settings: DualHeadSettings
) -> Float[Tensor, ""]:
    """Return ``lambda CE``, what the head for labels minimizes; lambda is ``label_weight``."""
    return settings.label_weight * F.cross_entropy(label_logits, labels)


def taught_term(loss: Float[Tensor, ""], settings: DualHeadSettings) -> Float[Tensor, ""]:
    """Return ``(1 - lambda) loss``, the term of the head for teachers; ``loss`` is of its logits.

    Departures: the paper minimizes both terms on every batch; where training and distillation are
    phases of their own, each has its term. The paper's loss is KL at T = 2; here it is whatever the
    scenario distills by.
    """
    return (1 - settings.label_weight) * loss


def _head_of(model: nn.Module, inputs: Tensor) -> str:
    """Return the name of a model's last linear layer, without changing the model."""
    training = model.training
    with torch.no_grad():
        head = find_head(model.eval(), inputs)
    model.train(training)
    if not head:
        raise SettingError(
            "a dual head needs a model whose logits are the output of a linear layer inside it;"
            f" {type(model).__name__} has no such layer"
        )
    return head
