"""A run's privacy mechanism at work, and the events that tell the ledger what was spent.

The hooks are the mechanism's own (``fedkd.privacy.mechanisms.mechanism``); here they get the run's
plan and streams, and what they state is vouched for (``fedkd.privacy.vouching``). Not for: what an
event costs (``fedkd.privacy.composition``), nor when a client is asked.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from fedkd.knowledge import SideRelease
from fedkd.messages import (
    AcceptedUploads,
    Fusion,
    Knowledge,
    Predictions,
    PrivacyEvent,
    StrategyState,
)
from fedkd.privacy.claims import Adversary
from fedkd.privacy.detection import Hints
from fedkd.privacy.events import NoClaim
from fedkd.privacy.ledger import Spending, side_spending
from fedkd.privacy.mechanisms.mechanism import (
    ClientRound,
    Mechanism,
    Memory,
    TrainingLoop,
    overrides,
    unprotected_upload,
)
from fedkd.privacy.noise_streams import ScaledNoise
from fedkd.privacy.release_plan import ReleasePlan
from fedkd.privacy.stated_spendings import single
from fedkd.privacy.unprotected import Unprotected
from fedkd.privacy.vouching import basis_of, protected_from, undeclared, vouched
from fedkd.runtime.seeding import numpy_stream
from fedkd.strategy import Strategy

SPENT = "its privacy budget is spent"

NO_PLAN = ReleasePlan(
    clients=1, rounds=1, rows=1, public_size=1, classes=2, scale="probs", records=1
)
"""A plan where there is no run to plan: an unprotected one reads nothing of it."""


def no_side_release(records: int) -> SideRelease | None:
    """Return None: nothing leaves beside a client's knowledge."""
    return None


@dataclass(frozen=True, kw_only=True)
class PrivacyEnforcer:
    """The privacy mechanism of one run; by default none."""

    name: str = "none"
    mechanism: Mechanism = field(default_factory=Unprotected)
    plan: ReleasePlan = NO_PLAN
    seed: int
    noise_factor: float = 1.0
    """By which all noise is multiplied; another than 1 in audits alone."""

    side_release: Callable[[int], SideRelease | None] = no_side_release
    """What leaves a client of so many records once beside its knowledge."""

    def side_spending(self, records: int) -> Spending | None:
        """Return the cost of what leaves a client of so many records once; None for nothing."""
        found = self.side_release(records)
        return None if found is None else side_spending(found)

    @property
    def protects_from(self) -> tuple[Adversary, ...]:
        """From whom a claim hides; nobody where there is none."""
        return protected_from(self.mechanism)

    @property
    def claims(self) -> bool:
        """Whether the mechanism claims to hide anything from anybody."""
        return bool(self.protects_from)

    @property
    def central(self) -> Mechanism | None:
        """The mechanism of a trusted server, where there is one."""
        return self.mechanism if overrides(self.mechanism, "protect_fusion") else None

    @property
    def joins_training(self) -> bool:
        """Whether the mechanism acts in clients' training, so that they train one by one."""
        return self.mechanism.joins_training(self.plan)

    def client_round(
        self, client_id: int, round_number: int, records: int, memory: Memory
    ) -> ClientRound:
        """Return one client's part of one round, as the hooks take it.

        Args:
            client_id: The client.
            round_number: The round, from 1.
            records: Public size of its private set.
            memory: What the mechanism remembers of it.
        """
        return ClientRound(
            plan=self.plan,
            seed=self.seed,
            client_id=client_id,
            round_number=round_number,
            records=records,
            memory=memory,
            noise_factor=self.noise_factor,
        )

    def train(
        self, loop: TrainingLoop, turn: ClientRound, remember: Callable[[Memory], None]
    ) -> float | None:
        """Run a client's private training as the mechanism does it; return its mean loss."""
        return self.mechanism.train_privately(loop, turn, remember)

    def suspicion(
        self, knowledge: Knowledge, memory: Memory, hints: Hints
    ) -> Float[Tensor, "N"] | None:
        """Return how private each row looks, in [0, 1]; None without a detector."""
        if self.mechanism.detector is None:
            return None
        assert isinstance(knowledge, Predictions), "checked before the run"
        return self.mechanism.suspicion(knowledge, memory, hints)

    def protect(
        self,
        knowledge: Knowledge,
        turn: ClientRound,
        scores: Float[Tensor, "N"] | None = None,
    ) -> tuple[Knowledge, PrivacyEvent, Memory]:
        """Return what may leave a client, the event that states its cost, and the new memory."""
        found = self.mechanism.protect_upload(knowledge, turn, scores)
        spent: Sequence[Spending] = found.spent
        if basis_of(self.mechanism) == "none":
            spent = (*spent, *self.mechanism.spendings((undeclared(self.mechanism),)))
        return found.knowledge, self.event(vouched(self.mechanism, spent)), found.memory

    def worst_case_spending(self, rows: int, size: int) -> tuple[tuple[Spending, int], ...]:
        """Return what may have been spent on a client from which no answer came in a round.

        It has ``size`` records and was asked for so many ``rows``. With each spending comes how
        often its smallest event happens at most in the client's whole run. Nothing is counted of
        uploads that are not protected.
        """
        if not self.claims:
            return ()
        found = self.mechanism.worst_case_spending(self.plan, rows, size)
        spent = vouched(self.mechanism, (spending for spending, _ in found))
        return tuple(zip(spent, (most for _, most in found), strict=True))

    def possible_spendings(
        self, worst: Iterable[tuple[Spending, int]]
    ) -> Mapping[Spending, int] | None:
        """Return what a client may state, by the smallest spendings; None where it is unknown.

        It is unknown of mechanisms of one's own. ``worst`` is the client's worst case in a round.
        """
        if basis_of(self.mechanism) != "reviewed":
            return None
        planned = self.mechanism.planned(self.plan)
        unclaimed = [s for s in planned if isinstance(s.event, NoClaim)]
        return {
            **{single(spending)[0]: most for spending, most in worst},
            **dict.fromkeys((*unclaimed, unprotected_upload()), 1),
        }

    def event(self, spent: Sequence[Spending]) -> PrivacyEvent:
        """Return the event of a release with these spendings."""
        reasons = [s.event.reason for s in spent if isinstance(s.event, NoClaim)]
        return PrivacyEvent(
            mechanism=self.name,
            claims=self.claims,
            reason="; ".join(dict.fromkeys(reasons)),
            spent=tuple(json.dumps(spending.to_dict()) for spending in spent),
        )

    def fuse(
        self, strategy: Strategy, cohort: AcceptedUploads, state: StrategyState, asked: int
    ) -> tuple[Fusion, tuple[Spending, ...]]:
        """Return what a trusted server gives back with its cost, else the strategy's own fusion.

        What a trusted server gives back depends on how many clients were asked, and not on whose
        uploads are usable, which depends on private data.

        Args:
            strategy: The run's strategy.
            cohort: The usable uploads, as the strategy's ``fuse`` takes them.
            state: The strategy's state.
            asked: How many clients were asked, at least those of the cohort.
        """
        if self.central is None:
            return strategy.fuse(cohort, state), ()
        stream = numpy_stream(self.seed, "round", cohort.round, "server noise")
        if self.noise_factor != 1:
            stream = ScaledNoise(stream, self.noise_factor)
        fusion, spent = self.mechanism.protect_fusion(
            strategy, cohort, state, asked, self.plan, stream
        )
        return fusion, vouched(self.mechanism, spent)
