"""The seam of attacks: what some clients do in place of uploading their predictions."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from fedkd.robustness.attacks.scale import Mask, Values
from fedkd.settings.conditions import Compatible, RunConditions
from fedkd.settings.validators import share
from fedkd.training.losses import Scale


@runtime_checkable
class Attack(Compatible, Protocol):
    """A way to replace attackers' uploads: a frozen value. Derive from it."""

    @property
    @abstractmethod
    def fraction(self) -> float:
        """Share of clients that attack."""

    @property
    def sees_all_uploads(self) -> bool:
        """Whether what attackers send depends on other clients' honest uploads."""
        return False

    def check(self, clients: int, classes: int) -> None:
        """Raise SettingError where the settings make no attack on so many clients and classes."""
        return

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with a strategy that uploads no predictions."""
        if conditions.predicts:
            return None
        return (
            f"attacks={conditions.name_of('attacks')} poisons predictions on public samples, and"
            f" strategy={conditions.strategy} uploads none; use attacks=none, or a strategy that"
            " exchanges predictions"
        )

    @abstractmethod
    def poison(
        self, values: Values, attackers: Mask, scale: Scale, stream: np.random.Generator
    ) -> Values:
        """Return the uploads with the attackers' rows replaced.

        Args:
            values: The honest uploads [K, N, C] of all clients.
            attackers: Which clients [K] attack.
            scale: Whether uploads are logits or soft labels.
            stream: The round's random stream for attacks.
        """


@dataclass(frozen=True, kw_only=True)
class AttackByShare(Attack):
    """The setting that all attacks of this package share: how many clients attack."""

    fraction: float = 0.2
    """Share of clients that attack, above 0 and at most 1, rounded up; the same ones in every
    round."""

    def __post_init__(self) -> None:
        share(fraction=self.fraction)
