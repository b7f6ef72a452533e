"""What is audited in a run: ``audit=none|store|canaries|members``, with the settings of each.

A choice says which candidates are tossed for before training, and who attacks at the end. Planting
is a function of the scenario alone, so that every process of a run plants the same. Not for:
storing (``fedkd.storage.transcript_recorder``) and attacking (``fedkd.audit.audit_run``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

from fedkd.audit.record_canaries import (
    CanaryKind,
    Candidates,
    RecordCanaries,
    members_and_others,
    plant,
)
from fedkd.data.division import Division
from fedkd.data.prepare import Labeled, Plantable
from fedkd.errors import SettingError
from fedkd.settings.conditions import Compatible, RunConditions
from fedkd.settings.validators import at_least, check_choices

Adversary = Literal["server", "clients", "lab"]
MOST_SHADOWS = 256
Planted = tuple[Labeled, Division, Candidates | None]


@runtime_checkable
class Audit(Compatible, Protocol):
    """An audit of a run: what it plants, stores and attacks. A frozen value.

    Derive from it, or from ``Store``, whose settings the attacks of fedkd need.
    """

    @property
    def stores(self) -> bool:
        """Whether what travels is stored in the run folder, and attacked at the end."""
        return True

    @property
    def adversaries(self) -> tuple[Adversary, ...] | None:
        """Who attacks at the end; null is the server, or clients where it is trusted."""
        return None

    @property
    def confidence(self) -> float:
        """Confidence of all bounds of one adversary together."""
        return 0.95

    @property
    def shadows(self) -> int:
        """Shadow models of every client."""
        return 0

    @property
    def power(self) -> bool:
        """Whether the attacks are also made on the same run without its noise."""
        return False

    @property
    def asks_models(self) -> bool:
        """Whether raw models are asked about candidates at the end."""
        return "lab" in (self.adversaries or ())

    @property
    def planting(self) -> Mapping[str, object] | None:
        """The settings that decide which records a client trains on; None where none do."""
        return None

    def planted(self, prepared: Labeled, division: Division, seed: int) -> Planted:
        """Return the data set and the division that clients get, and the candidates.

        Raises SettingError where nothing can be planted.
        """
        return prepared, division, None

    def findings(self, run_dir: Path) -> Mapping[str, object]:
        """Return further entries of the summary's ``audit``, made of what the run stored."""
        return {}

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with a run that stores nothing for an adversary, or too much."""
        chosen, name = conditions.name_of("audit"), conditions.strategy
        if not conditions.audits_records:
            return (
                f"audit does not go with data={conditions.name_of('data')}: it plants and attacks"
                " labeled records of images, tables, series and texts with classes; secrets in"
                " texts of next tokens are canaries;"
                " leave it out"
            )
        if not conditions.is_stored:
            return None
        if not conditions.exchanges:
            return f"audit={chosen} would do nothing: strategy={name} exchanges nothing"
        if conditions.pooled_data:
            return (
                f"audit={chosen}: strategy={name} trains on the private sets of all clients;"
                " nothing is kept"
            )
        if conditions.is_chosen("attacks"):
            return (
                f"audit={chosen} stores what clients send, and with"
                f" attacks={conditions.name_of('attacks')} attackers' uploads are made at the"
                " server; leave one of them out"
            )
        if self.power and not conditions.is_claimed:
            return (
                f"audit.power=true would do nothing: privacy={conditions.name_of('privacy')} claims"
                " nothing"
            )
        if conditions.trusts_server and "server" in (self.adversaries or ()):
            return (
                f"audit.adversaries=[server]: with privacy={conditions.name_of('privacy')} the"
                " server is trusted with raw predictions, which are not stored beside a claim;"
                " audit the clients"
            )
        return None


@dataclass(frozen=True, kw_only=True)
class NoAudit(Audit):
    """Store nothing of what is sent, and attack nothing."""

    stores: ClassVar[bool] = False

    def conflict(self, conditions: RunConditions) -> None:
        """Accept any run."""


@dataclass(frozen=True, kw_only=True)
class Store(Audit):
    """Store what the server and other clients see; infer label distributions at the end.

    Nothing is planted. The other audits take its settings over (a setting is written once).
    """

    has_candidates: ClassVar[bool] = False
    """Whether records are tossed for, which attacks ask about."""

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
    power: bool = False
    """Whether the run is made once more at its end without any noise of its mechanism, and attacked
    in the same way: the smallest claim that this audit would have refuted then stands beside its
    verdict. Costs the run again, with its shadow models."""

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 < self.confidence < 1:
            raise SettingError(f"confidence must be above 0 and below 1, got {self.confidence}")
        check_shadows(self.shadows)
        if self.shadows and not self.has_candidates:
            raise SettingError(
                f"shadows={self.shadows} would do nothing: audit=store has no candidates"
            )
        if self.power and not self.has_candidates:
            raise SettingError("power=true would do nothing: audit=store has no candidates")
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
            if "lab" in self.adversaries and not self.has_candidates:
                raise SettingError(
                    "adversaries: the lab asks models about candidates, and audit=store has none"
                )


@dataclass(frozen=True, kw_only=True)
class WithCanaries(Store):
    """Include altered records of every client by fair coins; attack them at the end."""

    has_candidates: ClassVar[bool] = True

    kind: CanaryKind = "mislabeled"
    """mislabeled: a record with another label. out_of_distribution: random pixels. blank: the same
    grey everywhere."""
    per_client: int = 20
    """Canaries tossed for by each client, >= 1; about half are inserted. Each takes one training
    record's place."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, per_client=self.per_client)

    @property
    def planting(self) -> dict[str, object] | None:
        """Return the kind and number of canaries."""
        return {"canaries": self.kind, "per_client": self.per_client}

    def planted(self, prepared: Labeled, division: Division, seed: int) -> Planted:
        """Return the altered data set, the division that clients get, and the candidates."""
        if not isinstance(prepared, Plantable):
            raise SettingError("audit=canaries alters records, and this data set holds none")
        return plant(
            prepared, division, RecordCanaries(kind=self.kind, per_client=self.per_client), seed
        )


@dataclass(frozen=True, kw_only=True)
class WithMembers(Store):
    """Exclude a random half of some ordinary records of every client; attack them at the end."""

    has_candidates: ClassVar[bool] = True

    per_client: int | None = None
    """Records tossed for by each client, >= 1; null is all but one. About half of them are taken
    out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_client is not None:
            at_least(1, per_client=self.per_client)

    @property
    def planting(self) -> dict[str, object] | None:
        """Return how many records are tossed for."""
        return {"members": self.per_client}

    def planted(self, prepared: Labeled, division: Division, seed: int) -> Planted:
        """Return the data set, the division without excluded records, and the candidates."""
        return prepared, *members_and_others(prepared, division, self.per_client, seed)


def check_shadows(count: int) -> None:
    """Raise SettingError unless so many shadow models can be trained.

    Each candidate is in half of them.
    """
    if count and (count % 2 or not 4 <= count <= MOST_SHADOWS):
        raise SettingError(
            f"shadows must be 0, or an even number from 4 to {MOST_SHADOWS}, got {count}"
        )


AUDITS: dict[str, type[Audit]] = {
    "none": NoAudit,
    "store": Store,
    "canaries": WithCanaries,
    "members": WithMembers,
}
