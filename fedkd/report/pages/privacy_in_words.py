"""What a run claims of privacy, and what an audit found, in words for those outside the field."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedkd.privacy.claims import IN_WORDS, SIMULATED, rounded_up

Tone = Literal["bad", "good", "open"]
UNITS = {
    "record": "any one record of a client was in its data",
    "client": "all that any one client has was in the data",
}
LITTLE = 10.0
"""An epsilon above which a claim says little."""


@dataclass(frozen=True)
class Statement:
    """A sentence and whether it is good news."""

    tone: Tone
    text: str


def claims_in_words(privacy: Mapping[str, Any]) -> list[Statement]:
    """Return what is claimed against whom, and what is not; by a run's ``privacy`` in its summary.

    >>> [s.text for s in claims_in_words({"mechanism": "none", "reason": "raw predictions"})]
    ['No protection is claimed against anybody: raw predictions.']
    """
    claims: Sequence[Mapping[str, Any]] = privacy.get("claims") or ()
    if not claims:
        reason = privacy.get("reason") or "the run says nothing of privacy"
        return [Statement("open", f"No protection is claimed against anybody: {reason}.")]
    return [_claim(claim) for claim in claims]


def _claim(claim: Mapping[str, Any]) -> Statement:
    who = IN_WORDS.get(claim["adversary"], str(claim["adversary"]))
    whose = "" if claim.get("client") is None else f" for client {claim['client']}"
    epsilon = claim.get("epsilon")
    if epsilon is None:
        return Statement(
            "open", f"Against {who} nothing is claimed{whose}: {claim.get('reason') or 'no reason'}"
        )
    unit = UNITS.get(claim["unit"], f"any one {claim['unit']} was in the data")
    caveats = "".join(f"; {caveat}" for caveat in claim.get("caveats") or ())
    little = epsilon > LITTLE
    text = (
        f"Against {who}{whose}, epsilon is {rounded_up(epsilon)} at delta {claim['delta']:g}:"
        f" whether {unit} changes the odds of whatever {who} can see by a factor of at most"
        f" {_factor(epsilon)}, but for a chance of {claim['delta']:g}"
        f"{' – which is little protection' if little else ''}"
        f" ({claim.get('neighbors')} neighbors, accountant {claim.get('accountant')}{caveats})."
    )
    return Statement("open" if little else "good", text)


def _factor(epsilon: float) -> str:
    return f"{math.exp(epsilon):,.3g}" if epsilon < 13 else f"e to the {epsilon:.4g}"


def outside_of_claims(privacy: Mapping[str, Any]) -> list[str]:
    """Return what a run's claims take for granted, and what they do not cover."""
    if not privacy.get("claims"):
        return []
    assumed = [f"Assumed: {text}." for text in privacy.get("assumptions") or ()]
    left = [f"Not covered: {text}." for text in privacy.get("outside") or ()]
    return [*assumed, *left, f"{SIMULATED[0].upper()}{SIMULATED[1:]}."]


def audit_in_words(audit: Mapping[str, Any] | None, planted: bool | None = None) -> list[Statement]:
    """Return what attacks found, by the ``audit`` of a run's summary.

    Args:
        audit: The entry.
        planted: Whether the candidates were planted records, rather than the clients' own; None
            where that is not known.

    >>> found = audit_in_words({"by_adversary": {"server": {
    ...     "auc": 0.95, "auc_low": 0.89, "auc_high": 1.0, "verdict": "no claim"}}}, True)
    >>> found[0].text
    'The server can tell planted records from others (AUC 0.95, 0.89 to 1.00): this run leaks.'
    """
    found: list[Statement] = []
    for name, entry in ((audit or {}).get("by_adversary") or {}).items():
        who = "The lab, which asks the models themselves," if name == "lab" else IN_WORDS.get(name)
        who = who or str(name)
        found += _of_adversary(f"{who[0].upper()}{who[1:]}", entry, planted)
    return found


def _of_adversary(who: str, entry: Mapping[str, Any], planted: bool | None) -> list[Statement]:
    """Return what one adversary's attacks found."""
    whose = {
        True: "planted records from others",
        False: "clients' training records from others",
        None: "records that were trained on from others",
    }[planted]
    found = []
    auc, low = entry.get("auc"), entry.get("auc_low")
    if auc is None or low is None:
        found.append(Statement("open", f"{who} made no attack that could be measured."))
    else:
        size = f"(AUC {auc:.2f}, {low:.2f} to {entry['auc_high']:.2f})"
        if low > 0.5:
            found.append(Statement("bad", f"{who} can tell {whose} {size}: this run leaks."))
        else:
            found.append(
                Statement(
                    "open",
                    f"{who} could not tell {whose} better than by guessing {size}. That is no proof"
                    " of safety: a stronger attack may.",
                )
            )
        blind = entry.get("blind_auc_low")
        if blind is not None and blind > 0.5:
            found.append(
                Statement(
                    "open",
                    f"Take care: an attack that sees no model tells them as well (AUC"
                    f" {entry['blind_auc']:.2f}), so that part of it is no leak of the models.",
                )
            )
    return [*found, *_labels(who, entry), *_verdict(entry)]


def _labels(who: str, entry: Mapping[str, Any]) -> list[Statement]:
    """Return how well label distributions were read off uploads."""
    seen, blind = entry.get("label_total_variation"), entry.get("blind_label_total_variation")
    if seen is None or blind is None:
        return []
    if seen < 0.8 * blind:
        said = "Uploads give away which classes a client has"
        return [
            Statement(
                "bad",
                f"{said}: guessed from them, its label distribution is {100 * seen:.0f} % off;"
                f" guessed without them, {100 * blind:.0f} % (total variation).",
            )
        ]
    said = "Uploads say little of which classes a client has"
    return [
        Statement(
            "open",
            f"{said}: guesses are {100 * seen:.0f} % off with them and {100 * blind:.0f} % without"
            " (total variation).",
        )
    ]


def _verdict(entry: Mapping[str, Any]) -> list[Statement]:
    """Return what the audit says of the claim."""
    verdict, bound = str(entry.get("verdict", "no claim")), entry.get("lower_bound")
    claimed, shown = entry.get("claimed_epsilon"), 0.0 if bound is None else bound
    if verdict == "no claim":
        said = f" What was shown is an epsilon of at least {shown:.2f}." if shown > 0 else ""
        return [Statement("open", f"Nothing is claimed that the audit could refute.{said}")]
    if verdict == "VIOLATION":
        return [
            Statement(
                "bad",
                f"The audit refutes the claim: epsilon {claimed:.4g} is claimed, and at least"
                f" {shown:.2f} was shown.",
            )
        ]
    if verdict == "uninformative":
        return [
            Statement(
                "open",
                f"The audit cannot judge the claim of epsilon {claimed:.4g}: with so few candidates"
                " even a perfect attack could not refute it.",
            )
        ]
    power = verdict.partition("(")[2].rstrip(")") or "power unknown"
    return [
        Statement(
            "open",
            f"The audit does not refute the claim: at least {shown:.2f} was shown, epsilon"
            f" {claimed:.4g} is claimed ({power}).",
        )
    ]
