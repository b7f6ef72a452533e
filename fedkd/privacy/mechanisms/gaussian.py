"""Gaussian noise on every row that a client uploads: the server need not be trusted."""

from dataclasses import dataclass

import numpy as np
import torch

from fedkd.privacy.mechanisms.client_noise import ClientNoise
from fedkd.privacy.mechanisms.row_noise import RowNoise
from fedkd.privacy.release_plan import ReleasePlan, noise_warning
from fedkd.privacy.sensitivity import Rows, bound_rows, finish


@dataclass(frozen=True, kw_only=True)
class Gaussian(RowNoise, ClientNoise):
    """Add Gaussian noise to each client's predictions before they leave it.

    Guarantee: all that a client's private data does to its uploads is hidden from the server, other
    clients and outsiders; neighbors are any two private sets of one client, so that epsilon holds
    for the client and for each of its records. L2 sensitivity of a row is the diameter of its
    range: ``2 clip_norm`` for logits, sqrt(2) for soft labels. Composition over rows and rounds is
    exact. Soft labels are brought back onto the simplex after the noise, which costs nothing; where
    noise is large the mean over clients is then biased towards uniform.
    """

    memoize: bool = False
    """Answer a public sample once: a repeated one gets the same noisy row, and costs nothing."""

    def release(self, values: Rows, plan: ReleasePlan, stream: np.random.Generator) -> Rows:
        """Return the rows that may leave the client: bounded, then with fresh noise."""
        bounded = bound_rows(values, plan.scale, self.clip_norm, self.norm)
        noise = torch.from_numpy(stream.standard_normal(bounded.shape)).to(bounded.device)
        return finish(bounded + self.sigma_in(plan) * noise, plan.scale, values)

    def noise_in(self, plan: ReleasePlan) -> tuple[float | None, str]:
        """Return sigma, and in words what it is of."""
        sigma = self.sigma_in(plan)
        return sigma, f"Gaussian of deviation {sigma:.4g} on each number that a client uploads"

    def warnings(self, plan: ReleasePlan) -> tuple[str, ...]:
        """Return what should be said before the run."""
        noise = self.sigma_in(plan) * 2**0.5 / self.sensitivity(plan)
        warning = noise_warning(noise, plan.clients, local=True)
        return (warning,) if warning else ()
