"""KT-pFL (Zhang et al. 2021, arXiv 2111.02862): personal teachers by a learned weight matrix."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedkd.fusion import mix
from fedkd.messages import Cohort, Fusion
from fedkd.settings.validators import at_least, at_most, check_choices, positive


@dataclass(frozen=True, kw_only=True)
class KTpFL:
    """Teach each client a mixture of soft labels whose weights take one gradient step a round.

        q_i = sum_j W_ij p_j
        L_i = mean over x and c of (p_i - q_i)^2  +  rho * mean over j of (W_ij - 1/K)^2
        W_i <- softmax(sharpness * (W_i - s * gradient of L_i))

    W = 1/K in the first round. Means, and the scale of the distillation loss (no T^2, a mean over
    classes too), are those of the released code. Its step s is searched (``search_steps``): near
    the optimum it overshoots, and weights may swing between two values for ever. By default s is
    one over the largest curvature of L_i. Then rounds of equal uploads all lower one function of W,
    so that weights settle. The paper softens and distils at T = 10: say
    ``distill.temperature=10``. Ours is what happens under partial participation: among the clients
    present W is scaled to rows of 1 (equal ones where nothing is left), and the rest of W stays.
    ``state`` is W over all clients seen so far.
    """

    evaluated_after: ClassVar[str] = "training"
    knowledge: ClassVar[str] = "logits"
    loss: ClassVar[str] = "kl_mean"

    rho: float = 0.7
    """Pull towards equal weights, >= 0."""
    step: Literal["bounded", "searched"] = "bounded"
    """Size of the gradient step: one over the largest curvature, or searched as in the released
    code."""
    sharpness: float = 5.0
    """Factor in the softmax over W, > 0 and at most 1e6."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(0, rho=self.rho)
        positive(sharpness=self.sharpness)
        at_most(1e6, sharpness=self.sharpness)

    def fuse(self, cohort: Cohort, state: Tensor | None) -> Fusion:
        """Return the learned mixture of soft labels for each client."""
        ids = torch.tensor(cohort.client_ids)
        all_weights = extend_weights(state, int(ids.max()) + 1)
        present = all_weights[ids[:, None], ids]
        mass = present.sum(dim=1, keepdim=True)
        before = torch.where(mass > 0, present / mass, 1 / cohort.size)
        weights = self.learn(before, cohort.probs)
        all_weights[ids[:, None], ids] = weights * mass
        return Fusion(weights=weights, teachers=mix(weights, cohort.probs), state=all_weights)

    def learn(
        self, weights: Float[Tensor, "K K"], probs: Float[Tensor, "K N C"]
    ) -> Float[Tensor, "K K"]:
        """Return the weights [K, K] after one gradient step and the softmax."""
        clients = len(probs)
        flat = probs.flatten(1)
        entries = max(flat.shape[1], 1)
        missing = flat - weights @ flat  # p_i - sum_j W_ij p_j
        pull = 2 * self.rho / clients
        gradient = -2 * missing @ flat.T / entries + pull * (weights - 1 / clients)
        if self.step == "searched":
            steps = search_steps(gradient)
        else:
            # What is common to a row is lost in the softmax: curvature counts only among
            # directions that sum to 0.
            apart = flat - flat.mean(dim=0)
            curvature = 2 * torch.linalg.eigvalsh(apart @ apart.T / entries)[-1] + pull
            steps = (1 / curvature.clamp(min=1e-9)).expand(clients)
        return torch.softmax(self.sharpness * (weights - steps[:, None] * gradient), dim=1)


def search_steps(gradient: Float[Tensor, "K K"]) -> Float[Tensor, "K"]:
    """Return a step for each row, by the search of KT-pFL's released code.

    From 1 it is divided by 5 while step times mean |gradient| is above 0.05, and multiplied by 5
    while that is below 0.01, five times at most.

    >>> search_steps(torch.tensor([[0.001, 0.001], [-1.0, 1.0], [0.02, 0.02]])).tolist()
    [25.0, 0.03999999910593033, 1.0]
    """
    size = gradient.abs().mean(dim=1)
    steps = torch.ones_like(size)
    for _ in range(5):
        steps = torch.where(steps * size > 0.01, steps / 5, steps)
        steps = torch.where(steps * size < 0.01, steps * 5, steps)
    return steps


def extend_weights(state: Tensor | None, clients: int) -> Float[Tensor, "K K"]:
    """Return a copy of W that is extended to ``clients`` clients.

    New clients weigh as much as the mean of the others.
    """
    if state is not None and len(state) >= clients:
        return state.clone()
    weights = torch.full((clients, clients), 1 / clients)
    if state is not None:
        known = len(state)
        weights[:known, :known] = state * known / clients
    return weights
