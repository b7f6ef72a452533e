"""The history of DP-SGD's steps on one client's data.

It is stored with the client, so that no round starts from nothing.

A fresh accountant each round would report one round's epsilon for a whole run.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.privacy.composition import Accountant, epsilon_of
from fedkd.privacy.events import DpSgdSteps

STEPS = "steps"
"""The steps' name in what a mechanism remembers of a client."""


class StepHistory:
    """Noise multipliers, sample rates and how many steps were made with them, in order."""

    def __init__(self, state: Iterable[Sequence[float]] = (), group: int = 1) -> None:
        """Continue from a ``state``; SettingError where it is none.

        A record has ``group`` examples at most, which is the run's to say and not stored.
        """
        self.group = group
        self._runs: list[tuple[float, float, int]] = []
        for row in state:
            if len(row) != 3 or row[2] != int(row[2]):
                raise SettingError(
                    "a history of DP-SGD has noise multiplier, sample rate and steps, got"
                    f" {list(row)}"
                )
            event = DpSgdSteps(
                noise_multiplier=float(row[0]), sample_rate=float(row[1]), steps=int(row[2])
            )
            self._runs.append((event.noise_multiplier, event.sample_rate, event.steps))

    @property
    def steps(self) -> int:
        """How many steps were made in all."""
        return sum(steps for _, _, steps in self._runs)

    def add(self, noise_multiplier: float, sample_rate: float, steps: int = 1) -> None:
        """Record steps, at the latest when their noise is drawn.

        What follows may fail: they are spent.
        """
        if self._runs and self._runs[-1][:2] == (noise_multiplier, sample_rate):
            self._runs[-1] = (noise_multiplier, sample_rate, self._runs[-1][2] + steps)
        else:
            self._runs.append((noise_multiplier, sample_rate, steps))

    def state(self) -> list[list[float]]:
        """Return the history as rows of numbers: noise multiplier, sample rate, steps."""
        return [[sigma, rate, float(steps)] for sigma, rate, steps in self._runs]

    def events(self) -> tuple[DpSgdSteps, ...]:
        """Return the history as events for a ledger."""
        return tuple(
            DpSgdSteps(noise_multiplier=s, sample_rate=q, steps=n, group=self.group)
            for s, q, n in self._runs
        )

    def epsilon(self, delta: float, accountant: Accountant = "auto") -> float:
        """Return the epsilon of all steps at ``delta``; 0 before the first."""
        return epsilon_of([(event, 1) for event in self.events()], delta, accountant)[0]

    def affords(
        self,
        noise_multiplier: float,
        sample_rate: float,
        steps: int,
        *,
        epsilon: float,
        delta: float,
    ) -> bool:
        """Return whether so many steps more stay within a budget.

        A client that cannot afford a round is absent.

        Args:
            noise_multiplier: Of the further steps.
            sample_rate: Of the further steps.
            steps: Their number.
            epsilon: The budget.
            delta: The budget's delta.
        """
        more = DpSgdSteps(
            noise_multiplier=noise_multiplier,
            sample_rate=sample_rate,
            steps=steps,
            group=self.group,
        )
        return epsilon_of([(event, 1) for event in (*self.events(), more)], delta)[0] <= epsilon


def history_of(memory: Mapping[str, Tensor], group: int = 1) -> StepHistory:
    """Return a client's DP-SGD steps so far, of whose records none has more examples."""
    return StepHistory(memory[STEPS].tolist() if STEPS in memory else (), group)


def with_history(memory: Mapping[str, Tensor], history: StepHistory) -> dict[str, Tensor]:
    """Return a client's memory with its DP-SGD steps."""
    return {**memory, STEPS: torch.tensor(history.state(), dtype=torch.float64).reshape(-1, 3)}
