"""Gaussian noise on every row that a client uploads: the server need not be trusted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from fedkd.privacy.claims import ADVERSARIES, Adversary, Unit
from fedkd.privacy.events import GaussianRows
from fedkd.privacy.gaussian_dp import sigma_for
from fedkd.privacy.ledger import Spending
from fedkd.privacy.mechanisms.mechanism import CHOSEN_BLINDLY, DERIVED, OUTSIDE
from fedkd.privacy.release_plan import (
    ReleasePlan,
    check_budget,
    check_client_delta,
    check_local,
    check_memoize,
    noise_warning,
)
from fedkd.privacy.sensitivity import Rows, bound_rows, check_clip, diameter, finish


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Add Gaussian noise to each client's predictions before they leave it.

    Guarantee: all that a client's private data does to its uploads is hidden from the server, other
    clients and outsiders; neighbors are any two private sets of one client, so that epsilon holds
    for the client and for each of its records. L2 sensitivity of a row is the diameter of its
    range: ``2 clip_norm`` for logits, sqrt(2) for soft labels. Composition over rows and rounds is
    exact. Soft labels are brought back onto the simplex after the noise, which costs nothing; where
    noise is large the mean over clients is then biased towards uniform.
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
    """Standard deviation of the noise on each number of a row, > 0; null where epsilon is given."""
    clip_norm: float | None = None
    """L2 norm that a row of logits is shortened to, > 0; needed for, and only for, strategies that
    upload logits."""
    memoize: bool = False
    """Answer a public sample once: a repeated one gets the same noisy row, and costs nothing."""

    def __post_init__(self) -> None:
        check_budget(epsilon=self.epsilon, delta=self.delta, sigma=self.sigma)

    def check(self, plan: ReleasePlan) -> None:
        """Raise SettingError where the settings do not fit the run."""
        check_local(plan)
        check_clip(plan.scale, self.clip_norm)
        check_client_delta(self.delta, plan)
        check_memoize(plan, self.memoize)

    def sigma_in(self, plan: ReleasePlan) -> float:
        """Return sigma as given, or as the run's budget needs it."""
        if self.sigma is not None:
            return self.sigma
        assert self.epsilon is not None, "checked when it was made"
        return sigma_for(
            self.epsilon, self.delta, self._sensitivity(plan), plan.released(memoize=self.memoize)
        )

    def release(self, values: Rows, plan: ReleasePlan, stream: np.random.Generator) -> Rows:
        """Return the rows that may leave the client: bounded, then with fresh noise."""
        bounded = bound_rows(values, plan.scale, self.clip_norm, 2)
        noise = torch.from_numpy(stream.standard_normal(bounded.shape)).to(bounded.device)
        return finish(bounded + self.sigma_in(plan) * noise, plan.scale, values)

    def spent(self, plan: ReleasePlan, rows: int) -> tuple[Spending, ...]:
        """Return what a release of so many new rows costs its client."""
        event = GaussianRows(
            rows=rows, sensitivity=self._sensitivity(plan), sigma=self.sigma_in(plan)
        )
        return (Spending(event=event, unit=self.unit, layer="upload"),)

    def planned(self, plan: ReleasePlan) -> tuple[Spending, ...]:
        """Return what the whole run costs a client at most."""
        return self.spent(plan, plan.released(memoize=self.memoize))

    def noise_in(self, plan: ReleasePlan) -> tuple[float | None, str]:
        """Return sigma, and in words what it is of."""
        sigma = self.sigma_in(plan)
        return sigma, f"Gaussian of deviation {sigma:.4g} on each number that a client uploads"

    def warnings(self, plan: ReleasePlan) -> tuple[str, ...]:
        """Return what should be said before the run."""
        noise = self.sigma_in(plan) * 2**0.5 / self._sensitivity(plan)
        warning = noise_warning(noise, plan.clients, local=True)
        return (warning,) if warning else ()

    def _sensitivity(self, plan: ReleasePlan) -> float:
        return diameter(plan.scale, self.clip_norm, 2)
