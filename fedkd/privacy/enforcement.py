"""A run's privacy mechanism at work: in a client's training, before its upload, and behind a
trusted server's fusion.

The mechanisms (``fedkd.privacy.mechanisms``) are settings with pure functions; here is what they
need of a run: named streams, what a client keeps between rounds, and the events that tell the
ledger what was spent. Not for: what an event costs (``fedkd.privacy``), nor when a client is asked.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedkd.fusion import soften, uniform_weights
from fedkd.messages import Fusion, Knowledge, Predictions, PrivacyEvent
from fedkd.privacy.dp_sgd_history import History
from fedkd.privacy.ledger import Spending
from fedkd.privacy.mechanisms import (
    CentralGaussian,
    Detector,
    DpSgd,
    Gaussian,
    GnMax,
    Hints,
    Laplace,
    Mechanism,
    RandomizedResponse,
    Schedule,
    Swing,
    unprotected_upload,
)
from fedkd.privacy.memoization import Answers, answer_once
from fedkd.privacy.release_plan import ReleasePlan
from fedkd.privacy.unprotected import REASON, unprotected_event
from fedkd.runtime.seeding import numpy_stream
from fedkd.strategy import MeanBased, Strategy

Memory = Mapping[str, Tensor]
"""What a mechanism remembers of one client, as named tensors that are kept with its state."""

SPENT = "its privacy budget is spent"


@dataclass(frozen=True, kw_only=True)
class PrivacyEnforcer:
    """The mechanism of one run. ``plan`` is None, and ``mechanism`` with it, where nothing is
    protected.

    ``reason`` then says why.
    """

    name: str
    mechanism: Mechanism | None
    plan: ReleasePlan | None
    seed: int
    temperature: float = 1.0
    has_reference: bool = False
    """Whether the task has soft labels to compare with, of a model that saw public data alone."""
    reason: str = REASON

    @property
    def claims(self) -> bool:
        """Whether the mechanism hides anything from anybody."""
        return self.mechanism is not None and bool(self.mechanism.protects_from)

    @property
    def dp_sgd(self) -> DpSgd | None:
        """DP-SGD's settings, where clients train by it."""
        return self.mechanism if isinstance(self.mechanism, DpSgd) else None

    @property
    def central(self) -> CentralGaussian | GnMax | None:
        """The mechanism of a trusted server, where there is one."""
        return self.mechanism if isinstance(self.mechanism, CentralGaussian | GnMax) else None

    @property
    def compares(self) -> bool:
        """Whether the client must remember what it was taught, to compare with."""
        return self.detector in ("confidence", "surprisal_gap") and not self.has_reference

    @property
    def detector(self) -> Detector | None:
        """How swing finds what looks private, where it acts."""
        return self.mechanism.detector if isinstance(self.mechanism, Swing) else None

    def protect(
        self,
        knowledge: Knowledge,
        client_id: int,
        round_number: int,
        memory: Memory,
        hints: Hints | None = None,
    ) -> tuple[Knowledge, PrivacyEvent, Memory]:
        """Return what may leave a client in a round, the event that says what was done, and what it
        remembers.

        ``hints`` are what the task knows of the public samples, for swing.
        """
        mechanism, plan = self.mechanism, self.plan
        if mechanism is None or plan is None:
            return knowledge, unprotected_event(self.reason), memory
        if isinstance(mechanism, DpSgd):
            spent = [
                Spending(event=event, unit=mechanism.unit, layer="model")
                for event in history_of(memory).events()
            ]
            return knowledge, self.event(spent), memory
        if isinstance(mechanism, CentralGaussian | GnMax):
            return knowledge, self.event([unprotected_upload()]), memory
        assert isinstance(knowledge, Predictions), "checked before the run"
        if isinstance(mechanism, Swing):
            scores = self.suspected(knowledge, memory, hints)
            values = self._swung(mechanism, knowledge, scores, client_id, round_number)
            return (
                replace(knowledge, values=values),
                self.event(mechanism.spent(plan, len(values))),
                memory,
            )
        assert isinstance(mechanism, Gaussian | Laplace | RandomizedResponse), "there are no others"
        stream = numpy_stream(
            self.seed, "client", client_id, "round", round_number, "privacy noise"
        )
        # Stated are all rows that ever left the client: a reply that the server never got may have
        # been seen.
        if not mechanism.memoize:
            values = mechanism.release(knowledge.values, plan, stream)
            released = len(values) + (int(memory["released"]) if "released" in memory else 0)
            kept = {**memory, "released": torch.tensor(released)}
            return (
                replace(knowledge, values=values),
                self.event(mechanism.spent(plan, released)),
                kept,
            )
        known = (
            Answers(memory["answers ids"], memory["answers values"])
            if "answers ids" in memory
            else None
        )
        values, answers, _ = answer_once(
            knowledge.ids,
            knowledge.values,
            known,
            lambda rows: mechanism.release(rows, plan, stream),
        )
        kept = {**memory, "answers ids": answers.ids, "answers values": answers.values}
        return (
            replace(knowledge, values=values),
            self.event(mechanism.spent(plan, len(answers.ids))),
            kept,
        )

    def worst_case_spending(self, rows: int, size: int) -> tuple[tuple[Spending, int], ...]:
        """Return what may have been spent on a client of ``size`` records from which no answer came
        in a round.

        It was asked for so many ``rows``. With each spending comes how many of its smallest event
        there are at most in the client's whole run. Nothing is counted of uploads that are not
        protected themselves.
        """
        mechanism, plan = self.mechanism, self.plan
        if plan is None:
            return ()
        if isinstance(mechanism, DpSgd):
            schedule = Schedule.of(size, plan.batch_size, plan.epochs)
            spent, most = (
                mechanism.spent(schedule, plan.rounds, schedule.steps),
                plan.rounds * schedule.steps,
            )
        elif isinstance(mechanism, Gaussian | Laplace | RandomizedResponse):
            spent, most = mechanism.spent(plan, rows), plan.released(memoize=mechanism.memoize)
        else:
            return ()
        return tuple((spending, most) for spending in spent)

    def taught(self, teacher: Predictions, memory: Memory) -> Memory:
        """Return what a client remembers once it was taught: the teacher's soft labels, where it
        compares with them.
        """
        if not self.compares:
            return memory
        values = teacher.values.to(torch.float32)
        probs = values if teacher.scale == "probs" else soften(values, self.temperature)
        return {**memory, "taught ids": teacher.ids, "taught probs": probs}

    def event(self, spent: Sequence[Spending]) -> PrivacyEvent:
        """Return the event of a release that cost so much."""
        assert self.mechanism is not None, "what is not protected spends nothing"
        reasons = [getattr(spending.event, "reason", "") for spending in spent]
        return PrivacyEvent(
            mechanism=self.name,
            claims=self.claims,
            reason="; ".join(dict.fromkeys(reason for reason in reasons if reason)),
            spent=tuple(json.dumps(spending.to_dict()) for spending in spent),
        )

    def fuse(
        self, strategy: Strategy, cohort: Any, state: Any, asked: int
    ) -> tuple[Fusion, tuple[Spending, ...]]:
        """Return what a trusted server may give back, and what it cost every client; else the
        strategy's own fusion.

        ``asked`` clients were asked, at least those of the cohort. What a trusted server gives back
        depends on that number alone, since whose uploads are usable depends on private data; the
        fusion's weights are the cohort's.
        """
        central, plan = self.central, self.plan
        if central is None or plan is None:
            return strategy.fuse(cohort, state), ()
        assert isinstance(strategy, MeanBased), "checked before the run"
        stream: np.random.Generator = numpy_stream(self.seed, "round", cohort.round, "server noise")
        if isinstance(central, CentralGaussian):
            mean = central.noisy_mean(cohort.values, asked, plan, stream)
            fusion, spent = strategy.from_mean(mean, asked), central.spent(plan, len(mean))
        else:
            told = central.tell(cohort.values, plan, stream)
            fusion, spent = strategy.from_mean(told.probs, asked), told.spent
            fusion = replace(
                fusion, taught_rows=None if bool(told.answered.all()) else told.answered
            )
        return replace(
            fusion, weights=uniform_weights(cohort.size) if cohort.size else torch.zeros(0, 0)
        ), spent

    def suspected(
        self, knowledge: Predictions, memory: Memory, hints: Hints | None = None
    ) -> Tensor:
        """Return swing's scores [N] of what a client would release: how private each row looks, in
        [0, 1].
        """
        assert isinstance(self.mechanism, Swing), "no other mechanism has scores"
        hints = hints or Hints()
        if "taught ids" in memory and bool(torch.isin(knowledge.ids, memory["taught ids"]).all()):
            ids, order = memory["taught ids"].sort()
            reference = memory["taught probs"][order][torch.searchsorted(ids, knowledge.ids)]
            hints = replace(hints, reference=reference)
        return self.mechanism.scores(knowledge.values, knowledge.scale, hints)

    def _swung(
        self,
        mechanism: Swing,
        knowledge: Predictions,
        scores: Tensor,
        client_id: int,
        round_number: int,
    ) -> Tensor:
        rows, columns = scores > 0, knowledge.values.shape[1]
        noise = torch.zeros(len(scores), columns, dtype=torch.float64)
        if mechanism.noise > 0:
            noise[rows] = mechanism.draw(
                knowledge.ids[rows], columns, self.seed, client_id, round_number
            )
        return mechanism.release(knowledge.values, knowledge.scale, scores, noise)


def history_of(memory: Memory) -> History:
    """Return a client's DP-SGD steps so far."""
    return History(memory["steps"].tolist()) if "steps" in memory else History()


def with_history(memory: Memory, history: History) -> Memory:
    """Return what is remembered of a client with its DP-SGD steps."""
    return {**memory, "steps": torch.tensor(history.state(), dtype=torch.float64).reshape(-1, 3)}


def covers_round(mechanism: DpSgd, schedule: Schedule, rounds: int, history: History) -> bool:
    """Return whether a client's budget covers one round more; without a budget it always does."""
    if mechanism.epsilon is None:
        return True
    sigma = mechanism.noise_multiplier_in(schedule, rounds)
    return history.affords(
        sigma,
        schedule.sample_rate,
        schedule.steps,
        epsilon=mechanism.epsilon,
        delta=mechanism.delta,
    )
