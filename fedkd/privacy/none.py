"""No protection: knowledge leaves as it is, and nothing is claimed."""

import json
from dataclasses import dataclass

from fedkd.messages import PrivacyEvent
from fedkd.privacy.events import NoClaim
from fedkd.privacy.ledger import Spending

REASON = "raw predictions are uploaded; no epsilon is claimed against any adversary"


@dataclass(frozen=True, kw_only=True)
class Unprotected:
    """Upload raw predictions. No guarantee is given, against anyone."""

    @property
    def event(self) -> PrivacyEvent:
        """The event of every release: nothing was done, nothing is claimed."""
        spending = Spending(event=NoClaim(reason=REASON), unit="record", layer="upload")
        return PrivacyEvent(mechanism="none", claims=False, reason=REASON, spent=(json.dumps(spending.plain()),))
