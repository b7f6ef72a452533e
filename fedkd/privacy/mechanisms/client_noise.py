"""Noise at the client: a mechanism that makes the rows which leave a client out of its own.

``release`` draws the noise and ``events`` says what it costs; counting, memoization and the rules
of a run are here.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedkd.messages import Knowledge, Predictions
from fedkd.privacy.claims import ADVERSARIES, Adversary, Unit
from fedkd.privacy.mechanisms.mechanism import (
    CHOSEN_BLINDLY,
    OUTSIDE,
    ClientRound,
    Mechanism,
    Protected,
    conflict_with_queries,
    conflict_without_predictions,
)
from fedkd.privacy.memoization import Answers, answer_once
from fedkd.privacy.release_plan import ReleasePlan, check_local, check_memoize
from fedkd.privacy.sensitivity import Rows
from fedkd.settings.conditions import RunConditions

RELEASED = "released"
ANSWER_IDS, ANSWER_VALUES = "answers ids", "answers values"


@dataclass(frozen=True, kw_only=True)
class ClientNoise(Mechanism, ABC):
    """Release noisy rows in the place of a client's predictions.

    All uploads of a client are hidden from everybody; neighbors are any two private sets of one
    client.
    """

    unit: ClassVar[Unit] = "client"
    neighbors: ClassVar[str] = "replace-one"
    protects_from: ClassVar[tuple[Adversary, ...]] = ADVERSARIES
    assumptions: ClassVar[tuple[str, ...]] = (CHOSEN_BLINDLY,)
    outside: ClassVar[tuple[str, ...]] = OUTSIDE

    @abstractmethod
    def release(self, values: Rows, plan: ReleasePlan, stream: np.random.Generator) -> Rows:
        """Return the rows [N, C] that may leave the client, of its predictions ``values``.

        What depends on data is bounded first (``fedkd.privacy.sensitivity.bound_rows``), and fresh
        noise from ``stream`` comes after it.
        """

    def uncovered(self, conditions: RunConditions) -> str | None:
        """Return the conflict with uploads that are no predictions, or with chosen queries."""
        return conflict_without_predictions(conditions) or conflict_with_queries(conditions)

    def check(self, plan: ReleasePlan) -> None:
        """Raise SettingError where rows are no honest account of what leaves, or memory is idle."""
        check_local(plan)
        check_memoize(plan, self.memoize)

    def protect_upload(
        self, knowledge: Knowledge, turn: ClientRound, scores: Float[Tensor, "N"] | None
    ) -> Protected:
        """Return noisy rows, and what all rows that ever left the client cost.

        Stated is the whole run so far: a reply that the server never got may have been seen.
        """
        assert isinstance(knowledge, Predictions), "checked before the run"
        plan, memory = turn.plan, turn.memory
        stream = turn.stream("privacy noise")
        if not self.memoize:
            values = self.release(knowledge.values, plan, stream)
            count = len(values) + (int(memory[RELEASED]) if RELEASED in memory else 0)
            memory = {**memory, RELEASED: torch.tensor(count)}
        else:
            known = (
                Answers(memory[ANSWER_IDS], memory[ANSWER_VALUES]) if ANSWER_IDS in memory else None
            )
            values, answers, _ = answer_once(
                knowledge.ids,
                knowledge.values,
                known,
                lambda rows: self.release(rows, plan, stream),
            )
            count = len(answers.ids)
            memory = {**memory, ANSWER_IDS: answers.ids, ANSWER_VALUES: answers.values}
        spent = self.spendings(self.events(plan, count))
        return Protected(replace(knowledge, values=values), spent, memory)
