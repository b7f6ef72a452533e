"""No attack: every client is honest."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkd.robustness.attacks.attack import Attack
from fedkd.robustness.attacks.scale import Mask, Values
from fedkd.settings.conditions import RunConditions
from fedkd.training.losses import Scale


@dataclass(frozen=True, kw_only=True)
class NoAttack(Attack):
    """Every client uploads what its model predicts."""

    fraction: ClassVar[float] = 0.0

    def conflict(self, conditions: RunConditions) -> None:
        """Accept any run."""

    def poison(
        self, values: Values, attackers: Mask, scale: Scale, stream: np.random.Generator
    ) -> Values:
        """Return the uploads unchanged."""
        return values
