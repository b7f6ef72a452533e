"""Public samples of a request where each is one input of a model: images, rows, texts with classes.

Not for: positions of texts with next tokens (``fedkd.tasks.text.text_task``).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from fedkd.models.heads import taught_loss
from fedkd.tasks.task import Compare
from fedkd.training.loop import predict


@dataclass(frozen=True)
class AskedSamples:
    """Public samples in the order of their ids: a place in a batch is a sample."""

    inputs: Num[Tensor, "N *shape"]

    @property
    def size(self) -> int:
        """N."""
        return len(self.inputs)

    def answers(
        self, model: nn.Module, batch: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b C"], Int[Tensor, "b"]]:
        """Return the logits of a batch, and the batch."""
        return model(self.inputs[batch]), batch

    def taught_loss(
        self, model: nn.Module, batch: Int[Tensor, "b"], compare: Compare
    ) -> Float[Tensor, ""]:
        """Return what distilling a batch minimizes."""
        return taught_loss(model, self.inputs[batch], lambda logits: compare(logits, batch))

    def predict(self, model: nn.Module) -> Float[Tensor, "N C"]:
        """Return the logits of all samples."""
        return predict(model, self.inputs)

    def moved(self, stream: np.random.Generator) -> "AskedSamples":
        """Return the samples as they are: by default they cannot be moved."""
        return self
