"""Gaussian noise on the mean of all clients' predictions, added by a server that all trust."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.privacy.claims import Adversary, Unit
from fedkd.privacy.events import GaussianRows
from fedkd.privacy.gaussian_dp import sigma_for
from fedkd.privacy.ledger import Spending
from fedkd.privacy.mechanisms.mechanism import (
    DERIVED,
    OUTSIDE_SERVER,
    SEES_TEACHERS,
    TRUSTED_SERVER,
)
from fedkd.privacy.release_plan import (
    ReleasePlan,
    check_budget,
    check_client_delta,
    check_local,
    noise_warning,
)
from fedkd.privacy.sensitivity import Rows, bound_rows, check_clip, diameter, finish


@dataclass(frozen=True, kw_only=True)
class CentralGaussian:
    """Clip each client's rows at the server, average, and add Gaussian noise to the mean before
    anybody gets it.

    Guarantee: what one client's whole data does to the teachers is hidden from other clients and
    outsiders, not from the server. Neighbors: one client's data replaced by any other. The noise is
    measured on the *sum* over clients, whose L2 sensitivity is a row's diameter (``2 clip_norm``,
    or sqrt(2) for soft labels) however many there are.

    The sum is divided by K, the clients *asked*, and not by how many of their uploads are usable:
    data can make training diverge or take long, and the deviation ``sigma / K`` of the noise would
    tell. Who was asked and sent nothing usable adds a row of zeros. That is within the sensitivity:
    zeros are within the ball of clipped logits, and nearer to every soft label (at most 1) than two
    soft labels can be (sqrt(2)).

    Only for strategies whose teacher is the plain mean: weights that depend on uploads would be a
    look of their own.
    """

    unit: ClassVar[Unit] = "client"
    neighbors: ClassVar[str] = "replace-one"
    protects_from: ClassVar[tuple[Adversary, ...]] = SEES_TEACHERS
    refuses: ClassVar[Mapping[str, str]] = DERIVED
    assumptions: ClassVar[tuple[str, ...]] = TRUSTED_SERVER
    outside: ClassVar[tuple[str, ...]] = OUTSIDE_SERVER

    epsilon: float | None = None
    """Budget of the whole run, > 0, from which sigma is solved; null where sigma is given; inf
    protects nothing, as privacy=none does."""
    delta: float = 1e-5
    """Probability beyond epsilon, above 0, below one over the clients and over the largest private
    set."""
    sigma: float | None = None
    """Standard deviation of the noise on the sum over clients, > 0: a teacher of K that were asked
    has sigma / K; null with an epsilon."""
    clip_norm: float | None = None
    """L2 norm that a row of logits is shortened to, > 0; needed for, and only for, strategies that
    upload logits."""

    def __post_init__(self) -> None:
        check_budget(epsilon=self.epsilon, delta=self.delta, sigma=self.sigma)

    def check(self, plan: ReleasePlan) -> None:
        """Raise SettingError where the settings do not fit the run."""
        check_local(plan)
        check_clip(plan.scale, self.clip_norm)
        check_client_delta(self.delta, plan)
        if not plan.unweighted_mean:
            raise SettingError(
                "central_gaussian needs a strategy whose teacher is the plain mean of the uploads:"
                " weights that depend"
                " on them, or a teacher for each client, have no sensitivity that could be derived"
            )

    def sigma_in(self, plan: ReleasePlan) -> float:
        """Return sigma as given, or as the run's budget needs it."""
        if self.sigma is not None:
            return self.sigma
        assert self.epsilon is not None, "checked when it was made"
        return sigma_for(self.epsilon, self.delta, self._sensitivity(plan), plan.rows * plan.rounds)

    def bound(self, values: Rows, plan: ReleasePlan) -> Rows:
        """Return one client's upload as it enters the mean; to be done to every upload, before the
        mean.
        """
        return bound_rows(values, plan.scale, self.clip_norm, 2).to(values.dtype)

    def noisy_mean(
        self,
        values: Float[Tensor, "k N C"],
        asked: int,
        plan: ReleasePlan,
        stream: np.random.Generator,
    ) -> Rows:
        """Return the teacher that may leave the server: the mean of the bounded uploads [k, N, C],
        with noise.

        ``asked`` is K, >= 1 and >= k: how many clients the mean is of. Those whose uploads are
        missing count as rows of zeros; ``finish`` makes the soft labels of them that uniform rows
        in their place would have given.
        """
        total = torch.zeros(values.shape[1:], dtype=torch.float64, device=values.device)
        for upload in values:
            total += bound_rows(upload, plan.scale, self.clip_norm, 2)
        noise = torch.from_numpy(stream.standard_normal(total.shape)).to(total.device)
        noisy = (total + self.sigma_in(plan) * noise) / asked
        return finish(noisy, plan.scale, noisy).to(values.dtype)

    def spent(self, plan: ReleasePlan, rows: int) -> tuple[Spending, ...]:
        """Return what a teacher of so many rows costs every client."""
        event = GaussianRows(
            rows=rows, sensitivity=self._sensitivity(plan), sigma=self.sigma_in(plan)
        )
        return (Spending(event=event, unit=self.unit, layer="teacher", seen_by=SEES_TEACHERS),)

    def planned(self, plan: ReleasePlan) -> tuple[Spending, ...]:
        """Return what the whole run costs every client."""
        return self.spent(plan, plan.rows * plan.rounds)

    def noise_in(self, plan: ReleasePlan) -> tuple[float | None, str]:
        """Return sigma, and in words what it is of."""
        sigma = self.sigma_in(plan)
        return (
            sigma,
            f"Gaussian of deviation {sigma:.4g} on each sum over clients; the mean of K asked has"
            f" {sigma:.4g} / K",
        )

    def warnings(self, plan: ReleasePlan) -> tuple[str, ...]:
        """Return what should be said before the run."""
        noise = self.sigma_in(plan) * 2**0.5 / self._sensitivity(plan)
        warning = noise_warning(noise, plan.clients, local=False)
        return (warning,) if warning else ()

    def _sensitivity(self, plan: ReleasePlan) -> float:
        return diameter(plan.scale, self.clip_norm, 2)
