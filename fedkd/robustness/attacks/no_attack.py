"""No attack: every client is honest."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkd.robustness.attacks.scale import Mask, Values
from fedkd.training.losses import Scale


@dataclass(frozen=True, kw_only=True)
class NoAttack:
    """Every client uploads what its model predicts."""

    fraction: ClassVar[float] = 0.0

    def check(self, clients: int, classes: int) -> None:
        """Accept any number of clients and classes."""

    def poison(
        self, values: Values, attackers: Mask, scale: Scale, stream: np.random.Generator
    ) -> Values:
        """Return the uploads unchanged."""
        return values
