"""No protection: knowledge leaves as it is, and nothing is claimed."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from fedkd.messages import Knowledge
from fedkd.privacy.events import NoClaim
from fedkd.privacy.ledger import Spending
from fedkd.privacy.mechanisms.mechanism import ClientRound, Mechanism, Protected
from fedkd.privacy.release_plan import ReleasePlan
from fedkd.settings.conditions import RunConditions


@dataclass(frozen=True, kw_only=True)
class Unprotected(Mechanism):
    """Upload raw predictions. No guarantee is given, against anyone."""

    no_claim_reason: ClassVar[str] = (
        "raw predictions are uploaded; no epsilon is claimed against any adversary"
    )

    def conflict(self, conditions: RunConditions) -> None:
        """Accept any run."""

    def planned(self, plan: ReleasePlan) -> tuple[Spending, ...]:
        """Return that nothing is claimed, and why."""
        return self.spendings((NoClaim(reason=self.no_claim_reason),))

    def protect_upload(
        self, knowledge: Knowledge, turn: ClientRound, scores: Float[Tensor, "N"] | None
    ) -> Protected:
        """Return the upload as it is, and that nothing is claimed for it."""
        return Protected(knowledge, self.planned(turn.plan), turn.memory)


@dataclass(frozen=True, kw_only=True)
class Unlimited(Unprotected):
    """Stand in for a mechanism whose budget is infinite."""

    no_claim_reason: ClassVar[str] = (
        "privacy.epsilon=inf asks for no protection: raw predictions are uploaded, and no epsilon"
        " is claimed"
    )


@dataclass(frozen=True, kw_only=True)
class NothingLeaves(Unprotected):
    """Stand in where the strategy exchanges nothing."""

    no_claim_reason: ClassVar[str] = "nothing leaves a client"


def nothing_claimed(reason: str) -> dict[str, object]:
    """Return the fields of a claim, all empty, with the reason, for ``summary.json``."""
    fields = ("unit", "neighbors", "adversary", "epsilon", "delta", "sigma", "sampling")
    empty = dict.fromkeys((*fields, "accountant", "layer"))
    return {"mechanism": "none", **empty, "reason": reason}
