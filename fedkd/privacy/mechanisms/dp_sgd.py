"""DP-SGD's settings: how a client trains privately, what that costs, and the noise for a budget.

The training itself is ``fedkd.privacy.private_training``. Whatever is computed from a model that
was trained so (predictions, tables, weights) is covered, without further noise: for records it is
the default.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.messages import Knowledge
from fedkd.privacy.calibration import smallest_below
from fedkd.privacy.claims import ADVERSARIES, Adversary, Layer, Unit, rounded_up
from fedkd.privacy.composition import epsilon_of
from fedkd.privacy.dp_sgd_history import STEPS, history_of, with_history
from fedkd.privacy.events import DpSgdSteps
from fedkd.privacy.gaussian_dp import check_delta
from fedkd.privacy.ledger import Spending
from fedkd.privacy.mechanisms.mechanism import (
    CHOSEN_BLINDLY,
    DERIVED,
    OUTSIDE,
    ClientRound,
    Memory,
    Protected,
    TrainingLoop,
)
from fedkd.privacy.mechanisms.row_noise import Budgeted
from fedkd.privacy.private_training import check_sample_gradients, optimize_privately
from fedkd.privacy.release_plan import ReleasePlan, check_accountant, check_delta_for, check_epsilon
from fedkd.privacy.renyi import least_epsilon
from fedkd.privacy.sampling_schedule import Schedule
from fedkd.settings.conditions import RunConditions
from fedkd.settings.validators import check_choices, positive

WEAK_NOISE = 0.3
"""A noise multiplier below which epsilon is beyond any meaning."""


@dataclass(frozen=True, kw_only=True)
class DpSgd(Budgeted):
    """Train each client's model by DP-SGD (Abadi et al. 2016, arXiv 1607.00133), with Opacus.

    Guarantee: whether one record is in a client's private set is hidden from all who see anything
    made of its model. Neighbors: a record replaced by a null record (zero-out; sizes are public).
    Each sample's gradient is clipped to ``clip_norm``; batches are Poisson samples. A text is a
    record of several samples, its windows, which count together. Steps compose over rounds by RDP
    (Opacus). A client that has no budget left for a round does not train in it. No claim for a
    client as a whole.
    """

    unit: ClassVar[Unit] = "record"
    neighbors: ClassVar[str] = "zero-out"
    protects_from: ClassVar[tuple[Adversary, ...]] = ADVERSARIES
    layer: ClassVar[Layer] = "model"
    hides_single_records: ClassVar[bool] = True
    survives_failure: ClassVar[frozenset[str]] = frozenset({STEPS})
    refuses: ClassVar[Mapping[str, str]] = {
        **DERIVED,
        "sigma": "DP-SGD's noise is noise_multiplier * clip_norm; give noise_multiplier",
    }
    assumptions: ClassVar[tuple[str, ...]] = (
        "all training on private data is DP-SGD; samples are normalized by public ones",
        CHOSEN_BLINDLY,
    )
    outside: ClassVar[tuple[str, ...]] = OUTSIDE

    epsilon: float | None = None
    """Budget of each client's whole run, > 0, from which noise_multiplier is solved; null where
    that is given; inf protects nothing, as privacy=none does."""
    delta: float = 1e-5
    """Probability beyond epsilon, above 0 and below one over the largest private set."""
    noise_multiplier: float | None = None
    """Standard deviation of the noise on a sum of gradients, over clip_norm, > 0; null where
    epsilon is given."""
    clip_norm: float = 1.0
    """L2 norm that a sample's gradient is shortened to, > 0."""
    accountant: Literal["auto", "prv", "pld"] = "auto"
    """What counts the finished run: auto (exact, else RDP), or also Opacus' PRV or PLD (the extra
    fedkd[pld]), slower and about a tenth tighter, for epsilons up to 200. Noise is solved, and
    rounds are counted, by auto."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_delta(self.delta)
        positive(clip_norm=self.clip_norm)
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise SettingError(
                f"give either epsilon or noise_multiplier, got epsilon={self.epsilon},"
                f" noise_multiplier={self.noise_multiplier}"
            )
        check_epsilon(self.epsilon)
        if self.noise_multiplier is not None:
            positive(noise_multiplier=self.noise_multiplier)

    def uncovered(self, conditions: RunConditions) -> str | None:
        """Return the conflict with uploads that tell more of private data than the model does."""
        where = f"privacy={conditions.name_of('privacy')} with strategy={conditions.strategy}"
        if not conditions.reveals_model_only:
            return (
                f"{where}: its clients upload more than their model knows (tables, prototypes or"
                " caches of private samples, a second model, or a choice made by them), or train"
                " with a term that is not of single samples; dp_sgd covers predictions on a public"
                " set, and weights"
            )
        if conditions.pooled_data:
            return f"{where}: it trains on the private sets of all clients"
        return None

    def check_model(
        self,
        name: str,
        model: nn.Module,
        inputs: Tensor,
        logits: Callable[[Tensor], Float[Tensor, "n *rows outputs"]],
    ) -> None:
        """Raise SettingError unless each single sample's gradient is found.

        Args:
            name: The architecture, for the message.
            model: A model of it.
            inputs: A few random inputs.
            logits: Maps inputs to what the training's loss is made of.
        """
        check_sample_gradients(model, inputs, name, logits)

    def check(self, plan: ReleasePlan) -> None:
        """Raise SettingError where the settings do not fit the run."""
        check_delta_for(self.delta, plan.records, "records of the largest private set")
        check_accountant(self.accountant)
        if plan.epochs == 0 and plan.steps is None:
            raise SettingError("dp_sgd would do nothing: train.epochs=0")
        self.noise_in(plan)  # raises where it cannot be solved

    def schedule(self, plan: ReleasePlan, records: int) -> Schedule:
        """Return the schedule of one round for a client of so many records."""
        return Schedule.of(records, plan.batch_size, plan.epochs, steps=plan.steps)

    def noise_multiplier_in(self, schedule: Schedule, rounds: int, group: int) -> float:
        """Return the noise multiplier as given, or as a budget for ``rounds`` needs it.

        Clients with few records have large samples of them, and need more noise, as do records of
        several samples, ``group`` at most. Solved to a thousandth, on the safe side; the answers
        are remembered. SettingError where the budget is below what can be counted.
        """
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        assert self.epsilon is not None, "checked when it was made"
        steps = schedule.steps * rounds
        return _smallest(self.epsilon, self.delta, schedule.sample_rate, steps, group)

    def spent(self, schedule: Schedule, plan: ReleasePlan, steps: int) -> tuple[Spending, ...]:
        """Return what so many steps cost a client whose rounds have this schedule."""
        event = DpSgdSteps(
            noise_multiplier=self.noise_multiplier_in(schedule, plan.rounds, plan.group),
            sample_rate=schedule.sample_rate,
            steps=steps,
            group=plan.group,
        )
        return self.spendings((event,))

    def planned(self, plan: ReleasePlan) -> tuple[Spending, ...]:
        """Return the whole run's cost for the client with the fewest records.

        Its samples are the largest.
        """
        schedule = self.schedule(plan, plan.fewest_records or plan.records)
        return self.spent(schedule, plan, plan.rounds * schedule.steps)

    def noise_in(self, plan: ReleasePlan) -> tuple[float | None, str]:
        """Return the largest noise multiplier of any client, and in words what it is of."""
        schedules = [
            self.schedule(plan, n) for n in (plan.fewest_records or plan.records, plan.records)
        ]
        largest, smallest = (
            self.noise_multiplier_in(schedule, plan.rounds, plan.group) for schedule in schedules
        )
        shown = (
            f"{largest:.4g}"
            if largest == smallest
            else f"{largest:.4g} (fewest records) to {smallest:.4g} (most)"
        )
        return (
            largest,
            f"Gaussian on sums of gradients, of {shown} times clip_norm={self.clip_norm:g}",
        )

    def assumed(self, plan: ReleasePlan) -> tuple[str, ...]:
        """Return what the claim rests on, and what a record is where it is no single sample."""
        assumed = self.assumptions
        if plan.kind_declares:
            assumed += (
                f"uploads depend on private data through the model alone, as {plan.kind_declares}"
                " declares; not reviewed by fedkd",
            )
        if plan.record == "record":
            return assumed
        whose = (
            "by a setting"
            if plan.group_is_bound
            else f"the largest number that any {plan.record} has, which is public"
        )
        return (
            *assumed,
            f"a record is a {plan.record}, whose {plan.examples} hold nothing of another; it has"
            f" {plan.group} of them at most ({whose}), and all are counted together",
        )

    def warnings(self, plan: ReleasePlan) -> tuple[str, ...]:
        """Return what should be said before the run."""
        size = plan.fewest_records or plan.records
        schedule = self.schedule(plan, size)
        sigma = self.noise_multiplier_in(schedule, plan.rounds, plan.group)
        found = []
        everybody = plan.all_records or plan.clients * plan.records
        if self.delta >= 1 / everybody:
            found.append(
                f"delta={self.delta:g} is not below 1/{everybody}, one over the records of all"
                " clients: giving one of"
                " them away would be within the claim"
            )
        if sigma > schedule.expected_batch_size:
            found.append(
                f"the smallest client ({size} records) adds noise of {sigma:.3g} times the clip"
                " norm to sums of"
                f" {schedule.expected_batch_size} gradients: it will learn nothing; take fewer"
                " rounds or epochs, a"
                " larger batch_size or a larger epsilon"
            )
        if sigma < WEAK_NOISE:
            found.append(f"noise_multiplier={sigma:.3g} is so small that epsilon says little")
        return tuple(found)

    def covers_round(self, turn: ClientRound) -> bool:
        """Return whether the budget covers one round more; without a budget it always does."""
        if self.epsilon is None:
            return True
        schedule = self.schedule(turn.plan, turn.records)
        return history_of(turn.memory, turn.plan.group).affords(
            self.noise_multiplier_in(schedule, turn.plan.rounds, turn.plan.group),
            schedule.sample_rate,
            schedule.steps,
            epsilon=self.epsilon,
            delta=self.delta,
        )

    def train_privately(
        self, loop: TrainingLoop, turn: ClientRound, remember: Callable[[Memory], None]
    ) -> float | None:
        """Train by DP-SGD as planned for the public size; a missing record is a null record.

        Steps whose noise was drawn are remembered, also where the training then fails.
        """
        plan, schedule = turn.plan, self.schedule(turn.plan, turn.records)
        history = history_of(turn.memory, plan.group)
        stepped = loop.optimizer.as_torch()
        try:
            return optimize_privately(
                loop.model,
                loop.size,
                loop.batch_loss,
                stepped,
                schedule,
                noise_multiplier=self.noise_multiplier_in(schedule, plan.rounds, plan.group),
                clip_norm=self.clip_norm,
                batches=loop.batches,
                noise=turn.stream("train privacy noise"),
                history=history,
                before_step=lambda step: loop.before_step(stepped, step, schedule.steps),
            )
        finally:
            loop.optimizer.take(stepped)
            remember(with_history(turn.memory, history))

    def protect_upload(
        self, knowledge: Knowledge, turn: ClientRound, scores: Float[Tensor, "N"] | None
    ) -> Protected:
        """Return the upload as it is, and all steps of the client's training so far."""
        spent = self.spendings(history_of(turn.memory, turn.plan.group).events())
        return Protected(knowledge, spent, turn.memory)

    def worst_case_spending(
        self, plan: ReleasePlan, rows: int, records: int
    ) -> tuple[tuple[Spending, int], ...]:
        """Return all steps of one round."""
        schedule = self.schedule(plan, records)
        spent = self.spent(schedule, plan, schedule.steps)
        return tuple((spending, plan.rounds * schedule.steps) for spending in spent)


@lru_cache(maxsize=1024)
def _smallest(epsilon: float, delta: float, sample_rate: float, steps: int, group: int) -> float:
    def cost(sigma: float) -> float:
        event = DpSgdSteps(
            noise_multiplier=sigma, sample_rate=sample_rate, steps=steps, group=group
        )
        return epsilon_of([(event, 1)], delta)[0]

    least = least_epsilon(delta)
    if sample_rate < 1 and epsilon <= least:
        raise SettingError(
            f"epsilon={epsilon:g} at delta={delta:g} cannot be shown for steps on samples, however"
            " large the noise: RDP"
            f" shows none below {rounded_up(least)}; ask for more, or set train.batch_size to a"
            " client's whole set,"
            " which is counted exactly"
        )
    return smallest_below(epsilon, cost)
