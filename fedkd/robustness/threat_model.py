"""Attacked uploads and robust means, around any strategy that can take them.

The simulation poisons after the honest uploads have arrived: what attackers would have sent is
known then, and an attack may look at it. Bytes and codecs are those of the honest messages.
"""

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.knowledge import KnowledgeType, PublicPredictions
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
    strategy: Strategy,
    kind: KnowledgeType | None,
    name: str,
    attack: Attack,
    robust: Robust,
    *,
    clients: int,
    classes: int,
    seed: int,
    attacks: str,
    means: str,
) -> ThreatModel | None:
    """Return the adversity of a run; None where there is neither an attack nor a robust mean.

    ``name``, ``attacks`` and ``means`` are what the scenario calls strategy, attack and robust
    mean, for errors. Raises SettingError where a strategy cannot take them, or their settings do
    not fit so many clients.
    """
    if attacks == "none" and means == "none":
        return None
    if attacks != "none":
        if not isinstance(kind, PublicPredictions):
            raise SettingError(
                f"attacks={attacks} poisons predictions on public samples, and strategy={name}"
                " uploads none; use"
                " attacks=none, or a strategy that exchanges predictions"
            )
        attack.check(clients, classes)
    if means != "none":
        if not isinstance(strategy, MeanBased) or not isinstance(kind, PublicPredictions):
            raise SettingError(
                f"robust={means} takes the place of a plain mean over clients, and strategy={name}"
                " does not teach one;"
                " use robust=none, or a strategy whose teacher is made of the mean, such as fedmd"
                " or dsfl"
            )
        robust.check(clients)
    return ThreatModel(
        attack=attack if attacks != "none" else None,
        robust=robust if means != "none" else None,
        attackers=choose_attackers(seed, clients, attack.fraction),
        seed=seed,
    )
