"""Fed-DFA (AAAI 2025): public samples near the clients' decision boundaries count more.

Known to us from the paper's formulas; its code was not at hand.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fedkd.fusion import mean_over_clients, uniform_weights
from fedkd.knowledge import ClientView, KnowledgeType, PublicPredictions, Scorer
from fedkd.knowledge.beside_predictions import conflict_of_gradients
from fedkd.messages import Cohort, Fusion
from fedkd.settings.conditions import RunConditions
from fedkd.settings.validators import at_least, at_most, positive

AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class FedDFA:
    """Distil the mean of logits, samples that many steps cannot change by a share of their weight.

        k_j(x)  steps of projected gradient ascent until client j's own argmax changes
        w(x)    1 where mean_j k_j(x) is at most its median over the round's samples, else beta
        loss    mean_x w(x) KL(softmax(mean_j f_j(x) / T) || p_i(x))

    The neighbor of ``distill.margin_weights``, which weighs by the teacher's margin, and multiplies
    these weights. Steps are found by the clients in evaluation mode, and 1 + ``steps`` stands for a
    sample that does not change.

    With the paper's sizes 5 steps of 0.01 move an input by 0.05 at most, so that its radius of 0.1
    holds nothing back.

    Ours: steps are in the units of models' inputs, normalized by public samples, and not of pixels;
    the paper's two losses are one weighted loss, which is their sum over the same batch.
    """

    teaches: ClassVar[str] = "logits"

    beta: float = 0.1
    """Weight of samples far from boundaries, 0 to below 1; the paper's is 0.1."""
    steps: int = 5
    """Steps at most, >= 1; the paper's are 5."""
    step: float = 0.01
    """Size of a step on each number of an input, > 0; the paper's is 0.01."""
    radius: float = 0.1
    """How far each number of an input may move, at least a step; the paper's is 0.1."""

    def __post_init__(self) -> None:
        at_least(0, beta=self.beta)
        at_most(0.999, beta=self.beta)
        at_least(1, steps=self.steps)
        positive(step=self.step)
        at_least(self.step, radius=self.radius)

    @property
    def knowledge(self) -> KnowledgeType:
        """Logits, and the steps to the boundary of each sample."""
        scorer = StepsToBoundary(steps=self.steps, step=self.step, radius=self.radius)
        return PublicPredictions("logits", weighs_samples=True, scorer=scorer)

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return the mean of logits, and the samples' weights where clients sent their steps."""
        steps = cohort.scores
        weights = None if steps is None else near_boundaries(steps.mean(dim=0), self.beta)
        near = 1.0 if weights is None else (weights == 1).float().mean().item()
        return Fusion(
            weights=uniform_weights(cohort.size),
            teachers=mean_over_clients(cohort.logits),
            sample_weights=weights,
            metrics={"near_boundary": near},
        )


def near_boundaries(steps: Float[Tensor, "N"], beta: float) -> Float[Tensor, "N"]:
    """Return 1 for samples of at most the median number of steps, and ``beta`` for the others.

    >>> near_boundaries(torch.tensor([1.0, 2.0, 6.0, 6.0]), 0.1).tolist()
    [1.0, 1.0, 0.10000000149011612, 0.10000000149011612]
    """
    if len(steps) == 0:
        return steps
    return torch.where(steps <= steps.quantile(0.5), 1.0, beta)


@dataclass(frozen=True, kw_only=True)
class StepsToBoundary(Scorer):
    """Count steps of projected gradient ascent until a model's own argmax changes."""

    steps: int
    step: float
    radius: float

    @property
    def bounds(self) -> tuple[float, float]:
        """From 1 step to one more than there are, and what a codec may round."""
        return 0.5, self.steps + 1.5

    @property
    def reveals_model_only(self) -> bool:
        """Whether steps depend on the model and public samples alone: they do."""
        return True

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with tokens, estimators and further heads."""
        asks = "moves inputs along the gradients of models"
        name = f"strategy={conditions.strategy}"
        if conditions.is_chosen("heads"):
            return f"{name} {asks} with one head; leave heads out"
        if "texts" in conditions.data_kind:
            return (
                f"{name} {asks}, and data={conditions.name_of('data')} has tokens, which are no"
                " numbers; use distill.margin_weights with another strategy"
            )
        return conflict_of_gradients(conditions, asks)

    def count(self, rows: int) -> int:
        """Return one for each sample."""
        return rows

    def scores(self, view: ClientView) -> Float[Tensor, "S"]:
        """Return the steps of the round's public samples."""
        view.model.eval()
        found = [self._steps(view, inputs) for inputs in view.public_inputs().split(AT_ONCE)]
        return torch.cat(found).cpu() if found else torch.zeros(0)

    def _steps(self, view: ClientView, inputs: Tensor) -> Float[Tensor, "B"]:
        with torch.no_grad():
            own = view.model(inputs).argmax(dim=-1)
        counts = torch.full((len(inputs),), self.steps + 1.0, device=inputs.device)
        moved = inputs.clone()
        for count in range(1, self.steps + 1):
            moved.requires_grad_(True)
            with torch.enable_grad():
                loss = F.cross_entropy(view.model(moved), own, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, moved)
            with torch.no_grad():
                further = moved + self.step * gradient.sign()
                moved = torch.minimum(
                    torch.maximum(further, inputs - self.radius), inputs + self.radius
                )
                changed = (view.model(moved).argmax(dim=-1) != own) & (counts > self.steps)
                counts = torch.where(changed, float(count), counts)
        return counts
