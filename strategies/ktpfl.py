"""KT-pFL (Zhang et al. 2021, arXiv 2111.02862): personal teachers by a learned weight matrix."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.fusion import mix
from fedkd.messages import Cohort, Fusion
from fedkd.settings.validators import at_least, at_most, positive


@dataclass(frozen=True, kw_only=True)
class KTpFL:
    """Teach each client a mixture of soft labels whose weights take one gradient step a round.

        q_i = sum_j W_ij p_j
        W_i <- W_i - step * gradient of mean_x ||p_i(x) - q_i(x)||^2 + rho ||W_i - 1/K||^2
        W_i <- softmax(sharpness * W_i)

    W = 1/K in the first round. The paper softens and distils at T = 10: say
    ``distill.temperature=10``. Ours are the step's size, and what happens under partial
    participation: among the clients present W is scaled to rows of 1 (equal ones where nothing is
    left), and the rest of W stays. ``state`` is W over all clients seen so far.
    """

    knowledge: ClassVar[str] = "logits"

    rho: float = 0.7
    """Pull towards equal weights, >= 0; times the step below 1."""
    step: float = 1.0
    """Size of the gradient step, > 0 and at most 1000; ours."""
    sharpness: float = 5.0
    """Factor in the softmax over W, > 0 and at most 1e6."""

    def __post_init__(self) -> None:
        at_least(0, rho=self.rho)
        positive(step=self.step, sharpness=self.sharpness)
        at_most(1000, step=self.step)
        at_most(1e6, sharpness=self.sharpness)
        if self.rho * self.step >= 1:
            raise SettingError(
                f"rho={self.rho} with step={self.step} would throw weights beyond equality,"
                " farther than they were; keep rho * step below 1"
            )

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
        clients, samples, _ = probs.shape
        flat = probs.flatten(1)
        missing = flat - weights @ flat  # p_i - sum_j W_ij p_j
        gradient = -2 * missing @ flat.T / max(samples, 1) + 2 * self.rho * (weights - 1 / clients)
        return torch.softmax(self.sharpness * (weights - self.step * gradient), dim=1)


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
