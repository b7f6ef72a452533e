"""A mechanism with a planted bug, as a user's own: it claims what Gaussian noise would give, and
adds none."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fedkd.privacy.mechanisms import Gaussian
from fedkd.privacy.release_plan import ReleasePlan


@dataclass(frozen=True, kw_only=True)
class Forgetful(Gaussian):
    """Claim an epsilon and forget the noise."""

    def release(self, values: Tensor, plan: ReleasePlan, stream: np.random.Generator) -> Tensor:
        """Return the rows as they are."""
        return values

    def sensitivity(self, plan: ReleasePlan) -> float:
        """Return the range of the rows that are released."""
        return super().sensitivity(plan)
