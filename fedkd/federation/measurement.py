"""What a run measures of models, in which rounds and on which test sets: its settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fedkd.errors import SettingError
from fedkd.settings.conditions import RunConditions
from fedkd.settings.meaning import setting
from fedkd.settings.metric_names import METRIC_NAMES, MetricName
from fedkd.settings.validators import at_least
from fedkd.training.class_metrics import OF_TOKENS, TOP

TestSetName = Literal["private", "global"]
TEST_SETS: tuple[TestSetName, ...] = get_args(TestSetName)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is measured of clients' models, in which rounds and on which test sets."""

    evaluate_every: int = 1
    """Clients measure their models in every so many rounds, >= 1, and always in the last one;
    figures of other rounds are empty."""
    evaluate_on: tuple[TestSetName, ...] = TEST_SETS
    """The test sets on which models are measured: private (each client's own), global (the
    balanced one), or both. Figures on the other are empty; its samples stay held out."""

    metrics: tuple[MetricName, ...] = setting((), affects="exchange")
    """Further figures of every model on both test sets, by scikit-learn: balanced_accuracy,
    macro_f1, auroc, top5_accuracy, as in [macro_f1,auroc]. Classes that a client's test set lacks
    are left out of its means (docs/measuring.md)."""

    def __post_init__(self) -> None:
        at_least(1, evaluate_every=self.evaluate_every)
        _check_names("metrics", self.metrics, METRIC_NAMES)
        _check_names("evaluate_on", self.evaluate_on, TEST_SETS)
        if not self.evaluate_on:
            raise SettingError("evaluate_on must name a test set, as in evaluate_on=[private]")

    def next_measured(self, round_number: int, rounds: int) -> int:
        """Return the first round from ``round_number`` on whose figures are recorded, of all.

        >>> measurement = Measurement(evaluate_every=4)
        >>> [measurement.next_measured(round_number, 10) for round_number in (1, 4, 5, 9, 10)]
        [4, 4, 8, 10, 10]
        """
        due = -(-round_number // self.evaluate_every) * self.evaluate_every
        return min(due, max(rounds, round_number))

    def describe(self) -> str:
        """Return in which rounds and on which test sets models are measured; by default empty.

        >>> Measurement(evaluate_every=5, evaluate_on=("private",)).describe()
        ', every 5 rounds and in the last one, on private test sets alone'
        """
        said = ""
        if self.evaluate_every > 1:
            said += f", every {self.evaluate_every} rounds and in the last one"
        if len(self.evaluate_on) == 1:
            which = (
                "private test sets" if "private" in self.evaluate_on else "the balanced test set"
            )
            said += f", on {which} alone"
        return said

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return that a metric of classes says nothing of next tokens."""
        others = [name for name in self.metrics if name not in OF_TOKENS]
        if others and not conditions.has_classes:
            return (
                f"metrics=[{','.join(others)}]: this run predicts next tokens, which are too many"
                " classes to weigh alike; leave it out (top5_accuracy can be measured)"
            )
        return None

    def check_classes(self, classes: int) -> None:
        """Raise SettingError where a metric would be 1 for every model."""
        if "top5_accuracy" in self.metrics and classes <= TOP:
            raise SettingError(
                f"metrics=[top5_accuracy] would do nothing: with {classes} classes every label is"
                " among the five most probable"
            )


def _check_names(setting_name: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raise SettingError for a name in a list that is unknown or there twice."""
    for name in given:
        if name not in known:
            raise SettingError(f"{setting_name} must be of {', '.join(known)}, got {name!r}")
        if given.count(name) > 1:
            raise SettingError(f"{setting_name} names {name} twice; leave one out")
