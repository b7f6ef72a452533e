"""Attacks of clients that know nothing but their own predictions: each attacker acts alone.

Every function takes the uploads as all clients would honestly make them, and changes the attackers'
rows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.robustness.attacks.attack import AttackByShare
from fedkd.robustness.attacks.scale import LARGEST, Mask, Values, as_logits, contrast, replace
from fedkd.settings.conditions import RunConditions
from fedkd.settings.validators import at_least, at_most, only_with, positive
from fedkd.training.losses import Scale


def sign_flip(values: Values, attackers: Mask, scale: Scale, strength: float) -> Values:
    """Return uploads where attackers send ``-strength * f``.

    What they find likely becomes unlikely.

    Soft labels become ``softmax(-strength * ln p)``, which is the same attack: flipping logits and
    softening them at temperature 1 commute.

    Args:
        values: The honest uploads [K, N, C].
        attackers: Which clients [K] attack.
        scale: Whether uploads are logits or soft labels.
        strength: Factor of the flipped logits, > 0.

    >>> honest = torch.tensor([[[1.0, -1.0]], [[1.0, -1.0]]])
    >>> sign_flip(honest, torch.tensor([False, True]), "logits", 2.0).tolist()
    [[[1.0, -1.0]], [[-2.0, 2.0]]]
    """
    return replace(values, attackers, -strength * as_logits(values, scale), scale)


def random_predictions(
    values: Values, attackers: Mask, scale: Scale, strength: float, stream: np.random.Generator
) -> Values:
    """Return uploads where attackers send normal logits, or their softmax.

    They say nothing of the sample. Their standard deviation is ``strength`` times the attacker's
    own ``contrast``: at 1 it is about as sure of itself as if it were honest. Where strength is
    large, soft labels are random certain labels.

    Args:
        values: The honest uploads [K, N, C].
        attackers: Which clients [K] attack.
        scale: Whether uploads are logits or soft labels.
        strength: Standard deviation in units of the attacker's own contrast, > 0.
        stream: The source of random numbers.
    """
    logits = as_logits(values, scale)
    return replace(values, attackers, strength * contrast(logits) * _normal(values, stream), scale)


def add_noise(
    values: Values, attackers: Mask, scale: Scale, strength: float, stream: np.random.Generator
) -> Values:
    """Return uploads where attackers add normal noise to their logits.

    Its standard deviation is ``strength`` times their ``contrast``. On soft labels the noise is
    added to the logarithms, and the result softened. Strength towards 0 is honest.

    Args:
        values: The honest uploads [K, N, C].
        attackers: Which clients [K] attack.
        scale: Whether uploads are logits or soft labels.
        strength: Standard deviation in units of the attacker's own contrast, > 0.
        stream: The source of random numbers.
    """
    logits = as_logits(values, scale)
    return replace(
        values, attackers, logits + strength * contrast(logits) * _normal(values, stream), scale
    )


def swap_labels(values: Values, attackers: Mask, classes: Tensor) -> Values:
    """Return uploads where attackers give class c the prediction of class ``classes[c]``.

    >>> honest = torch.tensor([[[0.5, 0.25, 0.25]]])
    >>> swap_labels(honest, torch.tensor([True]), torch.tensor([2, 0, 1])).tolist()
    [[[0.25, 0.5, 0.25]]]
    """
    return torch.where(attackers[:, None, None], values[..., classes], values)


def _normal(values: Values, stream: np.random.Generator) -> Values:
    return torch.from_numpy(stream.standard_normal(tuple(values.shape))).to(values.dtype)


@dataclass(frozen=True, kw_only=True)
class AttackWithStrength(AttackByShare):
    """The settings of an attack that scales something."""

    strength: float = 1.0
    """Factor of what attackers send, > 0 and at most 1e6."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(strength=self.strength)
        at_most(LARGEST, strength=self.strength)


@dataclass(frozen=True, kw_only=True)
class SignFlip(AttackWithStrength):
    """Attackers upload their logits with the sign flipped: what they find likely becomes unlikely.

    Threat model: each knows its own predictions alone; it wants everyone to become worse on all
    classes.
    """

    strength: float = 1.0
    """Factor of the flipped logits, > 0 and at most 1e6: 1 keeps their magnitude, more outweighs
    honest clients."""

    def poison(
        self, values: Values, attackers: Mask, scale: Scale, stream: np.random.Generator
    ) -> Values:
        """Return the uploads with the attackers' flipped."""
        return sign_flip(values, attackers, scale, self.strength)


@dataclass(frozen=True, kw_only=True)
class RandomPredictions(AttackWithStrength):
    """Attackers upload random predictions, new ones each round, that say nothing of the sample.

    Threat model: a broken or careless client; it knows nothing but how large its own logits are.
    """

    strength: float = 1.0
    """Size of the random logits in units of the client's own, > 0 and at most 1e6."""

    def poison(
        self, values: Values, attackers: Mask, scale: Scale, stream: np.random.Generator
    ) -> Values:
        """Return the uploads with the attackers' drawn at random."""
        return random_predictions(values, attackers, scale, self.strength, stream)


@dataclass(frozen=True, kw_only=True)
class NoisyPredictions(AttackWithStrength):
    """Attackers add normal noise to their logits, new noise each round.

    Threat model: a noisy client, or one that hides its predictions at the others' cost; it knows
    its own alone.
    """

    strength: float = 3.0
    """Standard deviation of the noise in units of the client's own logits, > 0 and at most 1e6."""

    def poison(
        self, values: Values, attackers: Mask, scale: Scale, stream: np.random.Generator
    ) -> Values:
        """Return the uploads with noise in the attackers'."""
        return add_noise(values, attackers, scale, self.strength, stream)


@dataclass(frozen=True, kw_only=True)
class LabelSwap(AttackByShare):
    """Attackers upload good predictions under the wrong classes.

    All classes are moved on by ``shift``, or two are exchanged.

    Threat model: each knows its own predictions alone; where all attackers swap alike they vote
    together. It is what clients with flipped training labels would upload.
    """

    shift: int | None = None
    """Classes by which each prediction is moved on, cyclically; no multiple of the number of
    classes. null is 1; an error with pair."""
    pair: tuple[int, int] | None = None
    """Two classes to exchange, as in [3,8], in place of a shift of all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        only_with(self.pair is None, "pair exchanges two classes alone", shift=self.shift)
        if self.pair is not None:
            at_least(0, pair=min(self.pair))
            if self.pair[0] == self.pair[1]:
                raise SettingError(
                    f"pair={list(self.pair)} would do nothing: name two different classes"
                )

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with data without classes."""
        if conditions.has_classes:
            return super().conflict(conditions)
        return (
            f"attacks does not go with data={conditions.name_of('data')}: it swaps classes, and"
            " tokens are none; leave it out"
        )

    def check(self, clients: int, classes: int) -> None:
        """Raise SettingError where there is no such class, or the shift ends where it began."""
        if self.pair is not None and max(self.pair) >= classes:
            raise SettingError(
                f"pair={list(self.pair)} names a class that does not exist: there are {classes},"
                " from 0"
            )
        if self.pair is None and self._shift % classes == 0:
            raise SettingError(f"shift={self._shift} would do nothing: there are {classes} classes")

    def poison(
        self, values: Values, attackers: Mask, scale: Scale, stream: np.random.Generator
    ) -> Values:
        """Return the uploads with the attackers' classes swapped."""
        classes = torch.arange(values.shape[-1])
        if self.pair is None:
            return swap_labels(values, attackers, classes.roll(self._shift))
        a, b = self.pair
        classes[[a, b]] = classes[[b, a]]
        return swap_labels(values, attackers, classes)

    @property
    def _shift(self) -> int:
        return 1 if self.shift is None else self.shift
