"""What a run says of its privacy: before its first round, and in ``summary.json``."""

from collections.abc import Sequence
from dataclasses import asdict

from fedkd.privacy.claims import Claim, claim_lines
from fedkd.privacy.enforcement import PrivacyEnforcer
from fedkd.privacy.unprotected import nothing_claimed
from fedkd.privacy.vouching import basis_of, claim_text, outside


def before_run(enforcer: PrivacyEnforcer, *, sends_metrics: bool) -> dict[str, object]:
    """Return what is said of privacy before the run.

    ``sends_metrics`` says whether clients send what they measure.
    """
    mechanism = enforcer.mechanism
    if mechanism.no_claim_reason:
        return nothing_claimed(mechanism.no_claim_reason)
    declared = basis_of(mechanism) == "declared"
    return {
        "mechanism": enforcer.name,
        "declared_by": type(mechanism).__name__ if declared else "",
        "reason": claim_text(mechanism, enforcer.plan, sends_metrics=sends_metrics),
        "unit": mechanism.unit,
        "adversary": next(iter(enforcer.protects_from), None),
    }


def after_run(
    enforcer: PrivacyEnforcer, claims: Sequence[Claim], *, sends_metrics: bool
) -> dict[str, object]:
    """Return what the ledger's claims amount to at the end of a run.

    The first fields are those of the claim against the first adversary protected from.
    ``sends_metrics`` says whether clients sent what they measured.
    """
    mechanism = enforcer.mechanism
    if mechanism.no_claim_reason:
        return nothing_claimed(mechanism.no_claim_reason)
    first = next((c for c in claims if c.adversary in mechanism.protects_from), claims[0])
    sigma, noise = mechanism.noise_in(enforcer.plan)
    return {
        "mechanism": enforcer.name,
        "unit": first.unit,
        "neighbors": first.neighbors,
        "adversary": first.adversary,
        "epsilon": first.epsilon,
        "delta": first.delta,
        "sigma": sigma,
        "sampling": first.sampling,
        "accountant": first.accountant,
        "layer": first.layer,
        "reason": first.reason,
        "claims": [asdict(claim) for claim in claims],
        "noise": noise,
        "assumptions": list(mechanism.assumed(enforcer.plan)),
        "outside": list(outside(mechanism, sends_metrics=sends_metrics)),
        "text": claim_lines(claims),
    }


def warnings(enforcer: PrivacyEnforcer) -> tuple[str, ...]:
    """Return the mechanism's warnings before the run, with its name."""
    found = enforcer.mechanism.warnings(enforcer.plan)
    return tuple(f"privacy={enforcer.name}: {warning}" for warning in found)
