"""What a run will release, known before its first round and no secret: noise is solved for it."""

import math
from dataclasses import dataclass

from fedkd.errors import SettingError
from fedkd.knowledge import SideRelease
from fedkd.privacy.composition import Accountant
from fedkd.privacy.gaussian_dp import check_delta
from fedkd.settings.optional_libraries import require
from fedkd.settings.validators import at_least, check_choices, positive
from fedkd.training.losses import Scale

USEFUL_NOISE = 0.3
"""Standard deviation of noise on a fused probability from which labels are about useless (measured
on ten classes)."""


@dataclass(frozen=True, kw_only=True)
class ReleasePlan:
    """A run's releases as privacy counts them.

    What is solved from it holds if no more is released than it says.
    """

    clients: int
    rounds: int
    rows: int
    """Public samples that a client predicts on in a round."""
    public_size: int
    """Public samples of the run, from which each round's are taken."""
    classes: int
    scale: Scale
    """What clients upload."""
    records: int
    """Size of the largest private training set."""
    fewest_records: int | None = None
    """Size of the smallest; null is that of the largest."""
    all_records: int | None = None
    """Private training records of all clients together; null is as if all had the largest set."""
    batch_size: int = 32
    """Private samples a step of training."""
    epochs: float = 1
    """Passes over the private set each round."""
    steps: int | None = None
    """Steps of training each round in place of passes."""
    group: int = 1
    """Training examples that one record has at most, such as a text's windows."""
    group_is_bound: bool = False
    """Whether a setting bounds them; else it is the largest number that any record has."""
    record: str = "record"
    """What a record is, such as ``text``."""
    examples: str = "samples"
    """What training examples are called, in the plural."""
    kind_declares: str = ""
    """Class of a kind of one's own that says that uploads depend on the model alone."""
    chooses: bool = False
    """Whether clients choose the samples that they answer for."""
    scores: bool = False
    """Whether clients also upload scores beside their predictions."""
    side_release: SideRelease | None = None
    """What leaves the client of the fewest records once beside its knowledge, with noise."""
    unweighted_mean: bool = True
    """Whether the teacher is common and the plain mean of the uploads: weights that depend on no
    data."""
    temperature: float = 1.0
    """At which clients soften a teacher's logits."""
    has_reference: bool = False
    """Whether the task has soft labels to compare with, of a model that saw public data alone."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(
            1,
            clients=self.clients,
            rounds=self.rounds,
            rows=self.rows,
            public_size=self.public_size,
            records=self.records,
        )
        at_least(1, group=self.group)
        at_least(2, classes=self.classes)

    def released(self, *, memoize: bool) -> int:
        """Return how many rows a client releases in all.

        Memoized, those that it answered before count once.
        """
        rows = self.rows * self.rounds
        return min(rows, self.public_size) if memoize else rows


def check_epsilon(epsilon: float | None) -> None:
    """Raise unless a budget, where there is one, is above 0.

    Infinity stands for no protection at all.
    """
    if epsilon is not None and epsilon != math.inf:
        positive(epsilon=epsilon)


def check_budget(*, epsilon: float | None, delta: float, sigma: float | None) -> None:
    """Raise unless exactly one of ``epsilon`` and ``sigma`` is given, in its range."""
    check_delta(delta)
    if (epsilon is None) == (sigma is None):
        if epsilon is None:
            raise SettingError(
                "epsilon or sigma must be given: without noise there is nothing to clip for or to"
                " claim"
            )
        raise SettingError(
            f"epsilon={epsilon} and sigma={sigma} exclude one another: each follows from the other"
        )
    check_epsilon(epsilon)
    if sigma is not None:
        positive(sigma=sigma)


def check_delta_for(delta: float, units: int, what: str) -> None:
    """Raise where delta is so large that giving away one of ``units`` whole would be within it."""
    if delta >= 1 / units:
        raise SettingError(
            f"delta must be below 1/{units}, one over the number of {what}, got {delta}: it would"
            " allow giving one away"
        )


def check_client_delta(delta: float, plan: ReleasePlan) -> None:
    """Raise where delta is too large for a claim for clients.

    Such a claim holds for each of a client's records as well.

    Giving each client's data away with a chance of delta is within it: one client of all is then to
    be expected from 1/clients on. Read as a claim for records, it would allow giving one record
    away from one over their number on.
    """
    if plan.clients >= plan.records:
        check_delta_for(delta, plan.clients, "clients")
    else:
        check_delta_for(delta, plan.records, "records of the largest private set")


def check_accountant(accountant: Accountant) -> None:
    """Raise where an accountant is asked for that is not installed."""
    if accountant == "pld":
        require("dp_accounting", "accountant=pld")


def check_memoize(plan: ReleasePlan, memoize: bool) -> None:
    """Raise where no answer is ever asked for twice."""
    if memoize and plan.rounds == 1:
        raise SettingError(
            "memoize=true would do nothing: in one round no sample is asked for twice"
        )


def check_local(plan: ReleasePlan) -> None:
    """Raise where what a client uploads says more than its rows do."""
    if plan.chooses:
        raise SettingError(
            "this strategy lets clients choose which public samples they answer for, and the"
            " choice depends on private"
            " data: no claim holds; take a strategy where all answer alike"
        )
    if plan.scores:
        raise SettingError(
            "this strategy's clients upload scores beside their predictions, in which noise hides"
            " single records at most and no whole client; take dp_sgd"
        )


def noise_warning(noise: float, clients: int, *, local: bool) -> str | None:
    """Return a warning where ``clients`` are too few for the noise, None where they are enough.

    ``noise`` is the standard deviation on one client's row, or on the sum of all, in a unit in
    which rows are at most sqrt(2) apart, as soft labels are. Averaging leaves ``noise /
    sqrt(clients)`` of local and ``noise / clients`` of central noise, useless above 0.3.

    >>> noise_warning(26.8, 250, local=False) is None, noise_warning(26.8, 1000, local=True) is None
    (True, False)
    """
    needed = (noise / USEFUL_NOISE) ** 2 if local else noise / USEFUL_NOISE
    if clients >= needed:
        return None
    where = "each client's predictions" if local else "the sum of the clients' predictions"
    return (
        f"noise of {noise:.3g} on {where} leaves no usable labels for {clients} clients; about"
        f" {needed:,.0f} would be"
        " needed. Release fewer rows or rounds, allow a larger epsilon,"
        f"{' let a trusted server add the noise,' if local else ''} or train by dp_sgd (for"
        " records)"
    )
