"""Surrogate models, distilled from clients' uploads, on which a server can score candidates.

The server holds the public set and the uploads, which suffice for distillation; it needs no access
to a client's model. The surrogates of the other clients serve as shadow models. Not for: clients'
own distillation (``fedkd.federation.local_steps``).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from fedkd.audit.scores import margin_of_logits
from fedkd.models.factory import borrowed_global_generator
from fedkd.models.mlp import mlp
from fedkd.runtime.seeding import numpy_stream, torch_seed
from fedkd.settings.validators import at_least, positive
from fedkd.training.hyperparameters import Phase
from fedkd.training.loop import optimize
from fedkd.training.losses import cross_entropy

Factory = Callable[[tuple[int, ...], int], nn.Module]
Inputs = Num[Tensor, "N *shape"]


@dataclass(frozen=True, kw_only=True)
class Surrogates:
    """Settings of the distillation of surrogates."""

    epochs: int = 60
    """Passes over the public samples, >= 1."""
    batch_size: int = 32
    """Public samples per step, >= 1."""
    learning_rate: float = 1e-3
    """Step size of Adam, > 0."""
    seed: int = 0
    """Of the initial weights and the batches. All clients' surrogates share both, so that only
    their uploads differ."""

    def __post_init__(self) -> None:
        at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        positive(learning_rate=self.learning_rate)


def distil(
    inputs: Inputs,
    probs: Float[Tensor, "N C"],
    settings: Surrogates | None = None,
    factory: Factory = mlp,
) -> nn.Module:
    """Return a model distilled from ``probs`` on ``inputs`` by cross-entropy with soft labels.

    Args:
        inputs: Public samples.
        probs: Their soft labels.
        settings: Of the distillation, or None for the defaults.
        factory: Makes the model from an input shape and a number of classes.
    """
    settings = settings or Surrogates()
    shape = tuple(int(side) for side in inputs.shape[1:])
    with borrowed_global_generator(torch_seed(settings.seed, "audit", "surrogate", "weights")):
        model = factory(shape, probs.shape[1])
    optimize(
        model,
        len(inputs),
        lambda rows: cross_entropy(model(inputs[rows]), probs[rows]),
        Phase(
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
        ),
        numpy_stream(settings.seed, "audit", "surrogate", "batches"),
    )
    return model.eval()


def surrogate_margins(
    inputs: Inputs,
    probs: Float[Tensor, "K N C"],
    candidates: Num[Tensor, "n *shape"],
    labels: Int[np.ndarray, "n"],
    settings: Surrogates | None = None,
    factory: Factory = mlp,
) -> Float[np.ndarray, "K n"]:
    """Return the margins of all candidates under a surrogate of each client.

    With ``membership_inference.co_op_lira`` on them it is surrogate LiRA, reconstructed after the
    distillation-based attack of Shi et al. 2025 (arXiv 2502.08001). Departure from the paper: the
    other clients' surrogates serve as shadow models.

    Args:
        inputs: Public samples.
        probs: Each client's soft labels of them.
        candidates: The candidates' inputs.
        labels: The candidates' labels.
        settings: Of the distillation, or None for the defaults.
        factory: Makes a surrogate from an input shape and a number of classes.
    """
    margins = []
    for own in probs:
        model = distil(inputs, own, settings, factory)
        with torch.no_grad():
            logits = model(candidates)
        margins.append(margin_of_logits(logits.double().numpy(), labels))
    return np.stack(margins)
