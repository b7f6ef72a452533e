"""On whose word a mechanism claims: fedkd's for the reviewed kinds, else its author's, or none.

A claim holds for the exact class that was reviewed. A class derived from it may have lost the
noise, so that it claims nothing unless it says itself what a release costs.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from fedkd.privacy.claims import ADVERSARIES, Adversary, Claim, claim_lines
from fedkd.privacy.events import NoClaim
from fedkd.privacy.ledger import Ledger, Spending, side_spending
from fedkd.privacy.mechanisms import MECHANISMS
from fedkd.privacy.mechanisms.mechanism import Mechanism, unprotected_upload
from fedkd.privacy.release_plan import ReleasePlan
from fedkd.privacy.unprotected import NothingLeaves, Unlimited, Unprotected

REVIEWED = frozenset({*MECHANISMS.values(), Unprotected, Unlimited, NothingLeaves})
DECLARATIONS = ("events", "sensitivity", "planned")
"""What a mechanism of one's own must say itself, one of them, to claim anything."""

METRICS_SENT = (
    "accuracies, losses and label leakage, which clients send for the researcher's record: this is"
    " a simulation, a real client keeps them"
)
METRICS_KEPT = (
    "how long a client works and whether it fails, which the server learns; the accuracies, losses"
    " and label leakage that it measures stay with it and are not sent"
)

Basis = Literal["reviewed", "declared", "none"]


def basis_of(mechanism: Mechanism) -> Basis:
    """Return on whose word a mechanism claims; ``none`` where it says nothing itself."""
    kind = type(mechanism)
    if kind in REVIEWED:
        return "reviewed"
    return "declared" if any(name in vars(kind) for name in DECLARATIONS) else "none"


def protected_from(mechanism: Mechanism) -> tuple[Adversary, ...]:
    """Return from whom a claim of a mechanism hides; nobody where it has none."""
    return () if basis_of(mechanism) == "none" else mechanism.protects_from


def undeclared(mechanism: Mechanism) -> NoClaim:
    """Return the event of a release of which nobody says what it costs."""
    name = type(mechanism).__name__
    return NoClaim(
        reason=f"{name} is not reviewed by fedkd and declares no sensitivity and no events"
    )


def vouched(mechanism: Mechanism, spent: Iterable[Spending]) -> tuple[Spending, ...]:
    """Return spendings with the name of the class on whose word they are.

    Where nobody vouches for them, they become releases without a claim.
    """
    basis = basis_of(mechanism)
    if basis == "reviewed":
        return tuple(spent)
    if basis == "declared":
        author = type(mechanism).__name__
        return tuple(
            s if isinstance(s.event, NoClaim) else replace(s, declared_by=author) for s in spent
        )
    event = undeclared(mechanism)
    found = (s if isinstance(s.event, NoClaim) else replace(s, event=event) for s in spent)
    return tuple(dict.fromkeys(found))


def planned_claims(mechanism: Mechanism, plan: ReleasePlan) -> tuple[Claim, ...]:
    """Return what the whole run will claim for a client, against each adversary."""
    ledger = Ledger()
    if "server" not in mechanism.protects_from and mechanism.protects_from:
        ledger.record(0, unprotected_upload())
    if basis_of(mechanism) == "none":
        ledger.record(0, mechanism.spendings((undeclared(mechanism),))[0])
    for spending in vouched(mechanism, mechanism.planned(plan)):
        ledger.record(0, spending)
    if plan.side_release is not None:
        ledger.record(0, side_spending(plan.side_release))
    return tuple(ledger.claim(mechanism.unit, who, mechanism.delta) for who in ADVERSARIES)


def outside(mechanism: Mechanism, *, sends_metrics: bool) -> tuple[str, ...]:
    """Return what is outside the claims of a run: what clients measured, and the mechanism's own.

    Where nothing is claimed there is nothing that what clients measured is outside of.
    """
    if not protected_from(mechanism):
        return mechanism.outside
    return (METRICS_SENT if sends_metrics else METRICS_KEPT, *mechanism.outside)


def claim_text(mechanism: Mechanism, plan: ReleasePlan, *, sends_metrics: bool = True) -> str:
    """Return claims, noise, assumptions and limits before the run, a line each."""
    lines = claim_lines(planned_claims(mechanism, plan))
    lines += [f"noise: {mechanism.noise_in(plan)[1]}"]
    lines += [f"assumed: {assumption}" for assumption in mechanism.assumed(plan)]
    facts = outside(mechanism, sends_metrics=sends_metrics)
    return "\n".join([*lines, *(f"outside the claim: {fact}" for fact in facts)])
