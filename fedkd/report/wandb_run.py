"""The Weights & Biases report: metrics each round, tables and plots at the end.

The only module that imports ``wandb``; it is imported only by runs that log to W&B.
"""

import contextlib
import math
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedkd.errors import RunError, SettingError
from fedkd.report.folder import jsonable
from fedkd.report.report_settings import Report
from fedkd.runtime.standard_streams import notice
from fedkd.storage.atomic_files import write_whole


def check_account(options: Report) -> None:
    """Raise SettingError where W&B would refuse the run, by what it says itself. It never prompts.

    That is for its tags, its project or the environment, or, online, as it knows no account.
    """
    if options.wandb == "disabled":
        return
    import wandb

    if not options.project:
        raise SettingError("report.project must not be empty")
    try:
        settings = wandb.Settings(
            project=options.project,
            run_group=options.group or None,
            run_tags=options.tags or None,
            mode=options.wandb,
        )
        settings.update_from_env_vars(dict(os.environ))
    except Exception as error:  # W&B's own errors, or pydantic's
        raise SettingError(f"report.wandb={options.wandb}: W&B refuses {_reason(error)}") from error
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


def _run_id(path: Path) -> str:
    """Return W&B's id of a run, in a file, so that a resumed run continues the same one."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = path.read_text()
        if re.fullmatch("[0-9a-f]{8}", found):
            return found
    if path.exists():
        notice(f"{path} is damaged; W&B gets another run for the rest of this one")
    made = uuid.uuid4().hex[:8]
    write_whole(path, [made.encode()])
    return made


def _reason(error: Exception) -> str:
    """Return what W&B refuses, in a line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return " ".join(str(error).split())


class WandbReport:
    """Logs one run to W&B. ``wandb sync`` later uploads offline runs from the run's folder."""

    def __init__(self, options: Report, name: str, config: Mapping[str, Any], folder: Path) -> None:
        """Start the W&B run, or continue it if the run is resumed.

        Args:
            options: The settings of the report.
            name: The scenario's name, the default group.
            config: The run's settings.
            folder: The run's folder.
        """
        import wandb

        self._wandb = wandb
        self._lost = False
        settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
        try:
            self._run = wandb.init(
                id=_run_id(folder / "wandb_id"),
                resume="allow" if options.wandb == "online" else None,
                project=options.project,
                group=options.group or name,
                name=folder.name,
                tags=list(options.tags) or None,
                config=dict(jsonable(_infinity_as_text(config))),
                dir=str(folder),
                mode=options.wandb,
                settings=settings,
            )
        except Exception as error:  # the disk, the network, or W&B
            raise RunError(
                f"report.wandb={options.wandb}: W&B cannot begin the run: {_reason(error)};"
                " report.wandb=disabled leaves it out"
            ) from error

    def round(self, row: Mapping[str, Any]) -> None:
        """Log the figures of a round."""
        numbers = {k: v for k, v in jsonable(row).items() if isinstance(v, int | float)}
        with self._going_on():
            self._run.log(numbers, step=row["round"])

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """Let the run go on where W&B fails, with a word the first time."""
        try:
            yield
        except Exception as error:
            if not self._lost:
                notice(f"W&B takes no more of this run ({_reason(error)}); it goes on without")
            self._lost = True

    def finish(
        self,
        summary: Mapping[str, Any],
        clients: Sequence[Mapping[str, Any]],
        spent: Sequence[Mapping[str, Any]],
        pictures: Sequence[Path],
        status: int,
    ) -> None:
        """Log the summary, the final tables and the plots, and end the W&B run.

        Args:
            summary: The run's, as in ``summary.json``.
            clients: Rows of the clients in the last round.
            spent: Rows of each client's epsilon by round.
            pictures: PNG files.
            status: The exit status; 0 for success.
        """
        with self._going_on():
            self._log_end(summary, clients, spent, pictures)
        with self._going_on():
            self._run.finish(exit_code=status)

    def _log_end(
        self,
        summary: Mapping[str, Any],
        clients: Sequence[Mapping[str, Any]],
        spent: Sequence[Mapping[str, Any]],
        pictures: Sequence[Path],
    ) -> None:
        for key, value in jsonable(summary).items():
            self._run.summary[key] = value
        last: dict[str, Any] = {path.stem: self._wandb.Image(str(path)) for path in pictures}
        claims = summary["privacy"].get("claims", [])
        shown = [
            {key: "; ".join(v) if isinstance(v, tuple) else v for key, v in claim.items()}
            for claim in claims
        ]
        for name, rows in (("clients", clients), ("epsilon_by_client", spent), ("claims", shown)):
            if rows:
                columns = list(rows[0])
                last[name] = self._wandb.Table(
                    columns=columns, data=[[row[c] for c in columns] for row in rows]
                )
        if last:
            self._run.log(last)


def _infinity_as_text(value: Any) -> Any:
    """Return settings with infinity as text.

    JSON has no infinity, and ``epsilon=inf`` must not become ``epsilon=null``.
    """
    if isinstance(value, Mapping):
        return {key: _infinity_as_text(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_infinity_as_text(v) for v in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
