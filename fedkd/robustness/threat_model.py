"""Attacked uploads and robust means, around any strategy that can take them.

The simulation poisons after the honest uploads have arrived: what attackers would have sent is
known then, and an attack may look at it. Bytes and codecs are those of the honest messages.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from fedkd.messages import AcceptedUploads, Cohort, Fusion, StrategyState
from fedkd.robustness.aggregators import Mean, Robust
from fedkd.robustness.attacks import Attack, choose_attackers
from fedkd.robustness.attacks.no_attack import NoAttack
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.schema import in_section, parameters
from fedkd.strategy import MeanBased, Strategy


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """Who attacks and how, and how the server aggregates; the defaults do neither."""

    attack: Attack = field(default_factory=NoAttack)
    robust: Robust = field(default_factory=Mean)
    attackers: Bool[Tensor, "K"] = field(
        default_factory=lambda: torch.zeros(0, dtype=torch.bool), repr=False
    )
    """By client id; empty where nobody attacks."""
    seed: int = 0

    @property
    def acts(self) -> bool:
        """Whether it takes part in fusions, and so needs all uploads at once."""
        return not isinstance(self.attack, NoAttack) or self.replaces_mean

    @property
    def replaces_mean(self) -> bool:
        """Whether a robust mean takes the place of the strategy's own."""
        return not isinstance(self.robust, Mean)

    @property
    def attacker_ids(self) -> tuple[int, ...]:
        """The clients that attack."""
        return tuple(self.attackers.nonzero().flatten().tolist())

    def poisoned(self, cohort: AcceptedUploads) -> AcceptedUploads:
        """Return the cohort with the attackers' uploads in place of their honest ones."""
        if not self.attackers.any():
            return cohort
        here = self.attackers[list(cohort.client_ids)]
        if not here.any():
            return cohort
        assert isinstance(cohort, Cohort), "checked before the run"
        stream = numpy_stream(self.seed, "round", cohort.round, "attack")
        values = self.attack.poison(cohort.values, here, cohort.scale, stream)
        if cohort.answered is not None:  # rows that nobody sent stay away
            values = values.where(cohort.answered[:, :, None], cohort.values)
        return replace(cohort, values=values)

    def fuse(self, strategy: Strategy, cohort: AcceptedUploads, state: StrategyState) -> Fusion:
        """Return a strategy's fusion of the uploads, by the robust mean if there is one."""
        if not self.replaces_mean:
            return strategy.fuse(cohort, state)
        assert isinstance(strategy, MeanBased), "checked before the run"
        assert isinstance(cohort, Cohort), "checked before the run"
        mean, weights = self.robust.aggregate(cohort.values, cohort.scale)
        return replace(
            strategy.from_mean(mean, cohort.size), weights=weights.expand(cohort.size, -1).clone()
        )


def threat_model(
    attack: Attack, robust: Robust, *, clients: int, classes: int, seed: int
) -> ThreatModel:
    """Return the threat model of a run. Raises SettingError where its settings do not fit.

    Args:
        attack: What attackers do; its fraction says how many attack.
        robust: How the server aggregates.
        clients: Number of clients K.
        classes: Number of classes C.
        seed: The run's seed, which decides who attacks.
    """
    with in_section("attacks", parameters(type(attack))):
        attack.check(clients, classes)
    with in_section("robust", parameters(type(robust))):
        robust.check(clients)
    attackers = choose_attackers(seed, clients, attack.fraction)
    return ThreatModel(attack=attack, robust=robust, attackers=attackers, seed=seed)
