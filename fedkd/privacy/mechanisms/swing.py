"""Swing distillation: warmer and noisier soft labels where a prediction may hold private information. A heuristic.

After Li et al. 2022 (arXiv 2212.08349), whose abstract sets the temperature of each position by its risk and puts noise
into the soft targets. Detector, temperature and noise law are our reconstruction. No differential privacy follows, and
none is claimed: the report says so. Temperature alone protects nothing, it keeps the order of all candidates. Fresh
noise averages out over rounds; noise kept per sample does not hide *changes* of a prediction from round to round.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedkd.checks import at_least, one_of, positive
from fedkd.errors import SettingError
from fedkd.fusion import soften
from fedkd.losses import Scale
from fedkd.privacy.claims import Adversary, Unit
from fedkd.privacy.events import NoClaim
from fedkd.privacy.ledger import Spending
from fedkd.privacy.plan import Plan, check_local
from fedkd.privacy.ranges import Rows

REASON = "swing is a heuristic: adaptive temperature and noise without a bound on what a record can change"
NO_BUDGET = "swing is a heuristic without a guarantee, it has no budget; take gaussian or dp_sgd for an epsilon"

Scores = Float[Tensor, "N"]


def confidence_scores(log_probs: Rows, reference: Rows | None) -> Scores:
    """Return how sure each row is and how little others agree, in [0, 1]: sure and alone is 1.

    ``(1 - H(p) / ln C)`` times the total variation to ``reference`` probs [N, C]; without a reference, as in a first
    round, sureness alone.
    """
    probs = log_probs.exp()
    sureness = 1 + torch.xlogy(probs, probs).sum(dim=-1) / math.log(probs.shape[-1])
    if reference is None:
        return sureness.clamp(0, 1)
    return (sureness * (probs - reference).abs().sum(dim=-1) / 2).clamp(0, 1)


def surprisal_gap_scores(log_probs: Rows, reference: Rows, largest_gap: float) -> Scores:
    """Return how much likelier a row finds its first class than ``reference`` does: gap in nats over ``largest_gap``.

    0 where the reference finds it at least as likely, 1 from ``largest_gap`` on: a memorized label.
    """
    own, first = log_probs.max(dim=-1)
    other = reference.clamp(min=1e-12).log().gather(-1, first[:, None])[:, 0]
    return ((own - other) / largest_gap).clamp(0, 1)


def temperatures(scores: Scores, base: float, largest: float) -> Scores:
    """Return ``base (largest / base)^score``: base where nothing is private, largest where all is.

    >>> temperatures(torch.tensor([0.0, 0.5, 1.0]), 1.0, 100.0).tolist()
    [1.0, 10.0, 100.0]
    """
    return base * (largest / base) ** scores


def swing(logits: Rows, scores: Scores, base: float, largest: float, noise: Rows) -> Rows:
    """Return the logits of the release, ``z / T(score) + score * noise``; ``noise`` already has its deviation.

    Their softmax at temperature 1 is what a student learns, at its own temperature 1: the same temperature on both
    sides would leave the optimum where it was. Scores of 0 with ``base=1`` change nothing.
    """
    return logits / temperatures(scores, base, largest)[:, None] + scores[:, None] * noise


@dataclass(frozen=True, kw_only=True)
class Swing:
    """Warm and blur the predictions that look private, before they leave the client. Nothing is claimed for it."""

    unit: ClassVar[Unit] = "record"
    neighbors: ClassVar[str] = "none"
    protects_from: ClassVar[tuple[Adversary, ...]] = ()
    refuses: ClassVar[Mapping[str, str]] = {
        "epsilon": NO_BUDGET,
        "delta": NO_BUDGET,
        "sensitivity": "it is never a setting, and swing has none",
    }
    assumptions: ClassVar[tuple[str, ...]] = (REASON,)
    outside: ClassVar[tuple[str, ...]] = ()

    detector: Literal["confidence", "surprisal_gap", "oracle"] = "confidence"
    """What looks private: sure where others disagree (confidence), likelier than in the last teacher (surprisal_gap),
    or samples that the experiment knows to be (oracle, a measurement that no real client has)."""
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
    """Keep a sample's noise for the whole run, or draw it afresh each round, where it averages out."""

    def __post_init__(self) -> None:
        positive(base_temperature=self.base_temperature, largest_gap=self.largest_gap)
        at_least(0, noise=self.noise)
        at_least(self.base_temperature, max_temperature=self.max_temperature)
        one_of(("confidence", "surprisal_gap", "oracle"), detector=self.detector)
        one_of(("gaussian", "laplace"), law=self.law)
        one_of(("sample", "release"), noise_per=self.noise_per)
        if self.noise == 0 and self.max_temperature == self.base_temperature:
            raise SettingError("noise=0 and max_temperature=base_temperature treat all samples alike: nothing swings")
        if self.detector != "surprisal_gap" and self.largest_gap != 5.0:
            raise SettingError(f"largest_gap={self.largest_gap} would do nothing: detector={self.detector}")

    def check(self, plan: Plan) -> None:
        """Raise SettingError where the settings do not fit the run."""
        check_local(plan)

    def stream_path(self, client_id: int, number: int) -> tuple[str | int, ...]:
        """Return the name of the stream that a client draws from in a round: the same each round for kept noise."""
        when = () if self.noise_per == "sample" else ("round", number)
        return ("client", client_id, *when, "swing noise")

    def scores(self, log_probs: Rows, reference: Rows | None, flagged: Bool[Tensor, "N"] | None) -> Scores:
        """Return the detector's scores [N] in [0, 1]; ``reference`` are the last teacher's probs, if there was one."""
        if self.detector == "oracle":
            if flagged is None:
                raise SettingError("detector=oracle needs to know the canaries, and this run has none")
            return flagged.to(log_probs.dtype)
        if self.detector == "surprisal_gap":
            zeros = torch.zeros(len(log_probs), dtype=log_probs.dtype, device=log_probs.device)
            return zeros if reference is None else surprisal_gap_scores(log_probs, reference, self.largest_gap)
        return confidence_scores(log_probs, reference)

    def draw(self, public_size: int, classes: int, stream: np.random.Generator) -> Rows:
        """Return noise for all public samples [public_size, classes]: rows are taken by public id."""
        shape = (public_size, classes)
        drawn = stream.standard_normal(shape) if self.law == "gaussian" else stream.laplace(size=shape) / 2**0.5
        return torch.from_numpy(self.noise * drawn)

    def release(
        self,
        values: Rows,
        scale: Scale,
        noise: Rows,
        *,
        reference: Rows | None = None,
        flagged: Bool[Tensor, "N"] | None = None,
    ) -> Rows:
        """Return the rows to upload, on the scale that came in; ``noise`` [N, C] are the samples' rows of ``draw``."""
        logits = values.to(torch.float64) if scale == "logits" else values.to(torch.float64).clamp(min=1e-12).log()
        target = None if reference is None else reference.to(torch.float64)
        scores = self.scores(torch.log_softmax(logits, dim=-1), target, flagged)
        released = swing(logits, scores, self.base_temperature, self.max_temperature, noise)
        return (released if scale == "logits" else soften(released)).to(values.dtype)

    def spent(self, plan: Plan, rows: int) -> tuple[Spending, ...]:
        """Return that nothing is claimed, and why."""
        return (Spending(event=NoClaim(reason=REASON), unit=self.unit, layer="upload"),)

    def planned(self, plan: Plan) -> tuple[Spending, ...]:
        """Return that nothing is claimed, and why."""
        return self.spent(plan, plan.rows)

    def noise_in(self, plan: Plan) -> tuple[float | None, str]:
        """Return the largest deviation, and in words what it is of."""
        return self.noise, f"{self.law}, of deviation {self.noise:g} on logits where the score is 1, 0 where it is 0"

    def warnings(self, plan: Plan) -> tuple[str, ...]:
        """Return what should be said before the run."""
        if self.noise == 0:
            return ("swing without noise protects nothing: a temperature keeps the order of all candidates",)
        return ()
