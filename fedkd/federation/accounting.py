"""Privacy accounting of a run: what clients and server release is entered in one ledger."""

import json
from collections.abc import Iterable, Mapping

from fedkd.messages import Upload
from fedkd.privacy.claims import ADVERSARIES, Claim, Layer
from fedkd.privacy.enforcement import PrivacyEnforcer
from fedkd.privacy.ledger import Ledger, Spending

CUMULATIVE_LAYERS: tuple[Layer, ...] = ("model", "upload")
"""Layers of which a client states each time all that it ever spent there."""


class Accounting:
    """The ledger of a run, and the rules by which messages enter it."""

    def __init__(self, enforcer: PrivacyEnforcer) -> None:
        self.enforcer, self.ledger = enforcer, Ledger()

    def record_reply(
        self, client_id: int, upload: Upload | None, *, rows: int, train_size: int
    ) -> None:
        """Enter what left a client, whether its upload is accepted or not.

        Where nothing came that states it, all that was asked for may have left the client: a lost
        reply may have been seen. A client that declined has released nothing.

        Args:
            client_id: The client.
            upload: What came from it; None if nothing did.
            rows: How many public samples it was asked about.
            train_size: How many examples it trains on.
        """
        if upload is not None and upload.has_declined:
            return
        if upload is None or upload.privacy is None:
            for spending, most in self.enforcer.worst_case_spending(rows, train_size):
                self.ledger.record(client_id, spending, most)
            return
        spendings = [Spending.from_dict(json.loads(text)) for text in upload.privacy.spent]
        for layer in CUMULATIVE_LAYERS:
            own = [s for s in spendings if s.layer == layer]
            self.ledger.record_cumulative(client_id, layer, own)
        for spending in spendings:
            if spending.layer not in CUMULATIVE_LAYERS:
                self.ledger.record(client_id, spending)

    def record_fusion(self, spendings: Iterable[Spending]) -> None:
        """Enter what the server's release of a round costs every client."""
        for spending in spendings:
            self.ledger.record(None, spending)

    def claims(self, client_id: int | None = None) -> tuple[Claim, ...]:
        """Return the claims so far, for the system or a client, one for each adversary."""
        mechanism = self.enforcer.mechanism
        return tuple(
            self.ledger.claim(
                mechanism.unit,
                adversary,
                mechanism.delta,
                client=client_id,
                accountant=mechanism.accountant,
            )
            for adversary in ADVERSARIES
        )

    def epsilons(self) -> dict[int, float | None]:
        """Return each client's epsilon so far; empty where nobody is protected.

        It is against the first adversary that the mechanism protects from.
        """
        mechanism, protects_from = self.enforcer.mechanism, self.enforcer.protects_from
        if not protects_from:
            return {}
        return dict(self.ledger.epsilons(mechanism.unit, protects_from[0], mechanism.delta))

    def state(self) -> dict[str, object]:
        """Return the ledger as numbers, text and lists."""
        return self.ledger.state()

    def restore(self, state: Mapping[str, object]) -> None:
        """Go back to the ledger in ``state``."""
        self.ledger.restore(state)
