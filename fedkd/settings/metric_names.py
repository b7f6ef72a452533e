"""The names of metrics beside accuracy, which the command's help and completion offer at once.

What each is: ``fedkd.training.class_metrics``.
"""

from typing import Literal, get_args

MetricName = Literal["balanced_accuracy", "macro_f1", "auroc", "top5_accuracy"]
METRIC_NAMES: tuple[MetricName, ...] = get_args(MetricName)
