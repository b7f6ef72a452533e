"""Laplace noise on every row that a client uploads: pure epsilon for a single row, RDP for many."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch

from fedkd.privacy.calibration import largest_below
from fedkd.privacy.composition import epsilon_of
from fedkd.privacy.events import Event, LaplaceRows
from fedkd.privacy.mechanisms.client_noise import ClientNoise
from fedkd.privacy.mechanisms.row_noise import RowNoise
from fedkd.privacy.release_plan import ReleasePlan, check_accountant, noise_warning
from fedkd.privacy.sensitivity import Norm, Rows, bound_rows, finish


@dataclass(frozen=True, kw_only=True)
class Laplace(RowNoise, ClientNoise):
    """Add Laplace noise to each client's predictions before they leave it.

    Guarantee: as for ``gaussian``, with the L1 diameter for a sensitivity: ``2 clip_norm`` for
    logits clipped in L1, 2 for soft labels. Rows compose by RDP, or by their sum where that is
    less: for few rows only is it better than Gaussian noise.
    """

    norm: ClassVar[Norm] = 1

    sigma: float | None = None
    """Standard deviation of the noise on each number of a row, > 0: sqrt(2) times its scale."""
    clip_norm: float | None = None
    """L1 norm that a row of logits is shortened to, > 0; needed for, and only for, strategies that
    upload logits."""
    memoize: bool = False
    """Answer a public sample once: a repeated one gets the same noisy row, and costs nothing."""
    accountant: Literal["auto", "pld"] = "auto"
    """What counts the finished run: auto (RDP, or the sum), or also PLD (the extra fedkd[pld]),
    slower and tighter, for epsilons up to 200. Noise is solved, and rounds are counted, by auto."""

    def check(self, plan: ReleasePlan) -> None:
        """Raise SettingError where the settings do not fit the run."""
        super().check(plan)
        check_accountant(self.accountant)

    def scale_in(self, plan: ReleasePlan) -> float:
        """Return the noise's scale, ``sigma / sqrt(2)``, as given or as the budget needs it."""
        if self.sigma is not None:
            return self.sigma / 2**0.5
        assert self.epsilon is not None, "checked when it was made"
        rows = plan.released(memoize=self.memoize)
        return self.sensitivity(plan) / largest_ratio(self.epsilon, self.delta, rows)

    def release(self, values: Rows, plan: ReleasePlan, stream: np.random.Generator) -> Rows:
        """Return the rows that may leave the client: bounded, then with fresh noise."""
        bounded = bound_rows(values, plan.scale, self.clip_norm, self.norm)
        noise = torch.from_numpy(stream.laplace(size=tuple(bounded.shape))).to(bounded.device)
        return finish(bounded + self.scale_in(plan) * noise, plan.scale, values)

    def events(self, plan: ReleasePlan, rows: int) -> tuple[Event, ...]:
        """Return so many rows with Laplace noise."""
        scale = self.scale_in(plan)
        return (LaplaceRows(rows=rows, sensitivity=self.sensitivity(plan), scale=scale),)

    def noise_in(self, plan: ReleasePlan) -> tuple[float | None, str]:
        """Return sigma, and in words what it is of."""
        sigma = 2**0.5 * self.scale_in(plan)
        return sigma, f"Laplace of deviation {sigma:.4g} on each number that a client uploads"

    def warnings(self, plan: ReleasePlan) -> tuple[str, ...]:
        """Return what should be said before the run."""
        noise = 2**0.5 * self.scale_in(plan) * 2 / self.sensitivity(plan)
        warning = noise_warning(noise, plan.clients, local=True)
        return (warning,) if warning else ()


@lru_cache(maxsize=64)
def largest_ratio(epsilon: float, delta: float, rows: int) -> float:
    """Return the largest sensitivity over scale for which the rows keep to a budget.

    They cost at most (epsilon, delta).
    """

    def cost(ratio: float) -> float:
        return epsilon_of([(LaplaceRows(rows=rows, sensitivity=ratio, scale=1.0), 1)], delta)[0]

    return largest_below(epsilon, cost)
