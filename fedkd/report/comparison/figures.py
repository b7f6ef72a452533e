"""From one run to its figures, and from the runs of a method over seeds to a line of a comparison.

Every figure of a run is one number, a mean or a share over its clients; over seeds it gets a mean
and an interval.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedkd.errors import RunError
from fedkd.report.comparison.run_reader import Run, baseline_run
from fedkd.report.comparison.statistics import Interval, Paired, holm, interval, paired
from fedkd.report.record_rows import ACCURACIES, FINAL_MEANS, METRIC_FIGURES, VALIDATION
from fedkd.settings.measuring_points import MeasuringPoint

SELECTIONS = ("last", "mean_of_last", "validation_best")
"""Which round a figure is of: the last, a mean over the last few, or the one of the best validation
accuracy."""

BASELINE = "local-only baseline"
"""The name of the line of baselines that were trained without protection."""
BASELINES = {"local_only": BASELINE, "local_only_private": f"{BASELINE}, private"}
"""The name of a line of baselines by how they were trained, ``baseline`` of the scenario."""

Setting = tuple[tuple[str, str], ...]
"""What distinguishes a setting from the others of a comparison: ``(("partition.alpha",
"0.1"),)``."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a comparison asks for."""

    after: MeasuringPoint
    """The point of a round at which all runs are compared."""
    last: int
    """How many of the last rounds ``mean_of_last`` takes."""
    reach: float | None = None
    """The accuracy for which the bytes are counted that it takes to reach it."""
    metric: str = "accuracy"
    """What methods are held against each other by."""

    @property
    def judged(self) -> tuple[str, str]:
        """The figures that methods are held against each other by, one a test set.

        >>> Options(after="training", last=3, metric="macro_f1").judged
        ('personal_macro_f1', 'global_macro_f1')
        """
        return f"personal_{self.metric}", f"global_{self.metric}"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A method in a setting: its figures over seeds, and tests of its gains over training alone."""

    method: str
    setting: Setting
    runs: Mapping[int, Run]
    """By seed."""
    figures: Mapping[str, Interval]
    tests: Mapping[str, Paired]
    """By the accuracy's name."""
    holm: Mapping[str, float | None]
    """The t-tests' p-values by the accuracy's name, corrected over all lines of the comparison."""


def selected(values: np.ndarray, selection: str, last: int, validation: np.ndarray) -> float:
    """Return the figure of a run's selected round.

    Args:
        values: The figure by round [R].
        selection: One of ``SELECTIONS``.
        last: How many rounds ``mean_of_last`` takes, of those that have the figure.
        validation: The validation accuracy by round [R], which decides ``validation_best``.


    The first of equally good rounds is taken. NaN where there is no validation accuracy.

    >>> accuracy, validation = np.array([0.5, 0.9, 0.7]), np.array([0.6, 0.4, 0.6])
    >>> [selected(accuracy, selection, 2, validation) for selection in SELECTIONS]
    [0.7, 0.8, 0.5]
    """
    if selection == "last":
        return float(values[-1])
    if selection == "mean_of_last":
        known = values[~np.isnan(values)]  # with evaluate_every some rounds have none
        return float(known[-last:].mean()) if len(known) else math.nan
    return math.nan if np.isnan(validation).all() else float(values[np.nanargmax(validation)])


def bytes_to_reach(accuracy: np.ndarray, bytes_by_round: np.ndarray, level: float) -> float:
    """Return the bytes up to the first round [R] of at least an accuracy, that round included.

    NaN where it is never reached.

    >>> bytes_to_reach(np.array([0.5, 0.8, 0.7]), np.array([10.0, 10.0, 10.0]), 0.8)
    20.0
    """
    reached = np.flatnonzero(accuracy >= level)
    return float(bytes_by_round[: reached[0] + 1].sum()) if len(reached) else math.nan


def harmed(gains: np.ndarray) -> float:
    """Return the share of clients with a negative gain [K], of those that have one.

    NaN where none has.

    >>> harmed(np.array([-0.1, 0.0, 0.2, np.nan, -0.3]))
    0.5
    """
    known = gains[~np.isnan(gains)]
    return float((known < 0).mean()) if len(known) else math.nan


def figures(run: Run, options: Options) -> dict[str, float]:
    """Return all figures of a run by name; NaN where it has none.

    The run is at a point of its rounds. ``personal_...`` are on the clients' own label
    distributions, ``global_...`` on the balanced test set. A gain compares with the baseline at its
    own selected round, so that with ``validation_best`` both may choose.
    """
    alone, found = baseline_run(run), {}
    traffic = run.of_round("bytes_up") + run.of_round("bytes_down")
    for name in ACCURACIES:
        where, values = name.removesuffix("_accuracy"), run.of_round(name)
        for selection in SELECTIONS:
            end = "" if selection == "last" else f"_{selection}"
            ours = selected(values, selection, options.last, run.of_round(VALIDATION))
            theirs = math.nan
            if alone is not None:
                theirs = selected(
                    alone.of_round(name), selection, options.last, alone.of_round(VALIDATION)
                )
            found[f"{name}{end}"], found[f"{where}_gain{end}"] = ours, ours - theirs
        gains = run.of_client(f"{where}_gain")[-1]
        found[f"{where}_negative_transfer"] = harmed(gains)
        for architecture in dict.fromkeys(run.architectures):
            theirs_too = np.array([a == architecture for a in run.architectures])
            found[f"{where}_negative_transfer_{architecture}"] = harmed(gains[theirs_too])
        if options.reach is not None:
            found[f"{where}_bytes_to_reach"] = bytes_to_reach(values, traffic, options.reach)
    for name in FINAL_MEANS:
        found.setdefault(name, float(run.of_round(name)[-1]))
    found["bytes_up"], found["bytes_down"] = (
        float(run.of_round(f"bytes_{way}").sum()) for way in ("up", "down")
    )
    found["seconds"] = run.seconds
    return found


def compare(runs: Mapping[tuple[str, Setting], Mapping[int, Run]], options: Options) -> list[Line]:
    """Return the lines of a comparison, from runs by method and setting, then by seed.

    They are in the order given, and all at one point of the round, ``options.after``.

    A gain is tested over seeds against those of the local-only baselines of the same runs being 0.
    Holm's correction takes all tests on one accuracy as one family, over methods and settings.
    """
    runs = {
        key: {seed: run.at(options.after) for seed, run in of.items()} for key, of in runs.items()
    }
    every = {
        key: {seed: figures(run, options) for seed, run in of.items()} for key, of in runs.items()
    }
    tests = {
        key: {
            name: _against_baseline([of[seed] for seed in sorted(of)], name) for name in ACCURACIES
        }
        for key, of in every.items()
    }
    corrected: dict[str, dict[tuple[str, Setting], float | None]] = {
        name: dict(zip(tests, holm([of[name].t for of in tests.values()]), strict=True))
        for name in ACCURACIES
    }
    return [
        Line(
            method=key[0],
            setting=key[1],
            runs=runs[key],
            figures=summarized(list(of.values())),
            tests=tests[key],
            holm={name: corrected[name][key] for name in ACCURACIES},
        )
        for key, of in every.items()
    ]


def known_figures(lines: Sequence[Line]) -> list[str]:
    """Return the names of the figures of lines, without metrics that none of them measured."""
    names = dict.fromkeys(name for line in lines for name in line.figures)
    unknown = {
        name
        for name in METRIC_FIGURES
        if not any(line.figures[name].seeds for line in lines if name in line.figures)
    }
    return [name for name in names if name not in unknown]


def check_metric(runs: Mapping[str, Run], options: Options) -> None:
    """Raise RunError where a run, by name, has not measured what methods are compared by."""
    for name, run in runs.items() if options.metric != "accuracy" else ():
        if np.isnan(run.at(options.after).of_round(options.judged[1])).all():
            raise RunError(
                f"metric={options.metric}: {name} has not measured it; run it again with"
                f" metrics=[{options.metric}], or leave it out of this comparison"
            )


def baselines_of(lines: Sequence[Line], options: Options) -> list[Line]:
    """Return the local-only baselines as lines, one a setting and way to train them.

    Their seeds are those for which some method's run has a baseline.

    None for settings in which a method sends nothing: its line is that of local-only training.
    """
    found: dict[tuple[str, Setting], dict[int, Run]] = {}
    for line in lines:
        of_setting = [other for other in lines if other.setting == line.setting]
        if any(other.figures["bytes_up"].mean == 0 for other in of_setting):
            continue
        for seed, run in line.runs.items():
            alone = baseline_run(run)
            if alone is not None:
                found.setdefault(
                    (BASELINES.get(run.baseline, BASELINE), line.setting), {}
                ).setdefault(seed, alone)
    return compare(found, options)


def summarized(runs: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    """Return each figure's mean and interval over runs."""
    return {name: interval([run[name] for run in runs]) for name in runs[0]}


def _against_baseline(runs: Sequence[Mapping[str, float]], name: str) -> Paired:
    gain = f"{name.removesuffix('_accuracy')}_gain"
    return paired([run[name] for run in runs], [run[name] - run[gain] for run in runs])
