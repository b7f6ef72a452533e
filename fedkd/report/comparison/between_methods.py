"""Paired differences between the methods of a comparison, and what they show."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from fedkd.errors import SettingError
from fedkd.report.comparison.family_verdicts import ENOUGH, Verdict, judge
from fedkd.report.comparison.figures import Line, Options, Setting, figures
from fedkd.report.comparison.statistics import Interval, interval
from fedkd.report.comparison.tables import NOTHING, Table, points

WORDS = {"holds": "ahead", "does NOT hold": "behind"}
"""What a verdict on "the method is ahead of the other" is called in the table."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two methods in one setting, paired by seed, at one point of the last round."""

    method: str
    other: str
    setting: Setting
    seeds: tuple[int, ...]
    """The seeds that both have."""
    differences: dict[str, Interval]
    """The method's accuracy or other metric less the other's, by the figure's name."""
    verdicts: dict[str, Verdict]
    """On each, that the method is ahead; corrected over all pairs and both test sets."""


def check_reference(against: str | None, methods: Sequence[str]) -> None:
    """Raise SettingError where the method that others are held against is none of them."""
    if against is not None and against not in methods:
        raise SettingError(f"--against {against}: it is none of {', '.join(methods)}")


def pairs(lines: Sequence[Line], options: Options, against: str | None = None) -> list[Pair]:
    """Return every pair of methods of each setting, or every method with one of them.

    Their lines are at one point of the round (``options.after``), so that no figure of one point is
    compared with one of the other. Tests of all pairs, settings and both test sets are one family.
    Raises SettingError where ``against`` names no method.
    """
    methods = list(dict.fromkeys(line.method for line in lines))
    check_reference(against, methods)
    by_key = {(line.method, line.setting): _by_seed(line, options) for line in lines}
    found: list[tuple[str, str, Setting, tuple[int, ...]]] = []
    for setting in dict.fromkeys(line.setting for line in lines):
        here = [method for method in methods if (method, setting) in by_key]
        chosen = (
            itertools.combinations(here, 2)
            if against is None
            else ((method, against) for method in here if method != against and against in here)
        )
        for method, other in chosen:
            seeds = sorted(set(by_key[method, setting]) & set(by_key[other, setting]))
            found.append((method, other, setting, tuple(seeds)))
    apart = [
        [by_key[m, setting][seed][name] - by_key[o, setting][seed][name] for seed in seeds]
        for m, o, setting, seeds in found
        for name in options.judged
    ]
    verdicts = iter(zip(apart, judge(apart), strict=True))
    return [
        Pair(
            method=method,
            other=other,
            setting=setting,
            seeds=seeds,
            differences={name: interval(one[0]) for name, one in of.items()},
            verdicts={name: one[1] for name, one in of.items()},
        )
        for method, other, setting, seeds in found
        for of in [{name: next(verdicts) for name in options.judged}]
    ]


def _by_seed(line: Line, options: Options) -> dict[int, dict[str, float]]:
    return {seed: figures(run, options) for seed, run in line.runs.items()}


def table_of_pairs(found: Sequence[Pair], options: Options) -> Table | None:
    """Return the differences between methods as a table; None where there is no pair."""
    if not found:
        return None
    tested = sum(v.p_value is not None for pair in found for v in pair.verdicts.values())
    keys = tuple(key for key, _ in found[0].setting)
    rows = tuple(
        (
            *(value for _, value in pair.setting),
            f"{pair.method} less {pair.other}",
            str(len(pair.seeds)),
            *(cell for name in pair.verdicts for cell in _cells(pair, name)),
        )
        for pair in found
    )
    judged = (
        f" Ahead, behind: a two-sided paired t-test with Holm's correction over the {tested} tests"
        " of this table says so at 5 %; intervals are not corrected."
        if tested
        else f" Nothing is judged: that takes {ENOUGH} seeds that both methods have."
    )
    by = "" if options.metric == "accuracy" else f" in {options.metric}"
    return Table(
        f"Differences between methods{by} after {options.after} in the last round",
        f"Points of {options.metric}, means over clients, then over the seeds that both methods"
        f" have, ± half of the 95 % t-interval.{judged} {NOTHING}: fewer than {ENOUGH} seeds.",
        (*keys, "methods", "seeds", "own distribution", "p", "", "balanced test", "p", ""),
        rows,
        len(keys) + 1,
    )


def _cells(pair: Pair, name: str) -> tuple[str, str, str]:
    verdict = pair.verdicts[name]
    if verdict.p_value is None:
        return points(pair.differences[name]), NOTHING, NOTHING
    word = WORDS.get(verdict.word, verdict.word)
    return points(pair.differences[name]), verdict.p.removeprefix("p "), word
