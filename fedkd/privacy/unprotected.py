"""No protection: knowledge leaves as it is, and nothing is claimed."""

import json
from dataclasses import dataclass
from typing import Any

from fedkd.messages import PrivacyEvent
from fedkd.privacy.events import NoClaim
from fedkd.privacy.ledger import Spending

REASON = "raw predictions are uploaded; no epsilon is claimed against any adversary"


@dataclass(frozen=True, kw_only=True)
class Unprotected:
    """Upload raw predictions. No guarantee is given, against anyone."""


def unprotected_event(reason: str = REASON) -> PrivacyEvent:
    """Return the event of every release: nothing was done, nothing is claimed."""
    spending = Spending(event=NoClaim(reason=reason), unit="record", layer="upload")
    return PrivacyEvent(
        mechanism="none", claims=False, reason=reason, spent=(json.dumps(spending.to_dict()),)
    )


def nothing_claimed(reason: str) -> dict[str, Any]:
    """Return what ``summary.json`` says of privacy where nothing is protected: the fields of a
    claim, all empty.
    """
    empty = dict.fromkeys(
        ("unit", "neighbors", "adversary", "epsilon", "delta", "sigma", "sampling", "accountant")
    )
    return {"mechanism": "none", **empty, "reason": reason}
