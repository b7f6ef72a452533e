"""What a run may say: an epsilon with everything that it means, or none with the reason."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Unit = Literal["record", "client"]
"""Whose presence is hidden: one record of one client, or all that a client has."""
Adversary = Literal["server", "clients", "outsiders"]
"""Who looks: the server, other clients, or outsiders, who learn what clients are sent."""
Layer = Literal["model", "upload", "teacher", "side_release"]
"""What is protected: the model in its training, what leaves a client, what a server gives back, or
anything else that leaves."""
ADVERSARIES: tuple[Adversary, ...] = ("server", "clients", "outsiders")
IN_WORDS = {"server": "the server", "clients": "other clients", "outsiders": "outsiders"}

SIMULATED = "noise is drawn from seeded streams: this simulates privacy, it protects nobody"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An epsilon at ``delta`` with its unit, adversary and accountant, or none.

    ``epsilon`` None claims nothing.

    ``client`` is None for the system: the largest of all clients' epsilons, since their data is
    disjoint. ``reason`` says why there is no epsilon; ``caveats`` what else must be said with one.
    """

    unit: Unit
    adversary: Adversary
    delta: float
    client: int | None = None
    epsilon: float | None = None
    neighbors: str = ""
    sampling: str = ""
    accountant: str = ""
    layer: Layer | Literal[""] = ""
    """What the epsilon was spent on; empty without one. Of a protected model it also holds for who
    has the model itself."""
    reason: str = ""
    caveats: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the claim as one line for a report.

        >>> claim = Claim(unit="record", adversary="server", delta=1e-5, reason="raw predictions")
        >>> print(claim.text())
        no record-level claim against the server: raw predictions
        """
        return self._against(IN_WORDS[self.adversary])

    def _against(self, who: str) -> str:
        whose = "" if self.client is None else f" for client {self.client}"
        if self.epsilon is None:
            return f"no {self.unit}-level claim{whose} against {who}: {self.reason}"
        meaning = f"{self.neighbors} neighbors, {self.sampling}, accountant {self.accountant}"
        notes = "".join(f"; {caveat}" for caveat in (*self.caveats, SIMULATED))
        return (
            f"{self.unit}-level epsilon {rounded_up(self.epsilon)} at delta {self.delta:g}{whose}"
            f" against {who}"
            f" ({meaning}){notes}"
        )


def claim_lines(claims: Iterable[Claim]) -> list[str]:
    """Return claims for a report, a line each.

    Those that claim nothing for the same reason share one.

    >>> claims = [Claim(unit="record", adversary=a, delta=1e-5, reason="none") for a in ADVERSARIES]
    >>> claim_lines(claims)
    ['no record-level claim against the server, other clients or outsiders: none']
    """
    alike: dict[Claim, list[str]] = {}
    for claim in claims:
        key = claim if claim.epsilon is not None else replace(claim, adversary="server")
        alike.setdefault(key, []).append(IN_WORDS[claim.adversary])
    return [
        claim._against(" or ".join(filter(None, (", ".join(who[:-1]), who[-1]))))
        for claim, who in alike.items()
    ]


def rounded_up(epsilon: float) -> str:
    """Return an epsilon with four digits, never below what it is.

    >>> rounded_up(4.37712), rounded_up(8.0), rounded_up(20.501)
    ('4.378', '8', '20.51')
    """
    if epsilon == 0 or not math.isfinite(epsilon):
        return f"{epsilon:g}"
    digits = 3 - math.floor(math.log10(epsilon))
    shown = round(epsilon, digits)
    return f"{shown if shown >= epsilon else round(shown + 10.0**-digits, digits):.4g}"
