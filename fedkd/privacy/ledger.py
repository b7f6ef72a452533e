"""The ledger: what was spent on each client, and what each adversary sees of it.

Epsilons are asked of it, never added up elsewhere.

Every look at private data is recorded with the *layer* that protects it:

    model         training: whatever is computed from the model afterwards is covered (DP-SGD)
    upload        what leaves a client, for who sees it (noise at the client)
    teacher       what the server gives back, for who sees it (noise after fusion, votes)
    side_release  anything else that leaves, such as a label histogram or a private temperature

Layers protect the same data one after the other, so that the smallest of the three holds; side
releases add to each. A layer with a release that nobody protected claims nothing. A claim for a
whole client holds for its records. Clients' data is disjoint: the system's epsilon is the largest,
never the sum. Not for: what an event costs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedkd.errors import SettingError
from fedkd.knowledge import SideRelease
from fedkd.privacy.claims import ADVERSARIES, Adversary, Claim, Layer, Unit
from fedkd.privacy.composition import Accountant, epsilon_of
from fedkd.privacy.events import (
    DpSgdSteps,
    Event,
    GaussianRows,
    NoClaim,
    NoisyVotes,
    event_values,
    from_dict,
)
from fedkd.privacy.gaussian_dp import check_delta

LAYERS: tuple[Layer, ...] = ("model", "upload", "teacher")

DATA_DEPENDENT = (
    "the epsilon was computed from the votes, so it is private itself: only the server may know it"
)
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Spending:
    """One event, with the unit it hides, its layer, and who sees its outcome."""

    event: Event
    unit: Unit
    layer: Layer
    seen_by: tuple[Adversary, ...] = ADVERSARIES
    declared_by: str = ""
    """The mechanism of one's own on whose word this is; empty where fedkd reviewed it."""

    def to_dict(self) -> dict[str, Any]:
        """Return the spending as numbers, text and lists, for a file or a message."""
        return {
            "unit": self.unit,
            "layer": self.layer,
            "seen_by": list(self.seen_by),
            "event": event_values(self.event),
            **({"declared_by": self.declared_by} if self.declared_by else {}),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Spending":
        """Return what ``to_dict`` wrote; SettingError where it is nothing of the kind."""
        try:
            unit, layer, seen_by = content["unit"], content["layer"], tuple(content["seen_by"])
            event = from_dict(content["event"])
            declared_by = str(content.get("declared_by", ""))
            known = (
                unit in ("record", "client")
                and layer in (*LAYERS, "side_release")
                and set(seen_by) <= set(ADVERSARIES)
                and len(set(seen_by)) == len(seen_by)
            )
        except (KeyError, TypeError) as error:
            raise SettingError(f"a privacy event cannot be read: {error!r}") from error
        if not known:
            raise SettingError(
                f"a privacy event has unit={unit!r}, layer={layer!r}, seen_by={list(seen_by)!r}"
            )
        return cls(event=event, unit=unit, layer=layer, seen_by=seen_by, declared_by=declared_by)


def side_spending(release: SideRelease) -> Spending:
    """Return what a release with Gaussian noise beside a client's knowledge costs each record."""
    event = GaussianRows(rows=1, sensitivity=release.sensitivity, sigma=release.sigma)
    return Spending(event=event, unit="record", layer="side_release")


class Ledger:
    """All spendings of a run, by client; those of the server concern every client."""

    def __init__(self) -> None:
        self._counts: dict[int | None, dict[Spending, int]] = {}

    def record(self, client: int | None, spending: Spending, most: int | None = None) -> None:
        """Add what happened to a client's data, or (None) to everybody's at the server.

        Nothing is ever taken back.

        ``most`` is how often the smallest event of this kind can have happened to it in all, where
        that is known.
        """
        event, times = spending.event.split()
        single = replace(spending, event=event)
        own = self._counts.setdefault(client, {})
        before = own.get(single, 0)
        own[single] = before + times if most is None else max(before, min(before + times, most))

    def record_cumulative(self, client: int, layer: Layer, spendings: Sequence[Spending]) -> None:
        """Take a client's statement of all that it ever spent in a layer.

        The layer is its model's or its uploads'.

        Never less: an older statement that comes late changes nothing. What was sent in replies
        that were lost is in the next one.
        """
        stated: dict[Spending, int] = {}
        for spending in spendings:
            event, times = spending.event.split()
            single = replace(spending, event=event, layer=layer)
            stated[single] = stated.get(single, 0) + times
        own = self._counts.setdefault(client, {}) if stated else {}
        for single, times in stated.items():
            own[single] = max(times, own.get(single, 0))

    def kinds_with(self, client: int, spendings: Iterable[Spending]) -> int:
        """Return how many different spendings of a client there would be with these."""
        kinds = {replace(s, event=s.event.split()[0]) for s in spendings}
        return len(kinds | self._counts.get(client, {}).keys())

    @property
    def clients(self) -> tuple[int, ...]:
        """The clients of whom something was recorded."""
        return tuple(sorted(client for client in self._counts if client is not None))

    def claim(
        self,
        unit: Unit,
        adversary: Adversary,
        delta: float,
        *,
        client: int | None = None,
        accountant: Accountant = "auto",
    ) -> Claim:
        """Return the claim for a client, or for the system.

        The system's is the largest epsilon, with all rates of sampling.

        Nothing is claimed where nothing was recorded for this adversary, nor where a look was not
        protected.

        Args:
            unit: What is hidden, a record or a client.
            adversary: From whom.
            delta: Probability beyond epsilon.
            client: The client; None for the system.
            accountant: What counts.
        """
        check_delta(delta)
        if client is not None or not self.clients:
            return self._claim_of(client, unit, adversary, delta, accountant)
        claims = list(self._by_client(unit, adversary, delta, accountant).values())
        worst = next((c for c in claims if c.epsilon is None), None) or max(
            claims, key=lambda c: c.epsilon or 0.0
        )
        everybody = [
            pair
            for own in self._counts.values()
            for pair in own.items()
            if adversary in pair[0].seen_by
        ]
        return replace(worst, client=None, sampling=worst.sampling and _sampling(everybody))

    def epsilons(self, unit: Unit, adversary: Adversary, delta: float) -> dict[int, float | None]:
        """Return each client's epsilon so far; None where nothing may be claimed for it."""
        return {
            client: claim.epsilon
            for client, claim in self._by_client(unit, adversary, delta, "auto").items()
        }

    def state(self) -> dict[str, Any]:
        """Return the whole ledger as numbers, text and lists."""
        entries = [
            {"client": client, "times": n, **s.to_dict()}
            for client, own in self._counts.items()
            for s, n in own.items()
        ]
        return {"version": VERSION, "entries": entries}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the ledger that ``state`` describes.

        SettingError, and no change, where it describes none.
        """
        if state.get("version") != VERSION:
            raise SettingError(
                f"a privacy ledger of version {VERSION} was expected, got {state.get('version')!r}"
            )
        counts: dict[int | None, dict[Spending, int]] = {}
        for entry in state["entries"]:
            counts.setdefault(entry["client"], {})[Spending.from_dict(entry)] = entry["times"]
        self._counts = counts

    def _by_client(
        self, unit: Unit, adversary: Adversary, delta: float, accountant: Accountant
    ) -> dict[int, Claim]:
        """Return the claims of all clients, each different one computed once."""
        known: dict[frozenset[tuple[Spending, int]], Claim] = {}
        claims = {}
        for client in self.clients:
            spent = frozenset(self._counts[client].items())
            if spent not in known:
                known[spent] = self._claim_of(client, unit, adversary, delta, accountant)
            claims[client] = replace(known[spent], client=client)
        return claims

    def _claim_of(
        self,
        client: int | None,
        unit: Unit,
        adversary: Adversary,
        delta: float,
        accountant: Accountant,
    ) -> Claim:
        seen = [
            (spending, times)
            for owner in dict.fromkeys((None, client))
            for spending, times in self._counts.get(owner, {}).items()
            if adversary in spending.seen_by
        ]
        side = [(s, n) for s, n in seen if s.layer == "side_release"]
        found: list[Claim] = []
        reasons: list[str] = []
        for layer in LAYERS:
            own = [(s, n) for s, n in seen if s.layer == layer]
            if not own:
                continue
            spent = [*own, *side]
            missing = _missing(spent, unit)
            reasons += missing
            if missing:
                continue
            epsilon, name = epsilon_of([(s.event, n) for s, n in spent], delta, accountant)
            found.append(
                Claim(
                    unit=unit,
                    adversary=adversary,
                    delta=delta,
                    client=client,
                    epsilon=epsilon,
                    neighbors=_neighbors(spent),
                    sampling=_sampling(spent),
                    accountant=name,
                    layer=layer,
                    caveats=_caveats(spent, name),
                )
            )
        if found:
            return min(found, key=lambda c: c.epsilon or 0.0)
        reasons = reasons or _missing(side, unit) or ["no protected release was recorded for it"]
        reason = "; ".join(dict.fromkeys(reasons))
        return Claim(unit=unit, adversary=adversary, delta=delta, client=client, reason=reason)


Spent = list[tuple[Spending, int]]


def _missing(spent: Spent, unit: Unit) -> list[str]:
    """Return why these spendings together give no claim for ``unit``."""
    reasons = [s.event.reason for s, _ in spent if isinstance(s.event, NoClaim)]
    if unit == "client" and any(
        s.unit == "record" for s, _ in spent if not isinstance(s.event, NoClaim)
    ):
        reasons.append("what protects single records does not hide a whole client")
    return reasons


def _neighbors(spent: Spent) -> str:
    return "zero-out" if any(s.event.neighbors == "zero-out" for s, _ in spent) else "replace-one"


def _sampling(spent: Spent) -> str:
    """Return the rate at which records are sampled, or between which rates of clients it lies."""
    steps = [s.event for s, _ in spent if isinstance(s.event, DpSgdSteps)]
    if not steps:
        return "no sampling"
    rates, group = [event.sample_rate for event in steps], max(event.group for event in steps)
    shown = " to ".join(f"{q:g}" for q in sorted({min(rates), max(rates)}))
    if group == 1:
        return f"Poisson samples of records (q = {shown})"
    return f"Poisson samples of examples, up to {group} of a record (q = {shown})"


def _caveats(spent: Spent, accountant: str) -> tuple[str, ...]:
    votes = any(isinstance(s.event, NoisyVotes) for s, _ in spent)
    authors = sorted({s.declared_by for s, _ in spent if s.declared_by})
    return (
        *([DATA_DEPENDENT] if votes and accountant == "rdp" else []),
        *(f"as {author} declares; not reviewed by fedkd" for author in authors),
    )
