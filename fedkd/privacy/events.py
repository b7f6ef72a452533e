"""Events: what happened to private data, as values.

An event says what was drawn, never what it costs in epsilon.

An event knows its cost in the forms that add up (``mu`` of Gaussian noise, RDP, pure epsilon, a
privacy loss); what a sum means as epsilon is ``fedkd.privacy.composition``'s to say, for whom it
holds ``fedkd.privacy.ledger``'s.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from fedkd.errors import SettingError
from fedkd.privacy import distributions
from fedkd.privacy.group_sampling import binomial_weights, group_sampled_cost
from fedkd.privacy.renyi import (
    ORDERS,
    Renyi,
    gaussian_cost,
    laplace_cost,
    randomized_response_cost,
    sampled_gaussian_cost,
)
from fedkd.settings.validators import at_least, positive, share


@runtime_checkable
class Event(Protocol):
    """One kind of look at private data, a number of times."""

    neighbors: ClassVar[str]
    """Which two data sets cannot be told apart: ``replace-one`` or ``zero-out``."""

    def split(self) -> tuple["Event", int]:
        """Return the smallest event of this kind and how often this one is it.

        Zero of them cost nothing.
        """

    @property
    def mu(self) -> float | None:
        """Gaussian-DP's mu of the whole event; None where it is no plain Gaussian noise."""

    @property
    def pure(self) -> float:
        """The epsilon at delta 0; infinite for Gaussian noise."""

    def cost(self) -> Renyi:
        """Return the RDP of the whole event, at ``renyi.ORDERS``."""

    def loss(self, times: int) -> Any | None:
        """Return the privacy loss of the event ``times`` times; None where PLD cannot count it."""


@dataclass(frozen=True, kw_only=True)
class GaussianRows:
    """``rows`` rows with Gaussian noise of ``sigma``, each of L2 ``sensitivity``.

    Rows that are sent again unchanged count 0.
    """

    neighbors: ClassVar[str] = "replace-one"
    rows: int
    sensitivity: float
    sigma: float

    def __post_init__(self) -> None:
        at_least(0, rows=self.rows)
        positive(sensitivity=self.sensitivity, sigma=self.sigma)

    def split(self) -> tuple[Event, int]:
        """Return one row, and the number of rows."""
        return replace(self, rows=1), self.rows

    @property
    def mu(self) -> float | None:
        """``sensitivity sqrt(rows) / sigma``."""
        return self.sensitivity * math.sqrt(self.rows) / self.sigma

    @property
    def pure(self) -> float:
        """Infinite; 0 without rows."""
        return math.inf if self.rows else 0.0

    def cost(self) -> Renyi:
        """Return ``order mu^2 / 2``."""
        return self.rows * gaussian_cost(self.sensitivity / self.sigma)

    def loss(self, times: int) -> Any | None:
        """Return the loss of one Gaussian release that is all of these rows."""
        return distributions.pld_gaussian(
            self.sigma / (self.sensitivity * math.sqrt(self.rows * times)),
            1.0,
            1,
            replace_one=False,
        )


@dataclass(frozen=True, kw_only=True)
class LaplaceRows:
    """``rows`` rows with Laplace noise of ``scale``, each of L1 ``sensitivity``."""

    neighbors: ClassVar[str] = "replace-one"
    rows: int
    sensitivity: float
    scale: float

    def __post_init__(self) -> None:
        at_least(0, rows=self.rows)
        positive(sensitivity=self.sensitivity, scale=self.scale)

    def split(self) -> tuple[Event, int]:
        """Return one row, and the number of rows."""
        return replace(self, rows=1), self.rows

    @property
    def mu(self) -> float | None:
        """None: no Gaussian noise."""
        return None

    @property
    def pure(self) -> float:
        """``rows sensitivity / scale``."""
        return self.rows * self.sensitivity / self.scale

    def cost(self) -> Renyi:
        """Return the rows' RDP."""
        return self.rows * laplace_cost(self.sensitivity, self.scale)

    def loss(self, times: int) -> Any | None:
        """Return the loss of any rows with their pure epsilon, which dominates theirs.

        None where it is huge.
        """
        pure = self.sensitivity / self.scale
        return (
            distributions.pld_pure(pure, self.rows * times)
            if pure < distributions.LARGEST_PURE
            else None
        )


@dataclass(frozen=True, kw_only=True)
class RandomizedLabels:
    """``rows`` labels of ``classes`` kinds by randomized response.

    Each has pure epsilon ``label_epsilon``.
    """

    neighbors: ClassVar[str] = "replace-one"
    rows: int
    classes: int
    label_epsilon: float

    def __post_init__(self) -> None:
        at_least(0, rows=self.rows)
        at_least(2, classes=self.classes)
        positive(label_epsilon=self.label_epsilon)

    def split(self) -> tuple[Event, int]:
        """Return one label, and the number of labels."""
        return replace(self, rows=1), self.rows

    @property
    def mu(self) -> float | None:
        """None: no Gaussian noise."""
        return None

    @property
    def pure(self) -> float:
        """``rows label_epsilon``."""
        return self.rows * self.label_epsilon

    def cost(self) -> Renyi:
        """Return the labels' RDP."""
        return self.rows * randomized_response_cost(self.label_epsilon, self.classes)

    def loss(self, times: int) -> Any | None:
        """Return the labels' loss; None where they are as good as told."""
        if self.label_epsilon >= distributions.LARGEST_PURE:
            return None
        return distributions.pld_randomized_response(
            self.label_epsilon, self.classes, self.rows * times
        )


@dataclass(frozen=True, kw_only=True)
class DpSgdSteps:
    """``steps`` of DP-SGD on Poisson samples of ``sample_rate``.

    Each example's gradient is clipped to C; the noise is ``noise_multiplier`` C. Steps with an
    empty sample count like all others.
    """

    neighbors: ClassVar[str] = "zero-out"
    noise_multiplier: float
    sample_rate: float
    steps: int
    group: int = 1
    """Examples that a record has at most, each in a sample by a coin of its own."""

    def __post_init__(self) -> None:
        positive(noise_multiplier=self.noise_multiplier)
        share(sample_rate=self.sample_rate)
        at_least(0, steps=self.steps)
        at_least(1, group=self.group)

    def split(self) -> tuple[Event, int]:
        """Return one step, and the number of steps."""
        return replace(self, steps=1), self.steps

    @property
    def mu(self) -> float | None:
        """That of Gaussian noise where every sample is in every step; else None."""
        if self.sample_rate < 1:
            return None
        return self.group * math.sqrt(self.steps) / self.noise_multiplier

    @property
    def pure(self) -> float:
        """Infinite; 0 without steps."""
        return math.inf if self.steps else 0.0

    def cost(self) -> Renyi:
        """Return the steps' RDP, by Opacus; that of ``group_sampling`` for several examples."""
        if self.group > 1:
            return self.steps * group_sampled_cost(
                self.noise_multiplier, self.sample_rate, self.group
            )
        return self.steps * sampled_gaussian_cost(self.noise_multiplier, self.sample_rate)

    def loss(self, times: int) -> Any | None:
        """Return the steps' loss."""
        if self.group > 1:
            weights = binomial_weights(self.sample_rate, self.group)
            return distributions.pld_mixture(self.noise_multiplier, weights, self.steps * times)
        return distributions.pld_gaussian(
            self.noise_multiplier, self.sample_rate, self.steps * times
        )


@dataclass(frozen=True, kw_only=True)
class NoisyVotes:
    """A round of votes by GNMax: ``costs`` are what its votes made it cost, at ``renyi.ORDERS``.

    ``plain_mu`` is what it costs whatever the votes are, with every row answered.
    """

    neighbors: ClassVar[str] = "replace-one"
    costs: tuple[float, ...]
    plain_mu: float

    def __post_init__(self) -> None:
        at_least(0, plain_mu=self.plain_mu)
        if len(self.costs) != len(ORDERS):
            raise SettingError(
                f"costs must be {len(ORDERS)} numbers, one an order, got {len(self.costs)}"
            )

    def split(self) -> tuple[Event, int]:
        """Return the round: no two have the same votes."""
        return self, 1

    @property
    def mu(self) -> float | None:
        """The cost that does not depend on the votes."""
        return self.plain_mu

    @property
    def pure(self) -> float:
        """Infinite; 0 without rows."""
        return math.inf if self.plain_mu else 0.0

    def cost(self) -> Renyi:
        """Return the data-dependent RDP."""
        return np.array(self.costs)

    def loss(self, times: int) -> Any | None:
        """Return None: PLD does not know data-dependent costs."""
        return None


@dataclass(frozen=True, kw_only=True)
class NoClaim:
    """A release for which nothing is claimed, and why."""

    neighbors: ClassVar[str] = "none"
    reason: str

    def split(self) -> tuple[Event, int]:
        """Return the event: how often it happened does not matter."""
        return self, 1

    @property
    def mu(self) -> float | None:
        """Infinite."""
        return math.inf

    @property
    def pure(self) -> float:
        """Infinite."""
        return math.inf

    def cost(self) -> Renyi:
        """Return infinities."""
        return np.full(len(ORDERS), np.inf)

    def loss(self, times: int) -> Any | None:
        """Return None."""
        return None


KINDS: dict[str, type[Any]] = {
    "gaussian": GaussianRows,
    "laplace": LaplaceRows,
    "randomized_labels": RandomizedLabels,
    "dp_sgd": DpSgdSteps,
    "votes": NoisyVotes,
    "no_claim": NoClaim,
}


def event_values(event: Event) -> dict[str, Any]:
    """Return an event as numbers, text and lists, for a file or a message.

    >>> event_values(NoClaim(reason="raw"))
    {'kind': 'no_claim', 'reason': 'raw'}
    """
    kind = next(name for name, cls in KINDS.items() if type(event) is cls)
    fields: dict[str, Any] = asdict(event)  # type: ignore[call-overload]
    return {
        "kind": kind,
        **{name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()},
    }


def from_dict(content: Mapping[str, Any]) -> Event:
    """Return the event that ``event_values`` wrote; SettingError for what no event has written."""
    fields = dict(content)
    kind = fields.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise SettingError(f"unknown privacy event {kind!r}; known are {', '.join(KINDS)}")
    known = dataclasses.fields(KINDS[kind])
    expected = {field.name: field.type for field in known}
    needed = {field.name for field in known if field.default is dataclasses.MISSING}
    if not needed <= set(fields) <= set(expected):
        raise SettingError(
            f"the privacy event {kind!r} has the fields {', '.join(expected)}, got"
            f" {', '.join(map(repr, fields)) or 'none'}"
        )
    typed = {name: _typed(kind, name, value, expected[name]) for name, value in fields.items()}
    event: Event = KINDS[kind](**typed)
    return event


def _typed(kind: str, name: str, value: Any, expected: Any) -> Any:
    """Return the value of an event's field. Raises SettingError where it is of another type."""
    if expected is str and isinstance(value, str):
        return value
    if expected is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if expected is float and _is_number(value):
        return value
    is_sequence = isinstance(value, list | tuple)
    if expected == tuple[float, ...] and is_sequence and all(map(_is_cost, value)):
        return tuple(value)
    raise SettingError(f"the privacy event {kind!r} has no such {name}: {value!r}")


def _is_cost(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
