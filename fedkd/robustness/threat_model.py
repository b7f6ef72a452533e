"""Attacked uploads and robust means, around any strategy that can take them.

The simulation poisons after the honest uploads have arrived: what attackers would have sent is
known then, and an attack may look at it. Bytes and codecs are those of the honest messages.
"""

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from fedkd.messages import Cohort, Fusion
from fedkd.robustness.aggregators import Robust
from fedkd.robustness.attacks import Attack, choose_attackers
from fedkd.runtime.seeding import numpy_stream
from fedkd.strategy import MeanBased, Strategy


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """Who attacks and how, and what the server does about it; both are None where there is no such
    thing.
    """

    attack: Attack | None
    robust: Robust | None
    attackers: Bool[Tensor, "K"]
    """By client id."""
    seed: int

    def poisoned(self, cohort: Cohort) -> Cohort:
        """Return the cohort with the attackers' uploads in place of what they would honestly have
        sent.
        """
        here = self.attackers[list(cohort.client_ids)]
        if self.attack is not None and here.any():
            stream = numpy_stream(self.seed, "round", cohort.round, "attack")
            values = self.attack.poison(cohort.values, here, cohort.scale, stream)
            if cohort.answered is not None:  # rows that nobody sent stay away
                values = values.where(cohort.answered[:, :, None], cohort.values)
            cohort = replace(cohort, values=values)
        return cohort

    def fuse(self, strategy: Strategy, cohort: Cohort, state: Any) -> Fusion:
        """Return a strategy's fusion of what was uploaded, by the robust mean where there is
        one.
        """
        if self.robust is None:
            return strategy.fuse(cohort, state)
        assert isinstance(strategy, MeanBased), "checked before the run"
        mean, weights = self.robust.aggregate(cohort.values, cohort.scale)
        return replace(
            strategy.from_mean(mean, cohort.size), weights=weights.expand(cohort.size, -1).clone()
        )


def threat_model(
    attack: Attack,
    robust: Robust,
    *,
    clients: int,
    classes: int,
    seed: int,
    attacks: str,
    means: str,
) -> ThreatModel | None:
    """Return the threat model of a run; None where there is neither an attack nor a robust mean.

    Args:
        attack: The attack.
        robust: The robust mean.
        clients: Number of clients K.
        classes: Number of classes C.
        seed: The run's seed, which decides who attacks.
        attacks: The attack's name; ``none`` is no attack.
        means: The robust mean's name; ``none`` leaves the strategy's own fusion.

    Raises:
        SettingError: The settings do not fit so many clients or classes.
    """
    if attacks == "none" and means == "none":
        return None
    if attacks != "none":
        attack.check(clients, classes)
    if means != "none":
        robust.check(clients)
    return ThreatModel(
        attack=attack if attacks != "none" else None,
        robust=robust if means != "none" else None,
        attackers=choose_attackers(seed, clients, attack.fraction),
        seed=seed,
    )
