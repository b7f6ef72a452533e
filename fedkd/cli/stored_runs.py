"""Read a folder of runs as Python values: a table of them, and paired tests between methods.

A sweep, a comparison's ``runs``, or any folder with runs below it. The statistics are those of
``fedkd.report.comparison``. Not for: one run (``fedkd.experiment.stored_run``).
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from fedkd.cli.compare import read_config
from fedkd.errors import FedkdError, RunWarning, SettingError, unknown_name
from fedkd.experiment.stored_run import StoredRun
from fedkd.report.comparison.between_methods import WORDS, Pair, pairs
from fedkd.report.comparison.figures import (
    Line,
    Options,
    check_metric,
    compare,
    known_figures,
)
from fedkd.report.comparison.grouping import differing, sort_runs
from fedkd.report.comparison.one_point import After, point_of_comparison
from fedkd.report.comparison.run_reader import read_run, run_folders
from fedkd.report.comparison.tables import points
from fedkd.report.record_rows import ACCURACIES, FINAL
from fedkd.settings.metric_names import METRIC_NAMES
from fedkd.settings.validators import at_least, user_path

if TYPE_CHECKING:
    import pandas

LAST = 3
WHERE = {
    "personal": "on the clients' own distributions",
    "global": "on the balanced test set",
}


@dataclass(frozen=True)
class MethodComparison:
    """What paired seeds say of the methods of some runs. A notebook shows its ``frame``."""

    frame: "pandas.DataFrame" = field(repr=False)
    """A row for each pair of methods in a setting: how far the first is ahead (in shares), half of
    the 95 % interval, the p-value with Holm's correction over all tests, and the verdict."""
    methods: "pandas.DataFrame" = field(repr=False)
    """A row for each method in a setting: each figure's mean over seeds and half of its interval,
    and the tests of its gains over local-only training."""
    verdicts: tuple[str, ...]
    """The same in sentences."""
    left_out: tuple[str, ...] = ()
    """The runs that are not complete or cannot be read, and why."""

    def _repr_html_(self) -> str:
        html: str = self.frame.to_html()
        return html


class StoredRuns(Sequence[StoredRun]):
    """The runs in and below a folder, in the order of their numbers."""

    folder: Path
    """The folder."""

    def __init__(self, folder: str | Path, *, trust: bool = False) -> None:
        """Find the runs.

        Args:
            folder: A sweep's folder, or any other.
            trust: Whether what runs name and is not fedkd's may be imported, to build models.

        Raises:
            SettingError: There is no run.
        """
        self.folder = user_path(str(folder), "folder")
        self._runs = [StoredRun(path, trust=trust) for path in run_folders(self.folder)]
        if not self._runs:
            raise SettingError(f"{self.folder}: there is no run in or below this folder")

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, index: Any) -> Any:
        """Return a run by its position, or by the name of its folder."""
        if isinstance(index, str):
            by_name = {self._name(run): run for run in self._runs}
            if index not in by_name:
                raise unknown_name("run", index, by_name)
            return by_name[index]
        return self._runs[index]

    def __iter__(self) -> Iterator[StoredRun]:
        return iter(self._runs)

    def __repr__(self) -> str:
        return f"StoredRuns({str(self.folder)!r}: {len(self)} runs)"

    def _repr_html_(self) -> str:
        html: str = self.table().to_html()
        return html

    @cached_property
    def _configs(self) -> dict[Path, dict[str, Any]]:
        return {run.folder: config for run in self._runs if (config := _config(run)) is not None}

    def _name(self, run: StoredRun) -> str:
        name = run.folder.relative_to(self.folder).as_posix()
        return run.folder.name if name == "." else name

    def table(self) -> "pandas.DataFrame":
        """Return a row for each run: what varies between them, how they ended, their results.

        ``problem`` says why a run is damaged or has no results.
        """
        import pandas

        varied = ["seed", *differing(self._configs.values())]
        rows = []
        for run in self._runs:
            state, problem, summary = _state(run)
            config = self._configs.get(run.folder, {})
            rows.append(
                {
                    "run": self._name(run),
                    "status": state,
                    "problem": problem,
                    **{key.removesuffix(".name"): _cell(config.get(key)) for key in varied},
                    "rounds": summary.get("rounds"),
                    **{name: summary.get(name) for name in (*FINAL, "bytes_up", "bytes_down")},
                    "seconds": summary.get("seconds"),
                }
            )
        table = pandas.DataFrame(rows)
        unknown = [name for name in FINAL if name in table and table[name].isna().all()]
        if table["problem"].isna().all():
            unknown.append("problem")
        return table.drop(columns=unknown)

    def compare(
        self,
        by: str = "strategy",
        reference: object = None,
        *,
        after: After = "auto",
        last: int = LAST,
        metric: str = "accuracy",
    ) -> MethodComparison:
        """Return paired tests between methods, over the seeds that both have.

        Args:
            by: What tells methods apart: ``strategy``, another group such as ``privacy``, or a
                setting such as ``privacy.epsilon``. What else differs is a setting of its own.
            reference: The method that the others are held against; by default all pairs are tested.
            after: The point of a round, ``distillation`` or ``training``; ``auto`` is that of the
                methods' papers.
            last: How many rounds the mean of the last takes.
            metric: What methods are held against each other by: ``accuracy``, or a metric that all
                runs were asked for, such as ``macro_f1``.

        Returns:
            Differences with Holm's correction over all tests of the table, for the completed runs.

        Raises:
            SettingError: No method is the reference, or nothing can be compared.
        """
        at_least(1, last=last)
        if metric not in (judged := ("accuracy", *METRIC_NAMES)):
            raise unknown_name("metric", metric, judged)
        if after not in get_args(After):
            raise SettingError(f"after must be one of {', '.join(get_args(After))}, got {after!r}")
        done, left_out = self._readable()
        self._warn(left_out)
        if not done:
            raise SettingError(f"{self.folder}: no run is complete")
        configs = {folder: self._configs[folder] for folder in done}
        if not any(key == by or key.startswith(f"{by}.") for c in configs.values() for key in c):
            known = {key for c in configs.values() for key in c} | {"strategy", "privacy"}
            raise unknown_name("setting in by", by, known)
        folders = sort_runs(configs, by)
        runs = {
            key: {seed: read_run(folder) for seed, folder in of.items()}
            for key, of in folders.items()
        }
        by_name = {
            ", ".join([key[0], *(f"{name}={value}" for name, value in key[1]), f"seed {seed}"]): run
            for key, of in runs.items()
            for seed, run in of.items()
        }
        point = point_of_comparison(by_name, after)
        length = min(run.length for of in runs.values() for run in of.values())
        options = Options(after=point, last=min(last, length), metric=metric)
        check_metric(by_name, options)
        lines = compare(runs, options)
        methods = list(dict.fromkeys(line.method for line in lines))
        against = None if reference is None else _method(reference, methods)
        found = pairs(lines, options, against)
        return MethodComparison(
            frame=_frame_of_pairs(found),
            methods=_frame_of_lines(lines),
            verdicts=tuple(_sentence(pair, name) for pair in found for name in pair.verdicts),
            left_out=tuple(left_out),
        )

    def _readable(self) -> tuple[list[Path], list[str]]:
        """Return the completed runs, and of the others what is wrong with them."""
        done, others = [], []
        for run in self._runs:
            state, problem, _ = _state(run)
            if state == "completed" and run.folder in self._configs:
                done.append(run.folder)
            else:
                others.append(f"{self._name(run)}: {problem or state}")
        return done, others

    def _warn(self, left_out: Sequence[str]) -> None:
        if left_out:
            said = "; ".join(left_out)
            warnings.warn(f"left out of the comparison: {said}", RunWarning, stacklevel=3)


def _config(run: StoredRun) -> dict[str, Any] | None:
    try:
        run.config  # noqa: B018 - raises where its checksum is another
        return read_config(run.folder)
    except FedkdError:
        return None


def _state(run: StoredRun) -> tuple[str, str | None, dict[str, Any]]:
    """Return how a run ended, what is wrong with it, and its summary."""
    try:
        run.config  # noqa: B018 - raises where its checksum is another
        state = run.status
        if state == "completed":
            read_run(run.folder)
        summary = run.summary
    except FedkdError as error:
        return "damaged", str(error), {}
    problems = {"running": "it is going on, or its process was killed"}
    return state, summary.get("stopped") or problems.get(state), summary


def _cell(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _method(reference: object, methods: Sequence[str]) -> str:
    """Return the name of the method that others are held against, perhaps a setting's value.

    Raises SettingError where no method has it.
    """
    wanted = str(reference).lower() if isinstance(reference, bool) else str(reference)
    for method in methods:
        with suppress(ValueError):
            if isinstance(reference, int | float) and float(method) == reference:
                return method
        if method == wanted:
            return method
    raise SettingError(f"reference={wanted}: it is none of {', '.join(methods)}")


def _frame_of_pairs(found: Sequence[Pair]) -> "pandas.DataFrame":
    import pandas

    rows = []
    for pair in found:
        row: dict[str, object] = {**dict(pair.setting), "method": pair.method, "other": pair.other}
        row["seeds"] = len(pair.seeds)
        for name, verdict in pair.verdicts.items():
            where = name.partition("_")[0]
            row[f"{where}_difference"] = pair.differences[name].mean
            row[f"{where}_half"] = pair.differences[name].half
            row[f"{where}_p"] = verdict.p_value
            row[f"{where}_verdict"] = WORDS.get(verdict.word, verdict.word)
        rows.append(row)
    return pandas.DataFrame(rows)


def _frame_of_lines(lines: Sequence[Line]) -> "pandas.DataFrame":
    import pandas

    rows, known = [], known_figures(lines)
    for line in lines:
        row: dict[str, object] = {**dict(line.setting), "method": line.method}
        row["seeds"] = len(line.runs)
        for name in known:
            interval = line.figures[name]
            row |= {name: interval.mean, f"{name}_half": interval.half}
        for name in ACCURACIES:
            gain = f"{name.removesuffix('_accuracy')}_gain"
            row |= {f"{gain}_p": line.tests[name].t, f"{gain}_p_holm": line.holm[name]}
        rows.append(row)
    return pandas.DataFrame(rows)


def _sentence(pair: Pair, name: str) -> str:
    """Return what paired seeds say of two methods on one test set."""
    where, _, metric = name.partition("_")
    of = "" if metric == "accuracy" else f" of {metric}"
    verdict, apart = pair.verdicts[name], points(pair.differences[name])
    setting = "".join(f", {key}={value}" for key, value in pair.setting)
    seeds = f"{len(pair.seeds)} seeds" if len(pair.seeds) != 1 else "1 seed"
    said = {
        "holds": "is ahead of",
        "does NOT hold": "is behind",
        "not shown": "is not shown to differ from",
    }.get(verdict.word, "cannot be told from")
    how = verdict.p or verdict.word
    found = f"{apart} points{of} ({how}, {seeds}{setting})"
    return f"{pair.method} {said} {pair.other} {WHERE[where]}: {found}"
