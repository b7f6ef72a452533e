"""GNMax: a trusted server tells the class with most noisy votes, or nothing (PATE)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.privacy.events import Event, GaussianRows, NoisyVotes
from fedkd.privacy.gaussian_dp import mu_at
from fedkd.privacy.ledger import DATA_DEPENDENT, Spending
from fedkd.privacy.mechanisms.mechanism import DERIVED, OUTSIDE_SERVER
from fedkd.privacy.mechanisms.row_noise import Budgeted
from fedkd.privacy.mechanisms.trusted_server import (
    ProtectedMean,
    TrustedServer,
    conflict_without_soft_mean,
)
from fedkd.privacy.pate import confident_gnmax_cost, gnmax_cost
from fedkd.privacy.release_plan import (
    ReleasePlan,
    check_budget,
    check_client_delta,
    check_local,
    noise_warning,
)
from fedkd.privacy.renyi import ORDERS
from fedkd.settings.conditions import RunConditions
from fedkd.settings.validators import only_with, positive


@dataclass(frozen=True)
class VoteResult:
    """The votes' outcome: one-hot rows [N, C], which were answered [N], and the cost."""

    probs: Float[Tensor, "N C"]
    answered: Bool[Tensor, "N"]
    spent: tuple[Spending, ...]


@dataclass(frozen=True, kw_only=True)
class GnMax(Budgeted, TrustedServer):
    """Count each client's first choice as a vote, add Gaussian noise, tell the winner.

    Papernot et al. 2018, arXiv 1802.08908. Guarantee: what one client's whole data does to the
    labels told is hidden from other clients and outsiders, not from the server. Neighbors: one
    client's data replaced, which moves a histogram by sqrt(2) in L2, or by 1 where its upload is
    then not usable and it casts no vote. With a threshold (confident GNMax) a sample whose noisy
    largest count is below it is not answered, which costs the check alone. Sigma is solved for the
    cost that holds whatever the votes are; the ledger then also knows what they really cost, and
    that figure is private itself.
    """

    refuses: ClassVar[Mapping[str, str]] = {**DERIVED, "clip_norm": "a vote needs no clipping"}
    outside: ClassVar[tuple[str, ...]] = (
        *OUTSIDE_SERVER,
        f"where rdp is the accountant, {DATA_DEPENDENT}",
    )

    sigma: float | None = None
    """Standard deviation of the noise on each count of votes, > 0; null where epsilon is given."""
    threshold: float | None = None
    """Votes, with noise, that the first class must have to be told, > 0; null tells all samples."""
    threshold_sigma: float | None = None
    """Standard deviation of the noise of that check, > 0; needed with, and only with, a
    threshold."""

    def __post_init__(self) -> None:
        check_budget(epsilon=self.epsilon, delta=self.delta, sigma=self.sigma)
        only_with(
            self.threshold is not None,
            "there is no threshold",
            threshold_sigma=self.threshold_sigma,
        )
        if self.threshold is not None:
            if self.threshold_sigma is None:
                raise SettingError("threshold_sigma must be given with threshold")
            positive(threshold=self.threshold, threshold_sigma=self.threshold_sigma)

    def uncovered(self, conditions: RunConditions) -> str | None:
        """Return the conflict with a strategy whose teacher is no plain mean of soft labels."""
        return super().uncovered(conditions) or conflict_without_soft_mean(conditions, "dsfl")

    def check(self, plan: ReleasePlan) -> None:
        """Raise SettingError where the settings do not fit the run."""
        check_local(plan)
        check_client_delta(self.delta, plan)
        if self.threshold is not None and self.threshold > plan.clients:
            raise SettingError(
                f"threshold={self.threshold:g} asks for the votes of more clients than there are"
                f" ({plan.clients}): no"
                " sample would be answered"
            )
        self.sigma_in(plan)

    def sigma_in(self, plan: ReleasePlan) -> float:
        """Return sigma as given, or as the run's budget needs it.

        The checks of the threshold take their part of the budget.
        """
        if self.sigma is not None:
            return self.sigma
        assert self.epsilon is not None, "checked when it was made"
        rows = plan.rows * plan.rounds
        left = mu_at(self.epsilon, self.delta) ** 2 - self._check_cost(rows)
        if left <= 0:
            raise SettingError(
                f"threshold_sigma={self.threshold_sigma} leaves nothing of epsilon={self.epsilon}:"
                " the checks of"
                f" {rows} rows alone cost more; give more than"
                f" {math.sqrt(rows) / mu_at(self.epsilon, self.delta):.4g}"
            )
        return math.sqrt(2 * rows / left)

    def tell(
        self, values: Float[Tensor, "K N C"], plan: ReleasePlan, stream: np.random.Generator
    ) -> VoteResult:
        """Return the labels that may leave the server, of all clients' uploads [K, N, C].

        A client whose largest values tie votes for the first of them. Rows that are not answered
        are uniform. Without any upload (K = 0) the labels are those of noise alone.
        """
        choices = values.nan_to_num(nan=0.0).argmax(dim=-1)
        votes = F.one_hot(choices, plan.classes).sum(dim=0).cpu().numpy()
        sigma = self.sigma_in(plan)
        most = votes.max(axis=-1)
        answered = np.ones(len(votes), dtype=bool)
        if self.threshold is not None and self.threshold_sigma is not None:
            answered = (
                most + self.threshold_sigma * stream.standard_normal(len(votes)) >= self.threshold
            )
        winners = (votes + sigma * stream.standard_normal(votes.shape)).argmax(axis=-1)
        costs = np.zeros(len(ORDERS))
        for row, told in zip(votes.tolist(), answered.tolist(), strict=True):
            costs = costs + self._cost(row, sigma, told)
        probs = F.one_hot(torch.from_numpy(winners), plan.classes).to(torch.float32)
        probs[torch.from_numpy(~answered)] = 1 / plan.classes
        mu = math.sqrt(2 * len(votes) / sigma**2 + self._check_cost(len(votes)))
        event = NoisyVotes(costs=tuple(costs.tolist()), plain_mu=mu)
        return VoteResult(probs, torch.from_numpy(answered), self.spendings((event,)))

    def events(self, plan: ReleasePlan, rows: int) -> tuple[Event, ...]:
        """Return what so many rows cost at most, with any votes."""
        told = GaussianRows(rows=rows, sensitivity=2**0.5, sigma=self.sigma_in(plan))
        if self.threshold_sigma is None:
            return (told,)
        return (told, GaussianRows(rows=rows, sensitivity=1.0, sigma=self.threshold_sigma))

    def protect_mean(
        self,
        values: Float[Tensor, "k N C"],
        asked: int,
        plan: ReleasePlan,
        stream: np.random.Generator,
    ) -> ProtectedMean:
        """Return the labels told by the vote, and which rows are answered.

        Args:
            values: The usable uploads.
            asked: How many clients were asked.
            plan: The run's releases.
            stream: The server's random stream of this round.
        """
        told = self.tell(values, plan, stream)
        return ProtectedMean(told.probs, told.answered, told.spent)

    def noise_in(self, plan: ReleasePlan) -> tuple[float | None, str]:
        """Return sigma, and in words what it is of."""
        sigma = self.sigma_in(plan)
        return sigma, f"Gaussian of deviation {sigma:.4g} on each count of votes"

    def warnings(self, plan: ReleasePlan) -> tuple[str, ...]:
        """Return what should be said before the run."""
        warning = noise_warning(self.sigma_in(plan), plan.clients, local=False)
        return (warning,) if warning else ()

    def _cost(self, votes: list[int], sigma: float, told: bool) -> np.ndarray:
        if self.threshold is None or self.threshold_sigma is None:
            return gnmax_cost(votes, sigma)
        return confident_gnmax_cost(
            votes, sigma, self.threshold, self.threshold_sigma, answered=told
        )

    def _check_cost(self, rows: int) -> float:
        return 0.0 if self.threshold_sigma is None else rows / self.threshold_sigma**2
