"""The point of a round at which the runs of a comparison are compared: one for all of them."""

from collections.abc import Mapping
from typing import Literal

from fedkd.errors import SettingError
from fedkd.report.comparison.run_reader import Run
from fedkd.settings.measuring_points import MEASURING_POINTS, MeasuringPoint, other

After = Literal["auto", "distillation", "training"]


def common_points(runs: Mapping[str, Run]) -> list[MeasuringPoint]:
    """Return the points that all runs measured, apart from references, which stand at any."""
    measured = [run.measured for run in runs.values() if not run.is_reference]
    if not measured:
        return ["training"]
    return [point for point in MEASURING_POINTS if all(point in points for points in measured)]


def point_of_comparison(runs: Mapping[str, Run], after: After = "auto") -> MeasuringPoint:
    """Return the point at which runs are compared.

    ``auto`` is the point that all runs report first; where they differ, after training, where all
    have measured, or else the one that all have. SettingError where they have none in common, or
    not the one asked for.
    """
    known = common_points(runs)
    if after != "auto":
        if after not in known:
            name, run = next(
                (name, run)
                for name, run in runs.items()
                if not run.is_reference and after not in run.measured
            )
            raise SettingError(
                f"after={after}: {name} measured after {run.measured[0]} alone; leave it out of"
                f" this comparison, or ask for after={run.measured[0]}"
            )
        return after
    if not known:
        named = {run.measured[0]: name for name, run in runs.items() if not run.is_reference}
        one, two = named.items()
        raise SettingError(
            f"{one[1]} measured after {one[0]} alone and {two[1]} after {two[0]} alone: no figure"
            " of one is comparable with one of the other; run with test.after=both"
        )
    firsts = first_points(runs)
    if len(firsts) == 1 and firsts[0] in known:
        return firsts[0]
    return "training" if "training" in known else known[0]


def first_points(runs: Mapping[str, Run]) -> list[MeasuringPoint]:
    """Return the points that runs report first, references left out."""
    return list(dict.fromkeys(run.first for run in runs.values() if not run.is_reference))


def note_on_point(runs: Mapping[str, Run], point: MeasuringPoint) -> str | None:
    """Return a note where some run would report another point first; None where none would."""
    others = dict.fromkeys(
        name.partition(", ")[0]
        for name, run in runs.items()
        if not run.is_reference and run.first != point
    )
    if not others:
        return None
    return (
        f"Figures after {point} come first, for all methods alike; alone, {', '.join(others)} would"
        f" report those after {other(point)} first (docs/measuring.md)."
    )
