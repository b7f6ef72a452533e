"""What is audited in a run: ``audit=none|store|canaries|members``, with the settings of each.

A choice says which candidates are tossed for before training, and who attacks at the end. Planting
is a function of the scenario alone, so that every process of a run plants the same. Not for:
storing (``fedkd.storage.transcript_recorder``) and attacking (``fedkd.audit.audit_run``).
"""

from dataclasses import dataclass
from typing import Any, Literal

from fedkd.audit.record_canaries import (
    CANARIES,
    CanaryKind,
    Coins,
    RecordCanaries,
    members_and_others,
    plant,
)
from fedkd.data.division import Division
from fedkd.data.prepare import Prepared
from fedkd.errors import SettingError
from fedkd.settings.validators import at_least, one_of

Adversary = Literal["server", "clients", "lab"]
MOST_SHADOWS = 256
Planted = tuple[Prepared, Division, Coins | None]


@dataclass(frozen=True, kw_only=True)
class NoAudit:
    """Store nothing of what is sent, and attack nothing."""

    @property
    def planting(self) -> dict[str, Any] | None:
        """Return None: who has which records does not depend on it."""
        return None

    def planted(self, prepared: Prepared, division: Division, seed: int) -> Planted:
        """Return both as they are."""
        return prepared, division, None


@dataclass(frozen=True, kw_only=True)
class Store:
    """Store what the server and other clients see; at the end infer label distributions from
    uploads.

    Nothing is planted. The other audits take its settings over (a setting is written once).
    """

    adversaries: tuple[Adversary, ...] | None = None
    """Who attacks at the end: server, clients (all but the audited one), lab (has answers of the
    raw models to candidates, stored in lab/). null is server, or clients where a mechanism trusts
    the server."""
    confidence: float = 0.95
    """Confidence of all bounds of one adversary together, above 0 and below 1."""
    shadows: int = 0
    """Shadow models of every client, trained at the end for LiRA offline and online by an auditor
    who knows all of a client's records but the coins: an even number from 4 to 256, or 0 for none.
    Each costs a client's whole training, and for the server's attack a surrogate."""

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise SettingError(f"confidence must be above 0 and below 1, got {self.confidence}")
        check_shadows(self.shadows)
        if self.shadows and type(self) is Store:
            raise SettingError(
                f"shadows={self.shadows} would do nothing: audit=store has no candidates"
            )
        if self.shadows and self.adversaries == ("clients",):
            raise SettingError(
                f"shadows={self.shadows} would do nothing: other clients see no single client's"
                " model"
            )
        if self.adversaries is not None:
            if not self.adversaries:
                raise SettingError(
                    "adversaries must name one at least, as in [server,lab]; null chooses"
                )
            if len(set(self.adversaries)) < len(self.adversaries):
                raise SettingError(f"adversaries names one twice: {', '.join(self.adversaries)}")
            if "lab" in self.adversaries and type(self) is Store:
                raise SettingError(
                    "adversaries: the lab asks models about candidates, and audit=store has none"
                )

    @property
    def planting(self) -> dict[str, Any] | None:
        """Return, as plain values, what decides who has which records; None where nothing does."""
        return None

    def planted(self, prepared: Prepared, division: Division, seed: int) -> Planted:
        """Return the data set and the division that clients get, and the coins; SettingError where
        it cannot be.
        """
        return prepared, division, None


@dataclass(frozen=True, kw_only=True)
class WithCanaries(Store):
    """Toss a coin for each of some altered records of every client before training; at the end
    attack them.
    """

    kind: CanaryKind = "mislabeled"
    """mislabeled: a record with another label. out_of_distribution: random pixels. blank: the same
    grey everywhere."""
    per_client: int = 20
    """Canaries tossed for by each client, >= 1; about half are inserted. Each takes one training
    record's place."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(CANARIES, kind=self.kind)
        at_least(1, per_client=self.per_client)

    @property
    def planting(self) -> dict[str, Any] | None:
        """Return the kind and number of canaries."""
        return {"canaries": self.kind, "per_client": self.per_client}

    def planted(self, prepared: Prepared, division: Division, seed: int) -> Planted:
        """Return the data set with canaries, the division without those whose coins said so, and
        the coins.
        """
        return plant(
            prepared, division, RecordCanaries(kind=self.kind, per_client=self.per_client), seed
        )


@dataclass(frozen=True, kw_only=True)
class WithMembers(Store):
    """Toss a coin for ordinary records of every client: a random half is not trained on; at the end
    attack them.
    """

    per_client: int | None = None
    """Records tossed for by each client, >= 1; null is all but one. About half of them are taken
    out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_client is not None:
            at_least(1, per_client=self.per_client)

    @property
    def planting(self) -> dict[str, Any] | None:
        """Return how many records are tossed for."""
        return {"members": self.per_client}

    def planted(self, prepared: Prepared, division: Division, seed: int) -> Planted:
        """Return the data set as it is, the division without the records that coins took out, and
        the coins.
        """
        return prepared, *members_and_others(prepared, division, self.per_client, seed)


def check_shadows(count: int) -> None:
    """Raise SettingError unless so many shadow models can be trained: each candidate is in half of
    them.
    """
    if count and (count % 2 or not 4 <= count <= MOST_SHADOWS):
        raise SettingError(
            f"shadows must be 0, or an even number from 4 to {MOST_SHADOWS}, got {count}"
        )


AUDITS: dict[str, type[NoAudit | Store]] = {
    "none": NoAudit,
    "store": Store,
    "canaries": WithCanaries,
    "members": WithMembers,
}
