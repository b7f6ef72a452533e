"""Robust aggregation by name: a settings class for each mean over clients.

``aggregate(values, scale)`` returns the aggregate [N, C], on the scale that came in, and each
client's weight in it [K]; ``check(clients)`` refuses, before a run, settings that cannot work with
so many clients. The mathematics is in ``fedkd.fusion``. In a round with fewer clients than were
checked, a rule tolerates as many attackers as it can. Not for: strategies with personal teachers,
whose weights differ from client to client.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.fusion import (
    filtered_mean,
    geometric_median,
    krum,
    mean_over_clients,
    median_over_clients,
    renormalize,
    trimmed_mean_over_clients,
)
from fedkd.settings.conditions import Compatible, RunConditions
from fedkd.settings.validators import at_least, at_most, check_choices, positive
from fedkd.training.losses import Scale

Values = Float[Tensor, "K N C"]
Aggregated = tuple[Float[Tensor, "N C"], Float[Tensor, "K"]]


@runtime_checkable
class Robust(Compatible, Protocol):
    """A mean over clients: a frozen value. Derive from it."""

    def check(self, clients: int) -> None:
        """Raise SettingError where the settings cannot work with so many clients."""
        return

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with a strategy whose teacher is not made of a mean."""
        if conditions.mean_based and conditions.predicts:
            return None
        return (
            f"robust={conditions.name_of('robust')} takes the place of a plain mean over clients,"
            f" and strategy={conditions.strategy} does not teach one; use robust=none, or a"
            " strategy whose teacher is made of the mean, such as fedmd or dsfl"
        )

    @abstractmethod
    def aggregate(self, values: Values, scale: Scale) -> Aggregated:
        """Return the aggregate [N, C] on ``scale``, and each client's weight in it [K].

        Weights are >= 0 with sum 1.
        """


@dataclass(frozen=True, kw_only=True)
class Mean(Robust):
    """The plain mean: one attacker moves it as far as it likes."""

    def conflict(self, conditions: RunConditions) -> None:
        """Accept any run: the strategy's own fusion is left as it is."""

    def aggregate(self, values: Values, scale: Scale) -> Aggregated:
        """Return the mean; every client weighs 1/K."""
        return mean_over_clients(values), values.new_full((len(values),), 1 / len(values))


@dataclass(frozen=True, kw_only=True)
class Median(Robust):
    """The median over clients of each class; it holds against any minority.

    Yin et al. 2018, arXiv 1803.01498.

    On soft labels each row of medians is divided by its sum; a row of zeros, where no class has a
    majority, is the plain mean.
    """

    def check(self, clients: int) -> None:
        """Raise SettingError where the median is the mean."""
        _refuse_pairs("median", clients)

    def aggregate(self, values: Values, scale: Scale) -> Aggregated:
        """Return the median."""
        aggregate, weights = median_over_clients(values)
        return _on_scale(aggregate, values, scale), weights


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(Robust):
    """The mean of each class without its smallest and largest values.

    Yin et al. 2018, arXiv 1803.01498.

    On soft labels each row is divided by its sum, as with the median.
    """

    trim: float = 0.2
    """Share of clients cut on each side, above 0 and below 0.5, rounded up: as many attackers are
    tolerated."""

    def __post_init__(self) -> None:
        _minority(trim=self.trim)

    def check(self, clients: int) -> None:
        """Raise SettingError where nobody would be left."""
        count = count_of(self.trim, clients)
        if 2 * count >= clients:
            raise SettingError(
                f"trim={self.trim} cuts {count} of {clients} clients on each side, which leaves"
                " none; cut fewer"
            )

    def aggregate(self, values: Values, scale: Scale) -> Aggregated:
        """Return the trimmed mean."""
        clients = len(values)
        aggregate, weights = trimmed_mean_over_clients(
            values, min(count_of(self.trim, clients), (clients - 1) // 2)
        )
        return _on_scale(aggregate, values, scale), weights


@dataclass(frozen=True, kw_only=True)
class GeometricMedian(Robust):
    """The prediction nearest to all clients' by summed distance.

    Pillutla et al. 2019, arXiv 1912.13445.

    Holds against any minority. A weighted mean, so that soft labels stay soft labels.
    """

    per: Literal["sample", "upload"] = "sample"
    """Distances between the predictions on one public sample (sample), or between whole uploads
    (upload), where a client weighs the same on all samples."""
    iterations: int = 100
    """Most steps of Weiszfeld's iteration, 1 to 10000; it stops where nothing moves any more."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(1, iterations=self.iterations)
        at_most(10_000, iterations=self.iterations)

    def check(self, clients: int) -> None:
        """Raise SettingError where the geometric median is the mean."""
        _refuse_pairs("geometric_median", clients)

    def aggregate(self, values: Values, scale: Scale) -> Aggregated:
        """Return the geometric median."""
        clients, samples, classes = values.shape
        whole = values if self.per == "sample" else values.reshape(clients, 1, samples * classes)
        aggregate, weights = geometric_median(whole, self.iterations)
        return aggregate.reshape(samples, classes), weights


@dataclass(frozen=True, kw_only=True)
class Krum(Robust):
    """The upload with the nearest neighbors, or the mean of a few such.

    Blanchard et al. 2017, arXiv 1703.02757.

    One client teaches all where ``average=1``: under label skew its missing classes are missing for
    everyone.
    """

    tolerate: float = 0.2
    """Share of attackers to tolerate, above 0 and below 0.5, rounded up to f clients; needs 2 f + 3
    clients."""
    average: int | None = 1
    """Uploads of best score to average, 1 to K - f: 1 is Krum, more is multi-Krum; null is all but
    f."""

    def __post_init__(self) -> None:
        _minority(tolerate=self.tolerate)
        if self.average is not None:
            at_least(1, average=self.average)

    def check(self, clients: int) -> None:
        """Raise SettingError where Krum guarantees nothing."""
        count = count_of(self.tolerate, clients)
        if clients < 2 * count + 3:
            raise SettingError(
                f"tolerate={self.tolerate} is {count} of {clients} clients, for which krum needs"
                f" {2 * count + 3};"
                " tolerate fewer or take more clients"
            )
        if self.average is not None and self.average > clients - count:
            raise SettingError(
                f"average={self.average} would take in attackers: tolerate={self.tolerate} leaves"
                f" {clients - count} of {clients} clients"
            )

    def aggregate(self, values: Values, scale: Scale) -> Aggregated:
        """Return the mean of the uploads of best score."""
        count = count_of(self.tolerate, len(values))
        trusted = max(len(values) - count, 1)
        return krum(values, count, trusted if self.average is None else min(self.average, trusted))


@dataclass(frozen=True, kw_only=True)
class Cronus(Robust):
    """Cronus' spectral filter for each public sample, reconstructed.

    Chang et al. 2019, arXiv 1912.11279.

    A weighted mean, so that soft labels stay soft labels. What is reconstructed is said at
    ``filtered_mean``. The default threshold is ours, from 10 and 20 clients on digits: under strong
    label skew 0.25 takes honest clients for attackers, and 1 lets swapped labels and noise pass.
    """

    tolerate: float = 0.2
    """Share of attackers to tolerate, above 0 and below 0.5: twice this share of the clients may be
    filtered out."""
    threshold: float = 0.5
    """Variance along any direction up to which nothing is filtered, > 0, in squares of the clients'
    median distance from their median: small filters more honest clients too, and large lets
    attackers pass."""

    def __post_init__(self) -> None:
        _minority(tolerate=self.tolerate)
        positive(threshold=self.threshold)

    def check(self, clients: int) -> None:
        """Raise SettingError where the filter is the mean."""
        _refuse_pairs("cronus", clients)

    def aggregate(self, values: Values, scale: Scale) -> Aggregated:
        """Return the filtered mean."""
        return filtered_mean(values, self.tolerate, self.threshold)


ROBUST: dict[str, type[Robust]] = {
    "none": Mean,
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "geometric_median": GeometricMedian,
    "krum": Krum,
    "cronus": Cronus,
}


def count_of(share: float, clients: int) -> int:
    """Return how many clients a share of them is, rounded up.

    >>> count_of(0.2, 10), count_of(0.2, 11), count_of(0.1, 30)
    (2, 3, 3)
    """
    return math.ceil(share * clients - 1e-9)  # 0.1 * 30 is a little more than 3


def _minority(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 < value < 0.5:
            raise SettingError(f"{name} must be above 0 and below 0.5, got {value}")


def _refuse_pairs(name: str, clients: int) -> None:
    if clients < 3:
        raise SettingError(
            f"{name} would do nothing: of {clients} clients it is the mean; it needs 3"
        )


def _on_scale(
    aggregate: Float[Tensor, "N C"], values: Values, scale: Scale
) -> Float[Tensor, "N C"]:
    """Return what a rule over single classes made of soft labels as soft labels again."""
    return aggregate if scale == "logits" else renormalize(aggregate, mean_over_clients(values))
