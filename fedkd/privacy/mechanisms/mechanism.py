"""What all mechanisms share: what they promise, and the words that several use."""

from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

from fedkd.privacy.claims import ADVERSARIES, Adversary, Claim, Unit, claim_lines
from fedkd.privacy.composition import Accountant
from fedkd.privacy.events import NoClaim
from fedkd.privacy.ledger import Ledger, Spending
from fedkd.privacy.release_plan import ReleasePlan

SEES_TEACHERS: tuple[Adversary, ...] = ("clients", "outsiders")
RAW_AT_SERVER = "the server sees each client's raw predictions; the noise comes after it"

DERIVED: Mapping[str, str] = {
    "sensitivity": "it is derived from what is released (scale and clip_norm), never given"
}
CHOSEN_BLINDLY = (
    "the public set, the models and all settings were chosen without a look at private data"
)
TRUSTED_SERVER = (
    "the server is trusted: it sees every raw prediction",
    "which clients are asked in a round does not depend on their data",
    CHOSEN_BLINDLY,
)
OUTSIDE = (
    "the size of each client's private set, and when it takes part: both are public",
    "accuracies, losses and label leakage that are recorded for the researcher: a real client"
    " keeps them",
)
OUTSIDE_SERVER = (
    "the size of each client's private set, and when it is asked: both are public",
    "accuracies, losses, label leakage, statuses and fusion weights that are recorded for the"
    " researcher: a real client"
    " or server keeps them",
    "traffic: a client that was rejected, failed or late is not sent the round's teacher",
    "that a run ends where fewer than min_clients answer",
)


@runtime_checkable
class Mechanism(Protocol):
    """A way to protect what travels, with its settings.

    Where it acts is told by its method: ``release`` makes what a client uploads, ``noisy_mean`` and
    ``tell`` what a server gives back.
    """

    unit: ClassVar[Unit]
    neighbors: ClassVar[str]
    protects_from: ClassVar[tuple[Adversary, ...]]
    """From whom the claim hides; nobody where there is none."""
    refuses: ClassVar[Mapping[str, str]]
    """Settings that somebody may look for in vain, and why there are none."""
    assumptions: ClassVar[tuple[str, ...]]
    outside: ClassVar[tuple[str, ...]]
    """What leaves a client, or is written down, that the claim does not speak of."""

    def check(self, plan: ReleasePlan) -> None:
        """Raise SettingError where the settings do not fit the run."""

    def planned(self, plan: ReleasePlan) -> tuple[Spending, ...]:
        """Return what the whole run costs a client at most."""

    def noise_in(self, plan: ReleasePlan) -> tuple[float | None, str]:
        """Return the noise's standard deviation, None where there is no such number, and in words
        what it is of.
        """

    def warnings(self, plan: ReleasePlan) -> tuple[str, ...]:
        """Return what should be said before the run, such as that its labels will be useless."""


def unprotected_upload() -> Spending:
    """Return what must be recorded of each client whose upload a trusted server sees raw."""
    return Spending(
        event=NoClaim(reason=RAW_AT_SERVER), unit="record", layer="upload", seen_by=("server",)
    )


def planned_claims(
    mechanism: Mechanism, plan: ReleasePlan, delta: float, accountant: Accountant = "auto"
) -> tuple[Claim, ...]:
    """Return what the whole run will claim for a client, against each adversary, before its first
    round.
    """
    ledger = Ledger()
    if "server" not in mechanism.protects_from and mechanism.protects_from:
        ledger.record(0, unprotected_upload())
    for spending in mechanism.planned(plan):
        ledger.record(0, spending)
    return tuple(
        ledger.claim(mechanism.unit, who, delta, accountant=accountant) for who in ADVERSARIES
    )


def claim_text(mechanism: Mechanism, plan: ReleasePlan, delta: float) -> str:
    """Return what a run may say of its privacy before it starts, a line each: claims, noise,
    assumptions, limits.
    """
    lines = claim_lines(planned_claims(mechanism, plan, delta))
    lines += [f"noise: {mechanism.noise_in(plan)[1]}"]
    lines += [f"assumed: {assumption}" for assumption in mechanism.assumptions]
    return "\n".join([*lines, *(f"outside the claim: {fact}" for fact in mechanism.outside)])
