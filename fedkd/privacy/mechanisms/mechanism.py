"""The seam of a privacy mechanism: settings, what it promises, and hooks that do nothing.

A mechanism of one's own is one file with a class derived from ``Mechanism``, or from
``fedkd.privacy.mechanisms.client_noise.ClientNoise``; ``privacy=module:Class`` runs it. What it
claims is checked in ``fedkd.privacy.vouching``. Not for: what an event costs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.messages import AcceptedUploads, Fusion, Knowledge, Predictions, StrategyState
from fedkd.privacy.claims import ADVERSARIES, Adversary, Layer, Unit
from fedkd.privacy.composition import Accountant
from fedkd.privacy.detection import Detector, Hints
from fedkd.privacy.events import Event, NoClaim
from fedkd.privacy.ledger import Spending
from fedkd.privacy.noise_streams import ScaledNoise
from fedkd.privacy.release_plan import ReleasePlan
from fedkd.runtime.seeding import numpy_stream
from fedkd.settings.conditions import Compatible, RunConditions
from fedkd.strategy import Strategy
from fedkd.training.hyperparameters import Phase
from fedkd.training.loop import optimize
from fedkd.training.optimizers import Optimizer
from fedkd.training.schedules import RoundOfRun

SEES_TEACHERS: tuple[Adversary, ...] = ("clients", "outsiders")
RAW_AT_SERVER = "the server sees each client's raw predictions; the noise comes after it"

DERIVED: Mapping[str, str] = {
    "sensitivity": "it is derived from what is released (scale and clip_norm), never given"
}
CHOSEN_BLINDLY = (
    "the public set, the models and all settings were chosen without a look at private data"
)
TRUSTED_SERVER = (
    "the server is trusted: it sees every raw prediction",
    "which clients are asked in a round does not depend on their data",
    CHOSEN_BLINDLY,
)
OUTSIDE = ("the size of each client's private set, and when it takes part: both are public",)
OUTSIDE_SERVER = (
    "the size of each client's private set, and when it is asked: both are public",
    "statuses and fusion weights that are recorded for the researcher: a real server keeps them",
    "traffic: a client that was rejected, failed or late is not sent the round's teacher",
    "that a run ends where fewer than min_clients answer",
)

Memory = Mapping[str, Tensor]
"""What a mechanism remembers of one client, as named tensors that are stored with its state."""


@dataclass(frozen=True, kw_only=True)
class ClientRound:
    """One client's part of one round, as its mechanism sees it."""

    plan: ReleasePlan
    seed: int
    client_id: int
    round_number: int
    records: int
    """Public size of the client's private set."""
    memory: Memory
    noise_factor: float = 1.0
    """By which all noise is multiplied; another than 1 in audits alone."""

    def stream(self, purpose: str) -> np.random.Generator:
        """Return the random stream of this client, round and purpose."""
        stream = numpy_stream(
            self.seed, "client", self.client_id, "round", self.round_number, purpose
        )
        return stream if self.noise_factor == 1 else ScaledNoise(stream, self.noise_factor)


@dataclass(frozen=True, kw_only=True)
class TrainingLoop:
    """A client's private training in one round, ready to run."""

    model: nn.Module
    size: int
    """Examples that the client trains on."""
    batch_loss: Callable[[Int[Tensor, "batch"]], Float[Tensor, ""]]
    """Maps indices below ``size`` to the mean loss of those examples."""
    phase: Phase
    epochs: int | None
    """Passes over the examples; None is as the phase has it."""
    optimizer: Optimizer
    batches: np.random.Generator
    check_interrupt: Callable[[], None]
    """To be called before every step; may raise."""
    at: RoundOfRun | None = None
    """The round, which the learning rate depends on; None leaves it constant."""
    batches_on: torch.device | None = None
    """Where ``batch_loss`` takes the indices of a batch; None is the model's device."""

    def before_step(self, stepped: torch.optim.Optimizer, step: int, steps: int) -> None:
        """Prepare a step of PyTorch's optimizer: its learning rate; it may raise, which ends all.

        Args:
            stepped: The optimizer.
            step: Which of the round's steps it is, from 0.
            steps: How many the round has.
        """
        self.check_interrupt()
        if self.at is not None and self.phase.schedule != "constant":
            rate = self.at.learning_rate(self.phase, step, steps)
            factors = [factor for _, factor in self.optimizer.groups]
            for group, factor in zip(stepped.param_groups, factors, strict=True):
                group["lr"] = rate * factor

    def run(self) -> float | None:
        """Train without protection; return the mean loss over the last epoch, if there was one."""
        return optimize(
            self.model,
            self.size,
            self.batch_loss,
            self.phase,
            self.batches,
            epochs=self.epochs,
            optimizer=self.optimizer,
            at=self.at,
            check_interrupt=self.check_interrupt,
            batches_on=self.batches_on,
        )


class Protected(NamedTuple):
    """What may leave a client, what that cost, and what the mechanism remembers from now on."""

    knowledge: Knowledge
    spent: tuple[Spending, ...]
    memory: Memory


@dataclass(frozen=True, kw_only=True)
class Mechanism(Compatible):
    """A way to protect what travels, with its settings as fields.

    Each hook does nothing by default. A claim needs ``protects_from``, and an answer of the class
    itself to ``events``, ``sensitivity`` or ``planned``: a subclass inherits no claim.
    """

    unit: ClassVar[Unit] = "record"
    """Whose data is hidden."""
    hides_single_records: ClassVar[bool] = False
    """Whether a training example must hold one record's data alone, since each is hidden by its
    own: texts are then not packed behind one another."""
    neighbors: ClassVar[str] = "none"
    """Which two data sets cannot be told apart, in words."""
    protects_from: ClassVar[tuple[Adversary, ...]] = ()
    """From whom the claim hides; nobody where there is none."""
    layer: ClassVar[Layer] = "upload"
    """What is protected: the model's training, uploads, or teachers."""
    refuses: ClassVar[Mapping[str, str]] = {}
    """Settings that do not exist, mapped to the reason shown when one is given."""
    assumptions: ClassVar[tuple[str, ...]] = ()
    outside: ClassVar[tuple[str, ...]] = ()
    """What leaves a client, or is written down, and is not covered by the claim."""
    no_claim_reason: ClassVar[str] = ""
    """Why nothing is said of privacy but that; empty where the ledger answers."""
    survives_failure: ClassVar[frozenset[str]] = frozenset()
    """Names in the memory that are stored even where the client's part of a round fails."""

    # Settings that a mechanism may have. A field of the same name takes the property's place.

    @property
    def delta(self) -> float:
        """Probability beyond epsilon at which claims are made."""
        return 1e-5

    @property
    def accountant(self) -> Accountant:
        """What counts the finished run."""
        return "auto"

    @property
    def memoize(self) -> bool:
        """Whether a public sample that is asked about again gets the same answer."""
        return False

    @property
    def detector(self) -> Detector | None:
        """How rows that look private are found, where the mechanism looks for them."""
        return None

    @property
    def is_unlimited(self) -> bool:
        """Whether the settings ask for no protection at all."""
        return False

    @property
    def trusts_server(self) -> bool:
        """Whether data is hidden from others, and not from the server."""
        hides = bool(self.protects_from) and not self.is_unlimited
        return hides and "server" not in self.protects_from

    # Before the run.

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return why the mechanism cannot be part of such a run, and the cure; None if it can."""
        chosen, name = conditions.name_of("privacy"), conditions.strategy
        if conditions.is_private_baseline:
            return None
        if not conditions.exchanges:
            return f"privacy={chosen} would do nothing: strategy={name} exchanges nothing"
        if self.is_unlimited:
            return None
        if self.protects_from and conditions.label_counts:
            return (
                f"privacy={chosen} with strategy={name}: the strategy discloses each client's label"
                " counts, so that no claim holds"
            )
        found = self.uncovered(conditions)
        if found is None and overrides(self, "train_privately") and conditions.has_companion:
            found = (
                f"privacy={chosen} protects the training of one model, and clients of"
                f" strategy={name} train a second one with it; use another strategy"
            )
        if found is None and overrides(self, "train_privately"):
            found = conditions.conflict_with_estimators(
                f"privacy={chosen} protects the gradients of private training",
                "use a mechanism that protects uploads, or networks for all clients",
            )
        answers_choose = conditions.public_sampling != "random" and not self.trusts_server
        if found is None and self.protects_from and answers_choose:
            return (
                f"privacy={chosen}: how often a sample is asked about would depend on answers;"
                " leave public.sampling out"
            )
        return found

    def uncovered(self, conditions: RunConditions) -> str | None:
        """Return what of such a run the mechanism cannot cover, and the cure; None by default."""
        return None

    def check_model(
        self,
        name: str,
        model: nn.Module,
        inputs: Tensor,
        logits: Callable[[Tensor], Float[Tensor, "n *rows outputs"]],
    ) -> None:
        """Raise SettingError where a model cannot be trained privately.

        Args:
            name: The architecture, for the message.
            model: A model of it.
            inputs: A few random inputs.
            logits: Maps inputs to what the training's loss is made of.
        """

    def check(self, plan: ReleasePlan) -> None:
        """Raise SettingError where the settings do not fit the run."""

    def events(self, plan: ReleasePlan, rows: int) -> tuple[Event, ...]:
        """Return what a release of ``rows`` new rows costs; nothing by default."""
        return ()

    def planned(self, plan: ReleasePlan) -> tuple[Spending, ...]:
        """Return what the whole run costs a client at most."""
        return self.spendings(self.events(plan, plan.released(memoize=self.memoize)))

    def noise_in(self, plan: ReleasePlan) -> tuple[float | None, str]:
        """Return the noise's standard deviation, if there is one, and what it is of in words."""
        return None, f"as {type(self).__name__} adds it"

    def assumed(self, plan: ReleasePlan) -> tuple[str, ...]:
        """Return what a claim for such a run rests on; ``assumptions`` by default."""
        return self.assumptions

    def warnings(self, plan: ReleasePlan) -> tuple[str, ...]:
        """Return warnings to be shown before the run."""
        return ()

    def reason_against_rounds(self, before: ReleasePlan, now: ReleasePlan) -> str | None:
        """Return why a run planned as ``before`` cannot go on with more rounds; None if it can.

        By default a budget is a reason, and so is a cost or noise that the plans differ in. A class
        of one's own must say itself that there is none.
        """
        budget = getattr(self, "epsilon", None)
        if budget is not None:
            return (
                f"its noise was solved for epsilon={budget:g} over {before.rounds} rounds, and more"
                " of them would cost more"
            )
        if not type(self).__module__.startswith("fedkd."):
            return (
                f"{type(self).__name__} does not say that its noise is the same for any number of"
                " rounds (its method reason_against_rounds, docs/extending.md)"
            )
        if (self.events(before, before.rows), self.noise_in(before)) != (
            self.events(now, now.rows),
            self.noise_in(now),
        ):
            return f"its noise was chosen for {before.rounds} rounds"
        return None

    # At a client.

    def joins_training(self, plan: ReleasePlan) -> bool:
        """Return whether clients must be trained one by one, since a hook acts in training."""
        hooks = ("covers_round", "train_privately", "after_teaching")
        return any(overrides(self, hook) for hook in hooks)

    def covers_round(self, turn: ClientRound) -> bool:
        """Return whether the client's budget covers one round more; it is absent if not."""
        return True

    def train_privately(
        self, loop: TrainingLoop, turn: ClientRound, remember: Callable[[Memory], None]
    ) -> float | None:
        """Run a client's private training; return its mean loss.

        ``remember`` takes the memory from now on, also where the training then raises.
        """
        return loop.run()

    def after_teaching(self, teacher: Predictions, turn: ClientRound) -> Memory:
        """Return what is remembered once a client gets a teacher."""
        return turn.memory

    def suspicion(
        self, knowledge: Predictions, memory: Memory, hints: Hints
    ) -> Float[Tensor, "N"] | None:
        """Return how private each row looks, in [0, 1]; None without a ``detector``."""
        return None

    def protect_upload(
        self, knowledge: Knowledge, turn: ClientRound, scores: Float[Tensor, "N"] | None
    ) -> Protected:
        """Return what may leave a client, what that cost, and what is remembered.

        ``scores`` are those of ``suspicion``. By default everything leaves as it is.
        """
        return Protected(knowledge, (), turn.memory)

    def worst_case_spending(
        self, plan: ReleasePlan, rows: int, records: int
    ) -> tuple[tuple[Spending, int], ...]:
        """Return what may have been spent on a client from which no answer came in a round.

        With each spending comes how often its smallest event happens at most in the whole run.
        Without ``events`` all that the run may cost counts as spent.

        Args:
            plan: The run's releases.
            rows: Public samples that the client was asked about.
            records: Public size of its private set.
        """
        if not self.protects_from:
            return ()
        planned = self.planned(plan)
        most = {(s.event.split()[0], s.layer): s.event.split()[1] for s in planned}
        spent = self.spendings(self.events(plan, rows)) or planned
        return tuple(
            (s, most.get((s.event.split()[0], s.layer), s.event.split()[1])) for s in spent
        )

    # At a trusted server.

    def protect_fusion(
        self,
        strategy: Strategy,
        cohort: AcceptedUploads,
        state: StrategyState,
        asked: int,
        plan: ReleasePlan,
        stream: np.random.Generator,
    ) -> tuple[Fusion, tuple[Spending, ...]]:
        """Return what a server that all trust gives back, and what that cost every client.

        Args:
            strategy: The run's strategy.
            cohort: The usable uploads, as the strategy's ``fuse`` takes them.
            state: The strategy's state.
            asked: How many clients were asked; which uploads are usable depends on private data.
            plan: The run's releases.
            stream: The server's random stream of this round.
        """
        return strategy.fuse(cohort, state), ()

    def spendings(self, events: Sequence[Event]) -> tuple[Spending, ...]:
        """Return events with this mechanism's unit and layer, and who sees their outcome."""
        seen_by = SEES_TEACHERS if self.layer == "teacher" else ADVERSARIES
        return tuple(
            Spending(event=event, unit=self.unit, layer=self.layer, seen_by=seen_by)
            for event in events
        )


def overrides(mechanism: Mechanism, hook: str) -> bool:
    """Return whether a mechanism has a hook of its own."""
    return getattr(type(mechanism), hook) is not getattr(Mechanism, hook)


def unprotected_upload() -> Spending:
    """Return the record of an upload that a trusted server sees raw."""
    return Spending(
        event=NoClaim(reason=RAW_AT_SERVER), unit="record", layer="upload", seen_by=("server",)
    )


def conflict_without_predictions(conditions: RunConditions) -> str | None:
    """Return the conflict of a mechanism for predictions with a strategy that sends others."""
    if conditions.predicts:
        return None
    chosen = conditions.name_of("privacy")
    covered = conditions.reveals_model_only and not conditions.has_companion
    cure = "use dp_sgd" if covered else "use a strategy whose clients predict, such as dsfl"
    return (
        f"privacy={chosen} with strategy={conditions.strategy}: {chosen} protects predictions on a"
        f" public set, and the strategy sends something else; {cure}"
    )


def conflict_with_queries(conditions: RunConditions) -> str | None:
    """Return the conflict of noise at the client with queries that depend on earlier answers."""
    if not conditions.selects_queries:
        return None
    return (
        f"privacy={conditions.name_of('privacy')} with strategy={conditions.strategy}: which"
        " samples are asked about changes from round to round; use dp_sgd or another"
    )
