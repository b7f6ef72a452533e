"""A client's choice of the public samples that it votes on: those that a discriminator knows.

The discriminator learns the client's own samples against public ones of which its model is unsure.
Not for densities (``fedkd.knowledge.selective``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fedkd.fusion import soften
from fedkd.knowledge.knowledge_type import ClientView
from fedkd.training.hyperparameters import Phase
from fedkd.training.optimizers import Optimizer

LEARNING_RATE = 0.01
Discriminated = Literal["inputs", "features"]


@dataclass(frozen=True, kw_only=True)
class Familiar:
    """Answer for public samples that a discriminator takes for the client's own.

    Own samples are familiar; unfamiliar are the public samples of the request on which the model's
    largest probability is below its median (Zhao et al., SSFL). Both kinds count alike. Without a
    sample of either kind all samples are answered. The choice discloses which samples the client
    finds familiar, which tells something of its data.
    """

    sees: Discriminated
    """What the discriminator is shown of a sample."""
    width: int
    """Units of its hidden layer."""
    steps: int
    """Steps of Adam on all samples at once, each round anew."""

    def choose(self, view: ClientView) -> Bool[Tensor, "N"]:
        """Return flags of the requested public samples that look familiar."""
        if self.sees == "features":
            private, public = view.private_features(), view.public_features()
        else:
            private, public = (
                x.cpu().flatten(1) for x in (view.private_inputs(), view.public_inputs())
            )
        confidence = soften(view.public_logits()).amax(dim=-1)
        unsure = confidence < confidence.quantile(0.5) if len(public) else confidence > 0
        if len(private) == 0 or not bool(unsure.any()):
            return torch.ones(len(public), dtype=torch.bool)
        seed = int(view.stream("familiarity").integers(2**31))
        scores = discriminator(
            private.float(), public[unsure].float(), width=self.width, steps=self.steps, seed=seed
        )
        return scores(public.float()) > 0


def discriminator(
    familiar: Float[Tensor, "n d"],
    unfamiliar: Float[Tensor, "m d"],
    *,
    width: int,
    steps: int,
    seed: int,
) -> Callable[[Float[Tensor, "N d"]], Float[Tensor, "N"]]:
    """Return the logit of being familiar, by a network of one hidden layer.

    Args:
        familiar: Samples that are.
        unfamiliar: Samples that are not; together they weigh as much as the others.
        width: Units of the hidden layer.
        steps: Steps of Adam.
        seed: Of the first weights.

    >>> near, far = torch.zeros(20, 2), torch.full((40, 2), 3.0)
    >>> scores = discriminator(near, far, width=8, steps=50, seed=0)
    >>> (scores(torch.tensor([[0.0, 0.0], [3.0, 3.0]])) > 0).tolist()
    [True, False]
    """
    rows = torch.cat([familiar, unfamiliar])
    middle, spread = rows.mean(dim=0), rows.std(dim=0, correction=0).clamp(min=1e-6)
    rows = (rows - middle) / spread
    truth = torch.cat([torch.ones(len(familiar)), torch.zeros(len(unfamiliar))])
    weight = torch.where(truth > 0, 0.5 / len(familiar), 0.5 / len(unfamiliar))
    stream = torch.Generator().manual_seed(seed)
    into = torch.randn(rows.shape[1], width, generator=stream) * (2 / rows.shape[1]) ** 0.5
    out = torch.randn(width, generator=stream) / width**0.5
    parameters = [nn.Parameter(start) for start in (into, torch.zeros(width), out, torch.zeros(()))]

    def logits(of: Tensor) -> Tensor:
        first, bias, last, shift = parameters
        found: Tensor = torch.relu(of @ first + bias) @ last + shift
        return found

    optimizer = Optimizer(parameters, Phase(optimizer="adam", learning_rate=LEARNING_RATE))
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(logits(rows), truth, weight, reduction="sum")
            loss.backward()
            optimizer.step()
    return lambda of: logits((of - middle) / spread).detach()
