"""What protects a release on the client, before it is uploaded. Every release carries a privacy event."""

from typing import Protocol, runtime_checkable

from fedkd.messages import Knowledge, PrivacyEvent
from fedkd.privacy.none import Unprotected


@runtime_checkable
class Protection(Protocol):
    """A client's last step before an upload."""

    @property
    def event(self) -> PrivacyEvent:
        """What is done to each release, and what may be claimed for it."""

    def protect(self, knowledge: Knowledge) -> tuple[Knowledge, PrivacyEvent]:
        """Return what may leave the client, with the event that says what was done."""


PRIVACY: dict[str, type[Protection]] = {"none": Unprotected}
