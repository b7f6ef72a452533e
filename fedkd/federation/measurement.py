"""Which figures of models a run measures: the settings ``metrics`` and the like."""

from dataclasses import dataclass

from fedkd.errors import SettingError
from fedkd.settings.conditions import RunConditions
from fedkd.settings.meaning import setting
from fedkd.training.class_metrics import METRIC_NAMES, OF_TOKENS, TOP, MetricName


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is measured of clients' models on their test sets, beside accuracy and likelihood."""

    metrics: tuple[MetricName, ...] = setting((), affects="exchange")
    """Further figures of every model on both test sets, by scikit-learn: balanced_accuracy,
    macro_f1, auroc, top5_accuracy, as in [macro_f1,auroc]. Classes that a client's test set lacks
    are left out of its means (docs/measuring.md)."""

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in METRIC_NAMES:
                raise SettingError(f"metrics must be of {', '.join(METRIC_NAMES)}, got {name!r}")
        twice = next((name for name in self.metrics if self.metrics.count(name) > 1), None)
        if twice is not None:
            raise SettingError(f"metrics names {twice} twice; leave one out")

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
