"""A model distilled from a client's uploads: what a server can score candidates on without asking
the client.

The server holds the public set and the uploads, which is all that distillation takes. The
surrogates of the other clients are the shadow models. Not for: clients' own distillation
(``fedkd.training.loop``).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.audit.scores import margin_of_logits
from fedkd.models.factory import borrowed_global_generator
from fedkd.models.mlp import mlp
from fedkd.runtime.seeding import numpy_stream, torch_seed
from fedkd.settings.validators import at_least, positive
from fedkd.training.losses import cross_entropy

Factory = Callable[[tuple[int, int, int], int], nn.Module]
Inputs = Float[Tensor, "N channels height width"]


@dataclass(frozen=True, kw_only=True)
class Surrogates:
    """How surrogates are distilled."""

    epochs: int = 60
    """Passes over the public rows, >= 1."""
    batch_size: int = 32
    """Public rows a step, >= 1."""
    learning_rate: float = 1e-3
    """Step size of Adam, > 0."""
    seed: int = 0
    """Of the weights and the order of rows. All clients' surrogates share both, so that only their
    uploads differ."""

    def __post_init__(self) -> None:
        at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        positive(learning_rate=self.learning_rate)


def distil(
    inputs: Inputs,
    probs: Float[Tensor, "N C"],
    settings: Surrogates | None = None,
    factory: Factory = mlp,
) -> nn.Module:
    """Return a model that was taught ``probs`` on ``inputs`` by cross-entropy with soft labels."""
    settings = settings or Surrogates()
    shape = (int(inputs.shape[1]), int(inputs.shape[2]), int(inputs.shape[3]))
    with borrowed_global_generator(torch_seed(settings.seed, "audit", "surrogate", "weights")):
        model = factory(shape, probs.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    stream = numpy_stream(settings.seed, "audit", "surrogate", "batches")
    model.train()
    for _ in range(settings.epochs):
        for rows in torch.from_numpy(stream.permutation(len(inputs))).split(settings.batch_size):
            optimizer.zero_grad()
            cross_entropy(model(inputs[rows]), probs[rows]).backward()
            optimizer.step()
    return model.eval()


def surrogate_margins(
    inputs: Inputs,
    probs: Float[Tensor, "K N C"],
    candidates: Float[Tensor, "n channels height width"],
    labels: Int[np.ndarray, "n"],
    settings: Surrogates | None = None,
    factory: Factory = mlp,
) -> Float[np.ndarray, "K n"]:
    """Return every candidate's margin under a surrogate of every client; ``attacks.co_op_lira`` of
    it is the attack.

    That is surrogate LiRA, after the distillation-based attack of Shi et al. 2025 (arXiv
    2502.08001), reconstructed: that the other clients' surrogates are the shadow models is our
    choice.
    """
    found = []
    for own in probs:
        model = distil(inputs, own, settings, factory)
        with torch.no_grad():
            logits = model(candidates)
        found.append(margin_of_logits(logits.double().numpy(), labels))
    return np.stack(found)
