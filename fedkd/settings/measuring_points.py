"""The two points of a round at which clients' models are measured, and how columns name them."""

from typing import Literal, get_args

MeasuringPoint = Literal["distillation", "training"]
"""After which phase of the round: learning from teachers (of weights: adopting them), or private
training."""
MEASURING_POINTS: tuple[MeasuringPoint, ...] = get_args(MeasuringPoint)
EvaluatedAfter = Literal["distillation", "training", "unknown"]
"""At which point the paper of a method evaluates; ``unknown`` where that was not found."""


def column(figure: str, point: MeasuringPoint) -> str:
    """Return the column of a figure at a point.

    >>> column("personal_accuracy", "training")
    'personal_accuracy_after_training'
    """
    return f"{figure}_after_{point}"


def other(point: MeasuringPoint) -> MeasuringPoint:
    """Return the other point of a round."""
    return "training" if point == "distillation" else "distillation"
