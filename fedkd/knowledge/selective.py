"""A client's choice of the public samples that it predicts on: those that resemble its own."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedkd.knowledge.density import class_gaussians, kulsif, nearness
from fedkd.knowledge.knowledge_type import ClientView
from fedkd.runtime.devices import sent

HELD_OUT = 0.2
"""Share of the private samples on which the threshold is set; the others are the known samples."""

Density = Literal["kulsif", "kmeans", "feature_gaussian"]


@dataclass(frozen=True, kw_only=True)
class InDistribution:
    """Predict on public samples that score at least a quantile of the client's held-out samples.

    The choice discloses which samples the client predicts on, which tells something of its data.
    """

    density: Density
    quantile: float
    width: float
    auxiliary: int

    def choose(self, view: ClientView) -> Bool[Tensor, "N"]:
        """Return flags of the requested public samples that the client predicts on."""
        stream = view.stream("selection")
        if self.density == "feature_gaussian":
            private, public = view.private_features(), view.public_features()
        else:
            private, public = (x.flatten(1) for x in (view.private_inputs(), view.public_inputs()))
        if len(private) < 2 or len(public) == 0:
            return torch.ones(len(public), dtype=torch.bool)
        labels = view.private_labels().to(private.device)
        permutation = sent(torch.from_numpy(stream.permutation(len(private))), private.device)
        held_out = min(len(private) - 1, max(1, round(HELD_OUT * len(private))))
        testing = permutation[:held_out].sort().values
        known = permutation[held_out:].sort().values
        rows = torch.cat([private[testing], public])
        scores = self._scores(
            private[known], labels[known], rows, view.classes, int(stream.integers(2**31))
        )
        threshold = torch.quantile(scores[:held_out], self.quantile)
        return (scores[held_out:] >= threshold).cpu()

    def _scores(
        self,
        known: Float[Tensor, "n d"],
        labels: Int[Tensor, "n"],
        rows: Float[Tensor, "m d"],
        classes: int,
        seed: int,
    ) -> Float[Tensor, "m"]:
        if self.density == "feature_gaussian":
            return class_gaussians(known, labels, rows)
        if self.density == "kmeans":
            return nearness(known, rows, classes, seed)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.rand(self.auxiliary, known.shape[1], generator=generator)
        noise = sent(noise, known.device)
        low, high = known.amin(), known.amax()
        return kulsif(known, low + (high - low) * noise, rows, self.width)
