"""Privacy accounting of a run: what clients and server release is entered in one ledger."""

from collections.abc import Iterable, Mapping, Sequence

from fedkd.errors import UploadRejected
from fedkd.messages import Upload
from fedkd.privacy.claims import ADVERSARIES, Claim, Layer
from fedkd.privacy.enforcement import PrivacyEnforcer
from fedkd.privacy.ledger import Ledger, Spending
from fedkd.privacy.stated_spendings import Possible, read_spendings
from fedkd.settings.reply_limits import LIMITS

WorstCase = tuple[tuple[Spending, int], ...]
"""What may have been spent in a round, each with how often its smallest event happens at most."""

CUMULATIVE_LAYERS: tuple[Layer, ...] = ("model", "upload")
"""Layers of which a client states each time all that it ever spent there."""


class Accounting:
    """The ledger of a run, and the rules by which messages enter it."""

    def __init__(self, enforcer: PrivacyEnforcer) -> None:
        self.enforcer, self.ledger = enforcer, Ledger()
        self._rounds: dict[tuple[int, int], tuple[WorstCase, Possible | None]] = {}

    def record_reply(
        self, client_id: int, upload: Upload | None, *, rows: int, train_size: int
    ) -> None:
        """Enter what left a client, whether its upload is accepted or not.

        Where nothing came that states it, or what came cannot be read, all that was asked for may
        have left the client: a lost reply may have been seen. A client that declined has released
        nothing.

        Args:
            client_id: The client.
            upload: What came from it; None if nothing did.
            rows: How many public samples it was asked about.
            train_size: How many examples it trains on.

        Raises:
            UploadRejected: The upload's privacy event cannot be read, or cannot be true. The worst
                case is entered then.
        """
        if upload is not None and upload.has_declined:
            return
        side = self.enforcer.side_spending(train_size)
        if side is not None:
            self.ledger.record(client_id, side, 1)  # the same release in each round
        worst, possible = self._of_round(rows, train_size)
        if upload is None or upload.privacy is None:
            self._record_worst(client_id, worst)
            return
        try:
            spendings = self._stated(client_id, upload.privacy.spent, possible)
        except UploadRejected:
            self._record_worst(client_id, worst)
            raise
        for layer in CUMULATIVE_LAYERS:
            own = [s for s in spendings if s.layer == layer]
            self.ledger.record_cumulative(client_id, layer, own)
        for spending in spendings:
            if spending.layer not in CUMULATIVE_LAYERS:
                self.ledger.record(client_id, spending)

    def _of_round(self, rows: int, train_size: int) -> tuple[WorstCase, Possible | None]:
        """Return the worst case of a round, and what may be stated; found once for clients alike.

        Args:
            rows: Public samples asked about.
            train_size: Examples trained on.
        """
        if (rows, train_size) not in self._rounds:
            worst = self.enforcer.worst_case_spending(rows, train_size)
            self._rounds[rows, train_size] = worst, self.enforcer.possible_spendings(worst)
        return self._rounds[rows, train_size]

    def _stated(
        self, client_id: int, texts: Sequence[str], possible: Possible | None
    ) -> tuple[Spending, ...]:
        """Return what a client states. Raises UploadRejected."""
        spendings = read_spendings(texts, possible)
        if self.ledger.kinds_with(client_id, spendings) > LIMITS.run_spendings:
            raise UploadRejected(
                f"the privacy events of this client state more than {LIMITS.run_spendings}"
                " different spendings"
            )
        return spendings

    def _record_worst(self, client_id: int, worst: WorstCase) -> None:
        for spending, most in worst:
            self.ledger.record(client_id, spending, most)

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
