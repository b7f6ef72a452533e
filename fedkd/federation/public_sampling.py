"""Sampling of the public set: the samples of a round, and the view of each that is taught.

The rules are those of ``fedkd.federation.sample_selection``; here are their inputs, remembered from
earlier rounds. A rule that looks at predictions has none before the first round, which therefore
asks about the whole public set, and pays for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.federation.sample_selection import disagreement, hardest_views
from fedkd.fusion import core_set, soften
from fedkd.knowledge import narrowed
from fedkd.messages import Cohort, Fusion
from fedkd.training.losses import Scale

Rule = Literal["random", "core_set", "disagreement"]


@dataclass
class PublicSampler:
    """Samples the public set of one run: ``size`` samples of ``views`` views each.

    Sample n's view v has the id ``v * size + n``. ``per_round`` counts samples; None takes all.
    """

    size: int
    views: int = 1
    per_round: int | None = None
    rule: Rule = "random"
    probs: Float[Tensor, "P C"] | None = field(default=None, init=False)
    """The latest fused soft label of each id, averaged over clients where teachers are personal."""
    dispute: Float[Tensor, "P"] | None = field(default=None, init=False)
    """The latest mean over clients of KL(fused || client) of each id, in nats."""

    @property
    def looks_at_predictions(self) -> bool:
        """Whether choices depend on what clients answer."""
        return self.rule != "random" or self.views > 1

    def ids(self, stream: np.random.Generator) -> Int[Tensor, "N"]:
        """Return the ids of a round, ascending; the random rule alone draws from ``stream``."""
        every = torch.arange(self.size * self.views)
        if self.per_round is None or self.per_round == self.size:
            return every
        if self.rule == "random":
            chosen = torch.from_numpy(stream.choice(self.size, self.per_round, replace=False))
        elif self.probs is None or self.dispute is None:
            return every
        elif self.rule == "core_set":
            chosen = core_set(self.probs[: self.size], self.per_round)
        else:
            # Of a sample asked about lately the students may have learned; the others keep their
            # last score.
            chosen = (
                self.dispute[: self.size]
                .sort(descending=True, stable=True)
                .indices[: self.per_round]
            )
        samples = chosen.sort().values
        return torch.cat([samples + view * self.size for view in range(self.views)])

    def record_fusion(self, fusion: Fusion, cohort: Cohort, scale: Scale) -> Fusion:
        """Remember a round's fusion, and return it with only each sample's hardest view taught.

        ``scale`` is that of its teachers.
        """
        fused = narrowed(fusion.teachers, Tensor)
        teachers = fused if scale == "probs" else soften(fused, cohort.temperature)
        common = teachers if teachers.ndim == 2 else teachers.mean(dim=0)
        if self.rule != "random":
            self._remember(
                cohort.public_ids,
                common,
                disagreement(teachers.expand_as(cohort.probs), cohort.probs).mean(0),
            )
        return (
            fusion
            if self.views == 1
            else self._hardest(fusion, teachers.expand_as(cohort.probs), cohort.probs)
        )

    def state(self) -> dict[str, Tensor]:
        """Return the memory of earlier fusions."""
        return (
            {}
            if self.probs is None or self.dispute is None
            else {"probs": self.probs, "dispute": self.dispute}
        )

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to where ``state`` was taken."""
        self.probs, self.dispute = state.get("probs"), state.get("dispute")

    def _remember(self, ids: Tensor, probs: Tensor, dispute: Tensor) -> None:
        if self.probs is None or self.dispute is None:
            self.probs = probs.new_full(
                (self.size * self.views, probs.shape[1]), 1 / probs.shape[1]
            )
            self.dispute = dispute.new_full((self.size * self.views,), torch.inf)
        self.probs, self.dispute = (
            self.probs.clone(),
            self.dispute.clone(),
        )  # a checkpoint may hold the old ones
        self.probs[ids], self.dispute[ids] = probs.float(), dispute.float()

    def _hardest(self, fusion: Fusion, teachers: Tensor, students: Tensor) -> Fusion:
        clients, rows, classes = students.shape
        samples = rows // self.views
        by_view = (self.views, samples, classes)
        taught = torch.zeros(clients, self.views, samples, dtype=torch.bool)
        for client in range(clients):
            view = hardest_views(
                teachers[client].reshape(by_view), students[client].reshape(by_view)
            )
            taught[client, view, torch.arange(samples)] = True
        mask = taught.reshape(clients, rows)
        return replace(
            fusion, taught_rows=mask if fusion.taught_rows is None else mask & fusion.taught_rows
        )
