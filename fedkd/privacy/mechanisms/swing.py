"""Swing distillation: warmer, noisier soft labels where a prediction looks private.

A heuristic.

After Li et al. 2022 (arXiv 2212.08349), whose abstract sets the temperature of each position by its
risk and puts noise into the soft targets. Detector, temperature and noise law are our
reconstruction. No differential privacy follows, and none is claimed: the report says so.
Temperature alone protects nothing, it keeps the order of all candidates. Fresh noise averages out
over rounds; noise kept per sample does not hide *changes* of a prediction from round to round.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.fusion import soften
from fedkd.messages import Knowledge, Predictions
from fedkd.privacy.adaptive_temperature import draw_noise, swing_logits, swing_temperatures
from fedkd.privacy.detection import Detector, Hints
from fedkd.privacy.events import NoClaim
from fedkd.privacy.ledger import Spending
from fedkd.privacy.mechanisms.mechanism import (
    ClientRound,
    Mechanism,
    Memory,
    Protected,
    conflict_with_queries,
    conflict_without_predictions,
)
from fedkd.privacy.release_plan import ReleasePlan, check_local
from fedkd.privacy.sensitivity import Rows
from fedkd.settings.conditions import RunConditions
from fedkd.settings.validators import at_least, check_choices, positive
from fedkd.training.losses import Scale

REASON = (
    "swing is a heuristic: adaptive temperature and noise without a bound on what a record can"
    " change"
)
NO_BUDGET = (
    "swing is a heuristic without a guarantee, it has no budget; take gaussian or dp_sgd for an"
    " epsilon"
)

TAUGHT_IDS, TAUGHT_PROBS = "taught ids", "taught probs"

Scores = Float[Tensor, "N"]


def confidence_scores(log_probs: Rows, reference: Rows | None) -> Scores:
    """Return how sure each row is and how little others agree, in [0, 1]: sure and alone is 1.

    ``(1 - H(p) / ln C)`` times the total variation to ``reference`` probs [N, C]; without a
    reference, as in a first round, sureness alone.
    """
    probs = log_probs.exp()
    sureness = 1 + torch.xlogy(probs, probs).sum(dim=-1) / math.log(probs.shape[-1])
    if reference is None:
        return sureness.clamp(0, 1)
    return (sureness * (probs - reference).abs().sum(dim=-1) / 2).clamp(0, 1)


def surprisal_gap_scores(log_probs: Rows, reference: Rows, largest_gap: float) -> Scores:
    """Return how much likelier a row finds its first class than ``reference`` does.

    The gap in nats over ``largest_gap``.

    0 where the reference finds it at least as likely, 1 from ``largest_gap`` on: a memorized label.
    """
    own, first = log_probs.max(dim=-1)
    other = reference.clamp(min=1e-12).log().gather(-1, first[:, None])[:, 0]
    return ((own - other) / largest_gap).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Swing(Mechanism):
    """Warm and blur the predictions that look private; nothing is claimed for it."""

    refuses: ClassVar[Mapping[str, str]] = {
        "epsilon": NO_BUDGET,
        "delta": NO_BUDGET,
        "sensitivity": "it is never a setting, and swing has none",
    }

    detector: Detector = "confidence"
    """What looks private: sure where the reference disagrees (confidence), likelier than the
    reference finds it (surprisal_gap), next tokens in digits, e-mail addresses or titled names
    (pattern, of text), what the experiment knows to be (oracle: the context of canaries, a
    measurement that no real client has), or everywhere, a control. The reference is the last
    teacher, or of text a model that learned public text alone."""
    base_temperature: float = 1.0
    """Temperature where nothing is private, > 0."""
    max_temperature: float = 10.0
    """Temperature where the score is 1, at least the base."""
    noise: float = 2.0
    """Standard deviation of the noise on logits where the score is 1, >= 0."""
    law: Literal["gaussian", "laplace"] = "gaussian"
    """Law of the noise."""
    largest_gap: float = 5.0
    """Gap in nats from which surprisal_gap scores 1, > 0."""
    noise_per: Literal["sample", "release"] = "sample"
    """Keep a sample's noise for the whole run, or draw it afresh each round, where it averages
    out."""

    def __post_init__(self) -> None:
        check_choices(self)
        positive(base_temperature=self.base_temperature, largest_gap=self.largest_gap)
        at_least(0, noise=self.noise)
        at_least(self.base_temperature, max_temperature=self.max_temperature)
        if self.noise == 0 and self.max_temperature == self.base_temperature:
            raise SettingError(
                "noise=0 and max_temperature=base_temperature treat all samples alike: nothing"
                " swings"
            )
        if self.detector == "everywhere" and self.base_temperature != 1.0:
            raise SettingError(
                "base_temperature would do nothing: detector=everywhere scores 1 at every sample"
            )
        if self.detector != "surprisal_gap" and self.largest_gap != 5.0:
            raise SettingError(
                f"largest_gap={self.largest_gap} would do nothing: detector={self.detector}"
            )

    def uncovered(self, conditions: RunConditions) -> str | None:
        """Return the conflict with uploads, or with data in which the detector finds nothing."""
        if self.detector == "oracle" and not conditions.has_secrets:
            found = "privacy.detector=oracle needs to know the canaries, and this run has none"
        elif self.detector == "pattern" and conditions.data_kind != "texts":
            found = (
                "privacy.detector=pattern looks for digits and addresses in text, and this data"
                " has none"
            )
        else:
            found = None
        return (
            conflict_without_predictions(conditions) or conflict_with_queries(conditions) or found
        )

    def check(self, plan: ReleasePlan) -> None:
        """Raise SettingError where the settings do not fit the run."""
        check_local(plan)

    def stream_path(self, client_id: int, round_number: int) -> tuple[str | int, ...]:
        """Return the name of a client's noise stream in a round.

        The same in each round where noise is drawn once a sample.
        """
        when = () if self.noise_per == "sample" else ("round", round_number)
        return ("client", client_id, "swing noise", *when)

    def scores(self, values: Rows, scale: Scale, hints: Hints) -> Scores:
        """Return the detector's scores [N] in [0, 1] of rows that a client would upload."""
        log_probs = torch.log_softmax(_logits(values, scale), dim=-1)
        if self.detector == "everywhere":
            return torch.ones_like(log_probs[:, 0])
        if self.detector in ("oracle", "pattern"):
            marked = hints.flagged if self.detector == "oracle" else hints.matched
            if marked is None:
                what = "to know the canaries" if self.detector == "oracle" else "text"
                raise SettingError(f"detector={self.detector} needs {what}, and this run has none")
            return marked.to(log_probs.dtype)
        reference = None if hints.reference is None else hints.reference.to(torch.float64)
        if self.detector == "surprisal_gap":
            zeros = torch.zeros_like(log_probs[:, 0])
            return (
                zeros
                if reference is None
                else surprisal_gap_scores(log_probs, reference, self.largest_gap)
            )
        return confidence_scores(log_probs, reference)

    def draw(
        self, ids: Int[Tensor, "N"], classes: int, seed: int, client_id: int, round_number: int
    ) -> Rows:
        """Return a client's noise of variance 1, each sample's from a stream of its own.

        Args:
            ids: The public samples.
            classes: Numbers a row.
            seed: The run's seed.
            client_id: The client.
            round_number: The round; nothing depends on it where noise is per sample.
        """
        return draw_noise(
            ids, classes, self.law, seed, *self.stream_path(client_id, round_number)
        ).to(torch.float64)

    def release(self, values: Rows, scale: Scale, scores: Scores, noise: Rows) -> Rows:
        """Return the rows to upload, on the scale that came in.

        Where scores are 0, ``noise`` may hold anything.

        The softmax of what is released is what a student learns, at temperature 1 of its own: the
        same temperature on both sides would leave its optimum where it was. Scores of 0 with
        ``base_temperature=1`` change nothing.

        Args:
            values: The client's rows.
            scale: What they are.
            scores: How private each row looks, in [0, 1].
            noise: Noise of variance 1.
        """
        temperatures = swing_temperatures(scores, self.base_temperature, self.max_temperature)
        released = swing_logits(_logits(values, scale), temperatures, self.noise * scores, noise)
        return (released if scale == "logits" else soften(released)).to(values.dtype)

    def planned(self, plan: ReleasePlan) -> tuple[Spending, ...]:
        """Return that nothing is claimed, and why."""
        return self.spendings((NoClaim(reason=REASON),))

    def joins_training(self, plan: ReleasePlan) -> bool:
        """Return whether clients remember their last teacher, to compare with."""
        return self.detector in ("confidence", "surprisal_gap") and not plan.has_reference

    def after_teaching(self, teacher: Predictions, turn: ClientRound) -> Memory:
        """Return the memory with the teacher's soft labels, where they are compared with."""
        if not self.joins_training(turn.plan):
            return turn.memory
        values = teacher.values.to(torch.float32)
        probs = values if teacher.scale == "probs" else soften(values, turn.plan.temperature)
        return {**turn.memory, TAUGHT_IDS: teacher.ids, TAUGHT_PROBS: probs}

    def suspicion(self, knowledge: Predictions, memory: Memory, hints: Hints) -> Scores:
        """Return the detector's scores [N]; the last teacher is the reference where it is known."""
        if TAUGHT_IDS in memory and bool(torch.isin(knowledge.ids, memory[TAUGHT_IDS]).all()):
            ids, permutation = memory[TAUGHT_IDS].sort()
            reference = memory[TAUGHT_PROBS][permutation][torch.searchsorted(ids, knowledge.ids)]
            hints = replace(hints, reference=reference)
        return self.scores(knowledge.values, knowledge.scale, hints)

    def protect_upload(
        self, knowledge: Knowledge, turn: ClientRound, scores: Scores | None
    ) -> Protected:
        """Return warmer and noisier rows where scores are above 0."""
        assert isinstance(knowledge, Predictions), "checked before the run"
        if scores is None:
            scores = self.suspicion(knowledge, turn.memory, Hints())
        rows, columns = scores > 0, knowledge.values.shape[1]
        noise = torch.zeros(len(scores), columns, dtype=torch.float64)
        if self.noise > 0:
            noise[rows] = self.draw(
                knowledge.ids[rows], columns, turn.seed, turn.client_id, turn.round_number
            )
        values = self.release(knowledge.values, knowledge.scale, scores, noise)
        return Protected(replace(knowledge, values=values), self.planned(turn.plan), turn.memory)

    def noise_in(self, plan: ReleasePlan) -> tuple[float | None, str]:
        """Return the largest deviation, and in words what it is of."""
        return (
            self.noise,
            f"{self.law}, of deviation {self.noise:g} on logits where the score is 1, 0 where it"
            " is 0",
        )

    def warnings(self, plan: ReleasePlan) -> tuple[str, ...]:
        """Return what should be said before the run."""
        if self.noise == 0:
            return (
                "swing without noise protects nothing: a temperature keeps the order of all"
                " candidates",
            )
        return ()


def _logits(values: Rows, scale: Scale) -> Rows:
    """Return rows as logits in double precision; of soft labels their logarithms."""
    return (
        values.to(torch.float64)
        if scale == "logits"
        else values.to(torch.float64).clamp(min=1e-12).log()
    )
