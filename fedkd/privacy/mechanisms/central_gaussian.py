"""Gaussian noise on the mean of all clients' predictions, added by a server that all trust."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.privacy.mechanisms.row_noise import RowNoise
from fedkd.privacy.mechanisms.trusted_server import ProtectedMean, TrustedServer
from fedkd.privacy.release_plan import ReleasePlan, noise_warning
from fedkd.privacy.sensitivity import Rows, bound_rows, finish


@dataclass(frozen=True, kw_only=True)
class CentralGaussian(RowNoise, TrustedServer):
    """Clip each client's rows at the server, average them, and add Gaussian noise.

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

    sigma: float | None = None
    """Standard deviation of the noise on the sum over clients, > 0: a teacher of K that were asked
    has sigma / K; null with an epsilon."""

    def check(self, plan: ReleasePlan) -> None:
        """Raise SettingError where the settings do not fit the run."""
        super().check(plan)
        if not plan.unweighted_mean:
            raise SettingError(
                "central_gaussian needs a strategy whose teacher is the plain mean of the uploads:"
                " weights that depend"
                " on them, or a teacher for each client, have no sensitivity that could be derived"
            )

    def bound(self, values: Rows, plan: ReleasePlan) -> Rows:
        """Return one client's upload as it enters the mean, bounded."""
        return bound_rows(values, plan.scale, self.clip_norm, self.norm).to(values.dtype)

    def noisy_mean(
        self,
        values: Float[Tensor, "k N C"],
        asked: int,
        plan: ReleasePlan,
        stream: np.random.Generator,
    ) -> Rows:
        """Return the mean of the bounded uploads [k, N, C] with noise.

        ``asked`` is K, >= 1 and >= k: how many clients the mean is of. Those whose uploads are
        missing count as rows of zeros; ``finish`` makes the soft labels of them that uniform rows
        in their place would have given.

        Args:
            values: The usable uploads.
            asked: K, >= 1 and >= k: how many clients were asked.
            plan: The run's releases.
            stream: The server's random stream of this round.
        """
        total = torch.zeros(values.shape[1:], dtype=torch.float64, device=values.device)
        for upload in values:
            total += bound_rows(upload, plan.scale, self.clip_norm, self.norm)
        noise = torch.from_numpy(stream.standard_normal(total.shape)).to(total.device)
        noisy = (total + self.sigma_in(plan) * noise) / asked
        return finish(noisy, plan.scale, noisy).to(values.dtype)

    def protect_mean(
        self,
        values: Float[Tensor, "k N C"],
        asked: int,
        plan: ReleasePlan,
        stream: np.random.Generator,
    ) -> ProtectedMean:
        """Return the noisy mean, of which every row is released.

        Args:
            values: The usable uploads.
            asked: How many clients were asked.
            plan: The run's releases.
            stream: The server's random stream of this round.
        """
        mean = self.noisy_mean(values, asked, plan, stream)
        every = torch.ones(len(mean), dtype=torch.bool)
        return ProtectedMean(mean, every, self.spendings(self.events(plan, len(mean))))

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
        noise = self.sigma_in(plan) * 2**0.5 / self.sensitivity(plan)
        warning = noise_warning(noise, plan.clients, local=False)
        return (warning,) if warning else ()
