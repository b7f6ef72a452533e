"""LNMax: a trusted server tells the class with most votes after Laplace noise (PATE, FedKT)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fedkd.fusion import hard_labels
from fedkd.privacy.events import Event, LaplaceRows
from fedkd.privacy.mechanisms.laplace import largest_ratio
from fedkd.privacy.mechanisms.mechanism import DERIVED
from fedkd.privacy.mechanisms.row_noise import Budgeted
from fedkd.privacy.mechanisms.trusted_server import (
    ProtectedMean,
    TrustedServer,
    conflict_without_soft_mean,
)
from fedkd.privacy.release_plan import (
    ReleasePlan,
    check_budget,
    check_client_delta,
    check_local,
    noise_warning,
)
from fedkd.privacy.sensitivity import bound_rows
from fedkd.settings.conditions import RunConditions

SENSITIVITY = 2.0
"""How far one client's data can move the votes of a sample, in L1: from one class to another."""


@dataclass(frozen=True, kw_only=True)
class LnMax(Budgeted, TrustedServer):
    """Add the clients' votes of each sample, add Laplace noise, tell the winner.

    Papernot et al. 2017, arXiv 1610.05755, and FedKT's noise at the server (Li et al. 2021). A
    client's vote is its soft label, so that it may divide its vote; a uniform row abstains; of
    logits it is the first choice. Guarantee: what one client's whole data does to the labels told
    is hidden from other clients and outsiders, not from the server. Neighbors: one client's data
    replaced, which moves the votes of a sample by at most 2 in L1, whatever the other votes are.
    Samples compose by RDP, or by the sum of their epsilons where that is less. Departure: FedKT's
    own epsilon depends on the votes (its moments accountant) and so is private itself; this one
    does not, and is larger where clients agree.
    """

    refuses: ClassVar[Mapping[str, str]] = {**DERIVED, "clip_norm": "a vote needs no clipping"}

    sigma: float | None = None
    """Standard deviation of the noise on each count of votes, > 0: sqrt(2) times its scale, which
    FedKT writes as 1 / gamma; null where epsilon is given."""

    def __post_init__(self) -> None:
        check_budget(epsilon=self.epsilon, delta=self.delta, sigma=self.sigma)

    def uncovered(self, conditions: RunConditions) -> str | None:
        """Return the conflict with a strategy whose teacher is no plain mean of soft labels."""
        return super().uncovered(conditions) or conflict_without_soft_mean(conditions, "fedkt")

    def check(self, plan: ReleasePlan) -> None:
        """Raise SettingError where the settings do not fit the run."""
        check_local(plan)
        check_client_delta(self.delta, plan)

    def scale_in(self, plan: ReleasePlan) -> float:
        """Return the noise's scale, ``sigma / sqrt(2)``, as given or as the budget needs it."""
        if self.sigma is not None:
            return self.sigma / 2**0.5
        assert self.epsilon is not None, "checked when it was made"
        return SENSITIVITY / largest_ratio(self.epsilon, self.delta, plan.rows * plan.rounds)

    def protect_mean(
        self,
        values: Float[Tensor, "k N C"],
        asked: int,
        plan: ReleasePlan,
        stream: np.random.Generator,
    ) -> ProtectedMean:
        """Return the labels that may leave the server, for all samples, and what they cost.

        Args:
            values: The usable uploads.
            asked: How many clients were asked; those without an upload cast no vote.
            plan: The run's releases.
            stream: The server's random stream of this round.
        """
        votes = torch.zeros(values.shape[1:], dtype=torch.float64)
        for upload in values.cpu():
            soft = plan.scale == "probs"
            votes += bound_rows(upload, "probs", None, 1) if soft else hard_labels(upload)
        noise = torch.from_numpy(stream.laplace(size=tuple(votes.shape)))
        winners = (votes + self.scale_in(plan) * noise).argmax(dim=-1)
        told = F.one_hot(winners, plan.classes).to(torch.float32)
        every = torch.ones(len(told), dtype=torch.bool)
        return ProtectedMean(told, every, self.spendings(self.events(plan, len(told))))

    def events(self, plan: ReleasePlan, rows: int) -> tuple[Event, ...]:
        """Return so many rows of votes with Laplace noise."""
        return (LaplaceRows(rows=rows, sensitivity=SENSITIVITY, scale=self.scale_in(plan)),)

    def noise_in(self, plan: ReleasePlan) -> tuple[float | None, str]:
        """Return sigma, and in words what it is of."""
        sigma = 2**0.5 * self.scale_in(plan)
        return sigma, f"Laplace of deviation {sigma:.4g} on each count of votes"

    def warnings(self, plan: ReleasePlan) -> tuple[str, ...]:
        """Return what should be said before the run."""
        warning = noise_warning(2**0.5 * self.scale_in(plan), plan.clients, local=False)
        return (warning,) if warning else ()
