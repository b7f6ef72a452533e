"""A round's accepted uploads on their way to the strategy: stacked once all are there, or handed on
as they come.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fedkd.knowledge import KnowledgeType, Request, RowKnowledge
from fedkd.messages import Fusion, Upload
from fedkd.privacy.enforcement import PrivacyEnforcer
from fedkd.privacy.ledger import Spending
from fedkd.robustness.threat_model import ThreatModel
from fedkd.strategy import Strategy, Stream


class StackedUploads:
    """Uploads kept until all are there."""

    def __init__(
        self, threat_model: ThreatModel | None, enforcer: PrivacyEnforcer, asked: int
    ) -> None:
        """Begin with none of the ``asked`` clients' uploads."""
        self.accepted: dict[int, Upload] = {}
        self.spent: tuple[Spending, ...] = ()
        self._guard, self._asked = enforcer, asked
        self.cohort: Any = None
        self._adversity = threat_model

    def take(self, client_id: int, upload: Upload | None) -> None:
        """Take a client's upload, None where nothing usable came."""
        if upload is not None:
            self.accepted[client_id] = upload

    def close(self) -> None:
        """Do nothing: all are there."""

    def fuse(self, strategy: Strategy, state: Any, kind: KnowledgeType, request: Request) -> Fusion:
        """Return what the strategy, a robust mean or a trusted server makes of them, poisoned ones
        included.
        """
        self.cohort = cohort = kind.stack(list(self.accepted.values()), request)
        if self._adversity is not None:
            self.cohort = cohort = self._adversity.poisoned(cohort)
            if self._guard.central is None:
                return self._adversity.fuse(strategy, cohort, state)
        fusion, self.spent = self._guard.fuse(strategy, cohort, state, self._asked)
        return fusion


class StreamedUploads:
    """Uploads handed on in the order of client ids: those that are early wait, the others are not
    kept.
    """

    def __init__(self, stream: Stream, kind: RowKnowledge, expected: Sequence[int]) -> None:
        """Begin with none; ``expected`` are the clients that were asked, in ascending order."""
        self.accepted: set[int] = set()
        self.spent: tuple[Spending, ...] = ()
        self._stream, self._kind, self._expected = stream, kind, list(reversed(expected))
        self._early: dict[int, Tensor | None] = {}

    def take(self, client_id: int, upload: Upload | None) -> None:
        """Take a client's upload, None where nothing usable came; hand on what it was that others
        waited for.
        """
        values = (
            None
            if upload is None or upload.knowledge is None
            else self._kind.values(upload.knowledge)
        )
        self._early[client_id] = values
        while self._expected and self._expected[-1] in self._early:
            self._hand_on(self._expected.pop())

    def close(self) -> None:
        """Hand on those that still wait."""
        for client_id in sorted(self._early):
            self._hand_on(client_id)

    def fuse(self, strategy: Strategy, state: Any, kind: KnowledgeType, request: Request) -> Fusion:
        """Return what the strategy made of the stream."""
        return self._stream.fuse()

    def _hand_on(self, client_id: int) -> None:
        values = self._early.pop(client_id)
        if values is not None:
            self._stream.add(client_id, values)
            self.accepted.add(client_id)
