"""The learning rate over a run: the formulas of PyTorch's schedulers, as functions of the time.

Time is counted in rounds of the run, and in a round by its batches. The rate depends on nothing
else, so that it is the same on resume, and for a client that was absent. PyTorch's classes would
need its optimizer classes (see ``fedkd.training.optimizers``); a test compares the rates.
"""

import math
from dataclasses import dataclass

from fedkd.training.hyperparameters import Phase

WARM_UP_START = 0.01
"""The share of the learning rate that a warm-up begins with."""


@dataclass(frozen=True)
class RoundOfRun:
    """Which round a phase is part of, from 1, and how many the run has."""

    round: int
    rounds: int

    def learning_rate(self, phase: Phase, step: int, steps: int) -> float:
        """Return the learning rate of a batch.

        Args:
            phase: The schedule and its settings.
            step: Which of the round's batches it is, from 0.
            steps: How many the round has.
        """
        return learning_rate_at(phase, self.round - 1 + step / steps, self.rounds)


def learning_rate_at(phase: Phase, time: float, rounds: float) -> float:
    """Return the learning rate when ``time`` rounds of ``rounds`` are over.

    ``cosine`` is PyTorch's CosineAnnealingLR over all rounds, ``step`` its StepLR, and
    ``warmup_cosine`` its LinearLR from a hundredth of the rate, then CosineAnnealingLR.

    >>> halved = Phase(schedule="cosine", learning_rate=0.2)
    >>> learning_rate_at(halved, 0, 10), learning_rate_at(halved, 5, 10)
    (0.2, 0.1)
    >>> tenth = Phase(schedule="step", learning_rate=0.5, decay_every=3)
    >>> learning_rate_at(tenth, 2.9, 10), learning_rate_at(tenth, 3, 10)
    (0.5, 0.05)
    """
    rate, last = phase.learning_rate, phase.final_learning_rate or 0.0
    if phase.schedule == "step":
        assert phase.decay_every is not None, "checked when it was made"
        return rate * phase.decay_by ** math.floor(time / phase.decay_every)
    if phase.schedule == "constant":
        return rate
    warm_up = phase.warm_up_in(rounds)
    if time < warm_up:
        return rate * (WARM_UP_START + (1 - WARM_UP_START) * time / warm_up)
    share = (time - warm_up) / (rounds - warm_up)
    return last + (rate - last) * (1 + math.cos(math.pi * share)) / 2
