"""Whether fusion beats local training, in sentences: by how much, where, and for how many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedkd.report.comparison.statistics import Interval, interval
from fedkd.report.pages.run_facts import RunFacts
from fedkd.report.record_rows import ACCURACIES, client_gains
from fedkd.settings.measuring_points import MeasuringPoint

Outcome = Literal["ahead", "behind", "open"]
TEST_SETS = {
    "personal_accuracy": "on the clients' own distributions",
    "global_accuracy": "on the balanced test set",
}
ONE_SEED = (
    "The interval is over the clients of this one run. It says nothing of other seeds: fedkd"
    " compare tests methods over several."
)


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Clients' gains over local-only training, on one test set at one point of the last round."""

    after: MeasuringPoint
    test_set: str
    """The accuracy's name."""
    found: Interval
    """Of the clients' gains, in points."""
    better: int
    worse: int
    clients: int
    """Those that have a gain."""

    @property
    def outcome(self) -> Outcome:
        """Whether the interval lies above 0, below it, or has 0 in it."""
        mean, half = self.found.mean or 0.0, self.found.half
        if half is None or abs(mean) <= half:
            return "open"
        return "ahead" if mean > 0 else "behind"

    @property
    def points(self) -> str:
        """The mean, in points, with its sign."""
        return "–" if self.found.mean is None else signed(self.found.mean)

    @property
    def between(self) -> str:
        """The 95 % interval; empty for fewer than two clients."""
        if self.found.mean is None or self.found.half is None:
            return ""
        low, high = self.found.mean - self.found.half, self.found.mean + self.found.half
        return f"{signed(low)} to {signed(high)}"

    @property
    def counted(self) -> str:
        """For how many clients, in words."""
        return f"{self.better} of {self.clients} clients are better off, {self.worse} worse"

    def sentence(self, strategy: str, alone: str) -> str:
        """Return the verdict in a sentence.

        >>> gain = Gain(after="training", test_set="global_accuracy", better=3, worse=1, clients=4,
        ...             found=Interval(2.5, 1.0, 4))
        >>> print(gain.sentence("knfu", "local training"))
        After training, knfu beats local training by 2.5 points on the balanced test set (95 % \
interval +1.5 to +3.5; 3 of 4 clients are better off, 1 worse).
        """
        where = TEST_SETS[self.test_set]
        verb = {"ahead": "beats", "behind": "loses to"}.get(self.outcome)
        size = f"{abs(self.found.mean or 0):.1f} points"
        said = f"95 % interval {self.between}; {self.counted}" if self.between else self.counted
        if verb is None:
            word = "ahead of" if (self.found.mean or 0) >= 0 else "behind"
            return (
                f"After {self.after}, {strategy} is {size} {word} {alone} {where}, which this run"
                f" does not show to be more than chance ({said})."
            )
        return f"After {self.after}, {strategy} {verb} {alone} by {size} {where} ({said})."


def gains_of(facts: RunFacts) -> list[Gain]:
    """Return the gains of a run's last round, those at the reported point first."""
    if facts.baseline is None or facts.last is None or not facts.plan.exchanges:
        return []
    found = []
    for point in facts.plan.reported:
        for name in ACCURACIES:
            gains = client_gains(facts.last, facts.baseline, name, point)
            known = [100 * gain for gain in gains if gain is not None and np.isfinite(gain)]
            if known:
                found.append(_gain(point, name, known))
    return found


def _gain(point: MeasuringPoint, name: str, known: Sequence[float]) -> Gain:
    return Gain(
        after=point,
        test_set=name,
        found=interval(known),
        better=sum(gain > 1e-9 for gain in known),
        worse=sum(gain < -1e-9 for gain in known),
        clients=len(known),
    )


def verdicts_of(facts: RunFacts, gains: Sequence[Gain]) -> list[str]:
    """Return the verdict on a run in sentences, the first one the most important."""
    plan, exposure = facts.plan, facts.summary.get("exposure") or {}
    alone = "local training"
    if facts.summary.get("baseline") == "local_only_private":
        alone = "private local training"
    said = []
    if exposure.get("void"):
        said.append(f"Void: {exposure['void']}.")
    said += [gain.sentence(plan.strategy, alone) for gain in gains]
    if gains:
        return said
    if not plan.exchanges or plan.is_reference:
        return [
            *said,
            "This run is a reference: clients exchange nothing, so that there is no fusion to"
            " judge.",
        ]
    if not plan.sends_metrics:
        return [*said, "Clients kept their figures: nothing is known of their accuracies."]
    if facts.last is None:
        return [*said, "No round was finished: there is nothing to judge."]
    return [
        *said,
        "There is no local-only baseline (baseline=none): nothing is said of gains.",
    ]


def signed(value: float) -> str:
    """Return a number with its sign and one decimal.

    >>> signed(-0.04), signed(2.25)
    ('0.0', '+2.2')
    """
    shown = f"{value:+.1f}"
    return "0.0" if float(shown) == 0 else shown.replace("-", "−")
