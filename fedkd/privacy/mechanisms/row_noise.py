"""Settings of noise on bounded rows, shared by gaussian, laplace and central_gaussian."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedkd.privacy.events import Event, GaussianRows
from fedkd.privacy.gaussian_dp import sigma_for
from fedkd.privacy.mechanisms.mechanism import DERIVED, Mechanism
from fedkd.privacy.release_plan import (
    ReleasePlan,
    check_budget,
    check_client_delta,
    check_local,
    check_memoize,
)
from fedkd.privacy.sensitivity import Norm, check_clip, diameter
from fedkd.settings.validators import check_choices


@dataclass(frozen=True, kw_only=True)
class Budgeted(Mechanism):
    """A mechanism whose noise may be solved for a budget of the whole run."""

    epsilon: float | None = None
    """Budget of the whole run, > 0, from which sigma is solved; null where sigma is given; inf
    protects nothing, as privacy=none does."""
    delta: float = 1e-5
    """Probability beyond epsilon, above 0, below one over the clients and over the largest private
    set."""

    @property
    def is_unlimited(self) -> bool:
        """Whether epsilon is infinite."""
        return self.epsilon == math.inf


@dataclass(frozen=True, kw_only=True)
class RowNoise(Budgeted):
    """Noise on rows that are brought into a range first."""

    refuses: ClassVar[Mapping[str, str]] = DERIVED
    norm: ClassVar[Norm] = 2
    """In which the rows' range is measured."""

    sigma: float | None = None
    """Standard deviation of the noise on each number of a row, > 0; null where epsilon is given."""
    clip_norm: float | None = None
    """L2 norm that a row of logits is shortened to, > 0; needed for, and only for, strategies that
    upload logits."""

    def __post_init__(self) -> None:
        check_choices(self)
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
        rows = plan.released(memoize=self.memoize)
        return sigma_for(self.epsilon, self.delta, self.sensitivity(plan), rows)

    def events(self, plan: ReleasePlan, rows: int) -> tuple[Event, ...]:
        """Return so many rows with Gaussian noise."""
        sigma = self.sigma_in(plan)
        return (GaussianRows(rows=rows, sensitivity=self.sensitivity(plan), sigma=sigma),)

    def sensitivity(self, plan: ReleasePlan) -> float:
        """Return how far one client's data can move a row: the diameter of the rows' range."""
        return diameter(plan.scale, self.clip_norm, self.norm)
