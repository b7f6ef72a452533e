"""Laplace noise on every row that a client uploads: pure epsilon for a single row, RDP for many."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch

from fedkd.privacy.calibration import largest_below
from fedkd.privacy.claims import ADVERSARIES, Adversary, Unit
from fedkd.privacy.composition import epsilon_of
from fedkd.privacy.events import LaplaceRows
from fedkd.privacy.ledger import Spending
from fedkd.privacy.mechanisms.mechanism import CHOSEN_BLINDLY, DERIVED, OUTSIDE
from fedkd.privacy.release_plan import (
    ReleasePlan,
    check_accountant,
    check_budget,
    check_client_delta,
    check_local,
    check_memoize,
    noise_warning,
)
from fedkd.privacy.sensitivity import Rows, bound_rows, check_clip, diameter, finish


@dataclass(frozen=True, kw_only=True)
class Laplace:
    """Add Laplace noise to each client's predictions before they leave it.

    Guarantee: as for ``gaussian``, with the L1 diameter for a sensitivity: ``2 clip_norm`` for
    logits clipped in L1, 2 for soft labels. Rows compose by RDP, or by their sum where that is
    less: for few rows only is it better than Gaussian noise.
    """

    unit: ClassVar[Unit] = "client"
    neighbors: ClassVar[str] = "replace-one"
    protects_from: ClassVar[tuple[Adversary, ...]] = ADVERSARIES
    refuses: ClassVar[Mapping[str, str]] = DERIVED
    assumptions: ClassVar[tuple[str, ...]] = (CHOSEN_BLINDLY,)
    outside: ClassVar[tuple[str, ...]] = OUTSIDE

    epsilon: float | None = None
    """Budget of the whole run, > 0, from which sigma is solved; null where sigma is given; inf
    protects nothing, as privacy=none does."""
    delta: float = 1e-5
    """Probability beyond epsilon, above 0, below one over the clients and over the largest private
    set."""
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

    def __post_init__(self) -> None:
        check_budget(epsilon=self.epsilon, delta=self.delta, sigma=self.sigma)

    def check(self, plan: ReleasePlan) -> None:
        """Raise SettingError where the settings do not fit the run."""
        check_local(plan)
        check_clip(plan.scale, self.clip_norm)
        check_client_delta(self.delta, plan)
        check_memoize(plan, self.memoize)
        check_accountant(self.accountant)

    def scale_in(self, plan: ReleasePlan) -> float:
        """Return the noise's scale, ``sigma / sqrt(2)``, as given or as the run's budget needs
        it.
        """
        if self.sigma is not None:
            return self.sigma / 2**0.5
        assert self.epsilon is not None, "checked when it was made"
        sensitivity = self._sensitivity(plan)
        return sensitivity / _largest_ratio(
            self.epsilon, self.delta, plan.released(memoize=self.memoize)
        )

    def release(self, values: Rows, plan: ReleasePlan, stream: np.random.Generator) -> Rows:
        """Return the rows that may leave the client: bounded, then with fresh noise."""
        bounded = bound_rows(values, plan.scale, self.clip_norm, 1)
        noise = torch.from_numpy(stream.laplace(size=tuple(bounded.shape))).to(bounded.device)
        return finish(bounded + self.scale_in(plan) * noise, plan.scale, values)

    def spent(self, plan: ReleasePlan, rows: int) -> tuple[Spending, ...]:
        """Return what a release of so many new rows costs its client."""
        event = LaplaceRows(
            rows=rows, sensitivity=self._sensitivity(plan), scale=self.scale_in(plan)
        )
        return (Spending(event=event, unit=self.unit, layer="upload"),)

    def planned(self, plan: ReleasePlan) -> tuple[Spending, ...]:
        """Return what the whole run costs a client at most."""
        return self.spent(plan, plan.released(memoize=self.memoize))

    def noise_in(self, plan: ReleasePlan) -> tuple[float | None, str]:
        """Return sigma, and in words what it is of."""
        sigma = 2**0.5 * self.scale_in(plan)
        return sigma, f"Laplace of deviation {sigma:.4g} on each number that a client uploads"

    def warnings(self, plan: ReleasePlan) -> tuple[str, ...]:
        """Return what should be said before the run."""
        noise = 2**0.5 * self.scale_in(plan) * 2 / self._sensitivity(plan)
        warning = noise_warning(noise, plan.clients, local=True)
        return (warning,) if warning else ()

    def _sensitivity(self, plan: ReleasePlan) -> float:
        return diameter(plan.scale, self.clip_norm, 1)


@lru_cache(maxsize=64)
def _largest_ratio(epsilon: float, delta: float, rows: int) -> float:
    """Return the largest sensitivity over scale for which so many rows cost at most (epsilon,
    delta).
    """

    def cost(ratio: float) -> float:
        return epsilon_of([(LaplaceRows(rows=rows, sensitivity=ratio, scale=1.0), 1)], delta)[0]

    return largest_below(epsilon, cost)
