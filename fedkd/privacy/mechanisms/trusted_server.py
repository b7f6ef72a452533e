"""Noise at a server that all clients trust: it sees raw uploads, and protects teachers."""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedkd.fusion import uniform_weights
from fedkd.messages import AcceptedUploads, Cohort, Fusion, Knowledge, StrategyState
from fedkd.privacy.claims import Adversary, Layer, Unit
from fedkd.privacy.ledger import Spending
from fedkd.privacy.mechanisms.mechanism import (
    OUTSIDE_SERVER,
    SEES_TEACHERS,
    TRUSTED_SERVER,
    ClientRound,
    Mechanism,
    Protected,
    conflict_without_predictions,
    unprotected_upload,
)
from fedkd.privacy.release_plan import ReleasePlan
from fedkd.settings.conditions import RunConditions
from fedkd.strategy import MeanBased, Strategy


class ProtectedMean(NamedTuple):
    """A mean over clients that may leave the server, and its cost."""

    values: Float[Tensor, "N C"]
    answered: Bool[Tensor, "N"]
    """The rows that are released; no client is taught the others."""
    spent: tuple[Spending, ...]


@dataclass(frozen=True, kw_only=True)
class TrustedServer(Mechanism):
    """Hide a client's whole data from other clients and outsiders, not from the server."""

    unit: ClassVar[Unit] = "client"
    neighbors: ClassVar[str] = "replace-one"
    protects_from: ClassVar[tuple[Adversary, ...]] = SEES_TEACHERS
    layer: ClassVar[Layer] = "teacher"
    assumptions: ClassVar[tuple[str, ...]] = TRUSTED_SERVER
    outside: ClassVar[tuple[str, ...]] = OUTSIDE_SERVER

    def uncovered(self, conditions: RunConditions) -> str | None:
        """Return the conflict with another look at raw uploads, or another mean over clients."""
        chosen, robust = conditions.name_of("privacy"), conditions.name_of("robust")
        found = conflict_without_predictions(conditions)
        if found is not None:
            return found
        if conditions.attackers_see_all:
            return (
                f"privacy={chosen} with attacks={conditions.name_of('attacks')}: these attackers"
                " see every raw upload, so that one client's data moves many rows of the sum; take"
                " another attack or another mechanism"
            )
        if conditions.is_chosen("robust"):
            return f"privacy={chosen} and robust={robust} both take the mean's place"
        if conditions.public_sampling != "random" or conditions.augmented_views > 1:
            return (
                f"privacy={chosen}: public.sampling and public.augmented_views look at raw"
                " predictions once more; leave them out"
            )
        return None

    def planned(self, plan: ReleasePlan) -> tuple[Spending, ...]:
        """Return what all teachers of the run cost every client."""
        return self.spendings(self.events(plan, plan.rows * plan.rounds))

    def protect_upload(
        self, knowledge: Knowledge, turn: ClientRound, scores: Float[Tensor, "N"] | None
    ) -> Protected:
        """Return the upload as it is, and that the server sees it raw."""
        return Protected(knowledge, (unprotected_upload(),), turn.memory)

    def worst_case_spending(
        self, plan: ReleasePlan, rows: int, records: int
    ) -> tuple[tuple[Spending, int], ...]:
        """Return nothing: a client that sent nothing usable adds nothing to the teacher's cost."""
        return ()

    def protect_fusion(
        self,
        strategy: Strategy,
        cohort: AcceptedUploads,
        state: StrategyState,
        asked: int,
        plan: ReleasePlan,
        stream: np.random.Generator,
    ) -> tuple[Fusion, tuple[Spending, ...]]:
        """Return the strategy's fusion of a protected mean; its weights are the cohort's.

        Args:
            strategy: The run's strategy.
            cohort: The usable uploads.
            state: The strategy's state.
            asked: How many clients were asked.
            plan: The run's releases.
            stream: The server's random stream of this round.
        """
        assert isinstance(strategy, MeanBased), "checked before the run"
        assert isinstance(cohort, Cohort), "checked before the run"
        mean = self.protect_mean(cohort.values, asked, plan, stream)
        fusion = strategy.from_mean(mean.values, asked)
        # What a rule leaves out of a protected mean is left out for no private reason.
        released = (
            mean.answered if fusion.taught_rows is None else mean.answered & fusion.taught_rows
        )
        fusion = replace(
            fusion,
            taught_rows=None if bool(released.all()) else released,
            weights=cohort_weights(cohort.size),
        )
        return fusion, mean.spent

    def protect_mean(
        self,
        values: Float[Tensor, "k N C"],
        asked: int,
        plan: ReleasePlan,
        stream: np.random.Generator,
    ) -> ProtectedMean:
        """Return a protected mean over clients; each mechanism of this kind has its own.

        Args:
            values: The usable uploads.
            asked: K, >= 1 and >= k: how many clients were asked.
            plan: The run's releases.
            stream: The server's random stream of this round.
        """
        raise NotImplementedError(f"{type(self).__name__} must have a protect_mean of its own")


def cohort_weights(size: int) -> Float[Tensor, "k k"]:
    """Return the weights of a plain mean over a cohort, which may be empty."""
    return uniform_weights(size) if size else torch.zeros(0, 0)


def conflict_without_soft_mean(conditions: RunConditions, such_as: str) -> str | None:
    """Return the conflict of votes with a strategy whose teacher is no plain mean of soft labels.

    ``such_as`` is a strategy whose teacher is one.
    """
    if conditions.mean_based and conditions.teaches == "probs":
        return None
    return (
        f"privacy={conditions.name_of('privacy')} with strategy={conditions.strategy}:"
        f" votes take the place of a plain mean of soft labels, as {such_as} has it"
    )
