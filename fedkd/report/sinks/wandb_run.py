"""The sink of Weights & Biases: metrics each round, tables, pictures and settings at the end.

The only module that imports ``wandb``; it is imported only by runs that log to W&B.
"""

import contextlib
import os
import re
import shlex
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkd.errors import RunError, SettingError
from fedkd.report.folder import jsonable
from fedkd.report.record_rows import ACCURACIES
from fedkd.report.report_settings import PROJECT, Report
from fedkd.report.sinks.sink import (
    LOCAL_ONLY,
    OTHERS,
    SECTIONS,
    Ending,
    SinkRound,
    SinkRun,
    infinity_as_text,
    reason,
)
from fedkd.runtime.standard_streams import notice
from fedkd.settings.measuring_points import MEASURING_POINTS, column
from fedkd.settings.optional_libraries import not_installed
from fedkd.storage.atomic_files import write_whole

STEP = "round"
SWEEP_MARK = "sweep.json"
"""A file of a folder with the runs of a sweep, which share one folder of W&B's."""


def check(options: Report) -> None:
    """Raise SettingError where W&B would refuse the run, by what it says itself. It never prompts.

    That is for its tags, its project or the environment, or, online, as it knows no account.
    """
    try:
        import wandb
    except ImportError as error:
        raise not_installed(f"report.wandb={options.wandb}", "wandb") from error
    if options.project == "":
        raise SettingError("report.project must not be empty")
    try:
        settings = wandb.Settings(
            project=_project(options),
            entity=options.entity,
            run_group=options.group or None,
            run_job_type=options.job_type or None,
            run_tags=options.tags or None,
            mode=options.wandb,
        )
        settings.update_from_env_vars(dict(os.environ))
    except Exception as error:  # W&B's own errors, or pydantic's
        raise SettingError(f"report.wandb={options.wandb}: W&B refuses {reason(error)}") from error
    if options.wandb != "online":
        return
    try:
        known = wandb.login(prompt=False)
    except Exception as error:  # W&B may raise anything; no training has started yet
        raise SettingError(
            f"report.wandb=online: W&B refuses the login: {' '.join(str(error).split())}"
        ) from error
    if not known:
        raise SettingError(
            "report.wandb=online needs an account: run `wandb login`, or use report.wandb=offline"
        )


def begin(options: Report, run: SinkRun) -> "WandbRun":
    """Return the W&B run of a run that begins or goes on. Raises RunError."""
    return WandbRun(options, run)


def _project(options: Report) -> str:
    return options.project or os.environ.get("WANDB_PROJECT") or PROJECT


def _run_id(path: Path) -> str:
    """Return W&B's id of a run, in a file, so that a resumed run continues the same one."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = path.read_text(encoding="utf-8")
        if re.fullmatch("[0-9a-f]{8}", found):
            return found
    if path.exists():
        notice(f"{path} is damaged; W&B gets another run for the rest of this one")
    made = uuid.uuid4().hex[:8]
    write_whole(path, [made.encode()])
    return made


def _folder(run_folder: Path) -> Path:
    """Return where W&B's own folder lies: one for all runs of a sweep, or as WANDB_DIR says."""
    named = os.environ.get("WANDB_DIR")
    if named:
        Path(named).mkdir(parents=True, exist_ok=True)  # else W&B takes a temporary folder
        return Path(named)
    parent = run_folder.parent
    return parent if (parent / SWEEP_MARK).exists() else run_folder


class WandbRun:
    """One run in W&B. ``wandb sync`` uploads it later where it is offline."""

    title = "W&B"

    def __init__(self, options: Report, run: SinkRun) -> None:
        """Start the W&B run, or continue it if the run is resumed."""
        import wandb

        self._wandb, self._folder = wandb, run.folder
        self._offline = options.wandb == "offline"
        settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
        try:
            self._run = wandb.init(
                id=_run_id(run.folder / "wandb_id"),
                resume="allow" if options.wandb == "online" else None,
                entity=options.entity,
                project=_project(options),
                group=options.group or run.scenario,
                job_type=options.job_type or run.strategy,
                name=run.name,
                notes=options.notes or run.description or None,
                tags=list(options.tags) or None,
                config=dict(jsonable(infinity_as_text(run.settings))),
                dir=str(_folder(run.folder).absolute()),  # its service may work elsewhere
                mode=options.wandb,
                settings=settings,
            )
            self._run.define_metric(STEP, hidden=True, summary="none")
            for section in (*SECTIONS, OTHERS, "strategy", "own"):
                self._run.define_metric(f"{section}/*", step_metric=STEP, summary="none")
        except Exception as error:  # the disk, the network, or W&B
            raise RunError(
                f"report.wandb={options.wandb}: W&B cannot begin the run: {reason(error)};"
                " report.wandb=disabled leaves it out"
            ) from error

    def round(self, row: SinkRound) -> None:
        """Log the figures of a round, and beside them those of the local-only baseline."""
        alone = {f"{name}{LOCAL_ONLY}": value for name, value in row.figures_alone().items()}
        self._run.log({STEP: row.round_number, **row.figures(), **alone}, step=row.round_number)

    def tell(self, ending: Ending) -> None:
        """Log tables, pictures, the chart of the baseline and the settings, then the summary."""
        last: dict[str, Any] = {path.stem: self._wandb.Image(str(path)) for path in ending.pictures}
        shown = [
            {key: "; ".join(v) if isinstance(v, tuple) else v for key, v in claim.items()}
            for claim in ending.summary["privacy"].get("claims", [])
        ]
        for name, rows in (
            ("clients", ending.clients),
            ("epsilon_by_client", ending.spent),
            ("claims", shown),
        ):
            if rows:
                last[name] = self._table(name, rows)
        last |= self._charts(ending)
        if last:
            self._run.log(last)
        config = self._folder / "config.yaml"
        if config.exists():
            artifact = self._wandb.Artifact(f"config-{self._run.id}", type="config")
            artifact.add_file(str(config), policy="immutable", skip_cache=True)
            self._run.log_artifact(artifact)
        self._run.summary.update(jsonable(ending.summary))  # last: rows have their own bytes_up

    def close(self, status: int) -> None:
        """End the W&B run."""
        self._run.finish(exit_code=status)

    def lines(self) -> list[str]:
        """Return the command that uploads an offline run, or the page of another."""
        if not self._offline:
            url = getattr(self._run, "url", None)
            return [f"W&B: {url}"] if url else []
        folder = Path(self._run.settings.sync_dir)
        here = Path.cwd()
        shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
        return [f"W&B, to upload: {shlex.join(['wandb', 'sync', str(shown)])}"]

    def _table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Return rows as a table; the last ones where there are more than W&B takes."""
        most = self._wandb.Table.MAX_ROWS
        if len(rows) > most:
            notice(f"W&B takes {most} of the {len(rows)} rows of {name}: those of the last rounds")
        columns = list(rows[0])
        data = [[row[column] for column in columns] for row in rows[-most:]]
        return self._wandb.Table(columns=columns, data=data)

    def _charts(self, ending: Ending) -> dict[str, Any]:
        """Return a chart of each accuracy by round: with fusion, at both points, and alone."""
        charts = {}
        if not ending.rounds or not ending.rounds[-1].alone:
            return {}
        for name in ACCURACIES:
            alone = column(name, "training")
            rounds = [row for row in ending.rounds if alone in row.alone]
            if not rounds:  # not measured on this test set
                continue
            curves = {
                f"fused, after {point}": [row.row[column(name, point)] for row in rounds]
                for point in MEASURING_POINTS
            }
            curves["local only"] = [row.alone[alone] for row in rounds]
            known = {key: values for key, values in curves.items() if None not in values}
            charts[f"fused_against_local_only/{name}"] = self._wandb.plot.line_series(
                xs=[row.round_number for row in rounds],
                ys=list(known.values()),
                keys=list(known),
                title=name.replace("_", " "),
                xname=STEP,
            )
        return charts
