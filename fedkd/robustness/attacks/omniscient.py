"""Attacks of clients that act as one and know what the honest clients upload this round.

The worst case for a defense: no real attacker sees the others' uploads before its own. Where every
client attacks there is nobody honest, and what all would have uploaded stands for it.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.robustness.aggregators import count_of
from fedkd.robustness.attacks.attack import AttackByShare
from fedkd.robustness.attacks.scale import LARGEST, Mask, Values, onto_simplex, replace
from fedkd.settings.validators import at_least, at_most, positive
from fedkd.training.losses import Scale

FARTHEST = 3.0
"""The largest z that is derived: where attackers have the majority any z would pass, and none need
be found."""


def collude(
    values: Values, attackers: Mask, scale: Scale, margin: float, target: int | None
) -> Values:
    """Return uploads where all attackers send the same certain prediction.

    For each sample it is of a class of their choice.

    The class is ``target``, or where that is None the one that the honest clients' mean finds least
    likely (the lowest of several). Its logit is ``margin`` above all others', which are equal; each
    row of logits sums to 0. Soft labels are the softmax of these: a margin of 10 is a probability
    of 0.9996 among ten classes.

    Args:
        values: The honest uploads [K, N, C].
        attackers: Which clients [K] attack.
        scale: Whether uploads are logits or soft labels.
        margin: Logits between the target and the other classes, > 0.
        target: The class; None is the least likely of the honest mean.

    >>> honest = torch.tensor([[[0.0, 2.0]], [[1.0, 3.0]]])
    >>> collude(honest, torch.tensor([False, True]), "logits", 10.0, None).tolist()
    [[[0.0, 2.0]], [[5.0, -5.0]]]
    """
    classes = values.shape[-1]
    wanted = _honest(values, attackers).mean(dim=0).argmin(dim=-1)
    if target is not None:
        wanted = torch.full_like(wanted, target)
    logits = margin * torch.nn.functional.one_hot(wanted, classes).to(values.dtype)
    return replace(values, attackers, logits - margin / classes, scale)


def lie(values: Values, attackers: Mask, scale: Scale, z: float) -> Values:
    """Return uploads where all attackers send ``mean - z * std`` of the honest clients.

    Mean and std are by sample and class.

    A little is enough (Baruch et al. 2019, arXiv 1902.06156): within a few standard deviations of
    the mean nothing looks like an outlier, and yet the aggregate moves the same way in every round.
    On soft labels the result is projected back onto the distributions, so that only the differences
    in std between classes count. Departures from the paper: predictions in place of gradients, and
    the honest clients' own mean and std (of the population, so that one honest client has 0), where
    the paper's attackers estimate them from what they would have sent themselves. ``z=0`` sends the
    honest mean.

    Args:
        values: The honest uploads [K, N, C].
        attackers: Which clients [K] attack.
        scale: Whether uploads are logits or soft labels.
        z: Standard deviations from the honest mean.

    >>> honest = torch.tensor([[[0.0, 4.0]], [[2.0, 4.0]], [[9.0, 9.0]]])
    >>> lie(honest, torch.tensor([False, False, True]), "logits", 2.0)[2].tolist()
    [[-1.0, 4.0]]
    """
    honest = _honest(values, attackers)
    forged = honest.mean(dim=0) - z * honest.std(dim=0, correction=0)
    if scale == "logits":
        return replace(values, attackers, forged, scale)
    return torch.where(attackers[:, None, None], onto_simplex(forged), values)


def largest_z(clients: int, attackers: int) -> float:
    """Return the largest z at which enough honest clients are farther out (Baruch et al. 2019).

    With ``s = floor(K / 2 + 1) - attackers`` honest clients needed beside the attackers for a
    majority, z is where the normal distribution function is ``(K - attackers - s) / (K -
    attackers)``. Few attackers have no z > 0 (the result is <= 0), and where they need nobody's
    help it is limited to 3.

    >>> round(largest_z(50, 24), 2), largest_z(10, 2), largest_z(10, 6)
    (1.43, 0.0, 3.0)
    """
    honest = clients - attackers
    supporters = math.floor(clients / 2 + 1) - attackers
    if supporters <= 0 or honest == 0:
        return FARTHEST
    below = (honest - supporters) / honest
    return min(NormalDist().inv_cdf(below), FARTHEST) if below > 0 else -FARTHEST


def _honest(values: Values, attackers: Mask) -> Float[Tensor, "H N C"]:
    return values if bool(attackers.all()) else values[~attackers]


@dataclass(frozen=True, kw_only=True)
class OmniscientAttack(AttackByShare):
    """What the attacks of this module share: attackers see every honest upload of the round."""

    sees_all_uploads: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Colluding(OmniscientAttack):
    """All attackers upload the same wrong prediction with certainty.

    It is of a class that no honest client believes in.

    Threat model: omniscient. The attackers act as one and know the honest uploads of the round;
    they want the others to take the target for the truth.
    """

    margin: float = 10.0
    """Logits between the target and the other classes, > 0 and at most 1e6."""
    target: int | None = None
    """Class that attackers vote for on all samples; null is, for each, the least likely of the
    honest mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(margin=self.margin)
        at_most(LARGEST, margin=self.margin)
        if self.target is not None:
            at_least(0, target=self.target)

    def check(self, clients: int, classes: int) -> None:
        """Raise SettingError where the target does not exist."""
        if self.target is not None and self.target >= classes:
            raise SettingError(
                f"target={self.target} is a class that does not exist: there are {classes}, from 0"
            )

    def poison(
        self, values: Values, attackers: Mask, scale: Scale, stream: np.random.Generator
    ) -> Values:
        """Return the uploads with the attackers' agreed on."""
        return collude(values, attackers, scale, self.margin, self.target)


@dataclass(frozen=True, kw_only=True)
class Lie(OmniscientAttack):
    """All attackers upload the honest mean less z standard deviations.

    Baruch et al. 2019, arXiv 1902.06156.

    Threat model: omniscient. The attackers act as one and know the honest uploads of the round;
    they want to pull the aggregate while they stay closer to it than some honest clients, under any
    defense that looks for outliers.
    """

    z: float | None = None
    """Standard deviations from the honest mean, > 0 and at most 1e6; null is the paper's largest
    for so many clients and attackers, which few attackers do not have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.z is not None:
            positive(z=self.z)
            at_most(LARGEST, z=self.z)

    def check(self, clients: int, classes: int) -> None:
        """Raise SettingError where no z follows from the number of attackers."""
        count = count_of(self.fraction, clients)
        if self.z is None and largest_z(clients, count) <= 0:
            raise SettingError(
                f"z must be given with {count} attackers among {clients} clients: they are too few"
                " for the paper's z"
            )

    def poison(
        self, values: Values, attackers: Mask, scale: Scale, stream: np.random.Generator
    ) -> Values:
        """Return the uploads with the attackers' near the mean; with few attackers, at the mean."""
        z = (
            self.z
            if self.z is not None
            else max(largest_z(len(attackers), int(attackers.sum())), 0.0)
        )
        return lie(values, attackers, scale, z)
