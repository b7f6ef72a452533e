"""Which points of a round a run measures, and which of them it reports first."""

from collections.abc import Sequence
from typing import Literal

from fedkd.errors import SettingError
from fedkd.federation.protocol import RoundOrder
from fedkd.knowledge import KnowledgeType
from fedkd.settings.measuring_points import EvaluatedAfter, MeasuringPoint


def points_of_round(
    kind: KnowledgeType | None, round_order: RoundOrder, *, pooled: bool = False
) -> tuple[MeasuringPoint, ...]:
    """Return the points that every round of a run has, in the sequence of time.

    Where nothing is exchanged, or teachers are part of private training, there is no phase of
    learning from them. Nor is there where one client trains on the data of all (``pooled``): the
    others have the model once it is handed to them, at the end of the round.
    """
    if kind is None or pooled or kind.learned_by == "train":
        return ("training",)
    first_last: tuple[MeasuringPoint, ...] = ("distillation", "training")
    return first_last if round_order == "distill_first" else first_last[::-1]


def measured_points(
    points: Sequence[MeasuringPoint], after: Literal["both", "distillation", "training"]
) -> tuple[MeasuringPoint, ...]:
    """Return those of a round's points that a run measures. SettingError where none is left."""
    found = tuple(point for point in points if after in ("both", point))
    if not found:
        raise SettingError(
            f"test.after={after}: a round of this strategy has no such point, so that nothing"
            f" would be measured; say test.after={points[0]}, or leave it out"
        )
    return found


def reported_point(
    measured: Sequence[MeasuringPoint],
    after: Literal["auto", "distillation", "training"],
    evaluated_after: EvaluatedAfter,
) -> MeasuringPoint:
    """Return the point that a run reports first: the one asked for, or that of the method's paper.

    Where the paper's is not known, or not measured, it is the last of the round. SettingError for
    one asked for that is not measured.
    """
    if after == "auto":
        return next((point for point in measured if point == evaluated_after), measured[-1])
    if after not in measured:
        raise SettingError(
            f"report.after={after}: this run measures after {measured[0]} alone (by its strategy,"
            f" or test.after); say report.after={measured[0]}, or leave it out"
        )
    return after
