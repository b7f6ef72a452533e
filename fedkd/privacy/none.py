"""No protection: knowledge leaves as it is, and nothing is claimed."""

from dataclasses import dataclass

from fedkd.messages import Knowledge, PrivacyEvent


@dataclass(frozen=True, kw_only=True)
class Unprotected:
    """Upload raw predictions. No guarantee is given, against anyone."""

    @property
    def event(self) -> PrivacyEvent:
        """The event of every release: nothing was done, nothing is claimed."""
        reason = "raw predictions are uploaded; no epsilon is claimed against any adversary"
        return PrivacyEvent(mechanism="none", claims=False, reason=reason)

    def protect(self, knowledge: Knowledge) -> tuple[Knowledge, PrivacyEvent]:
        """Return the knowledge unchanged, with an event that claims nothing."""
        return knowledge, self.event
