"""The Weights & Biases report: metrics each round, tables and plots at the end.

The only module that imports ``wandb``; it is imported only by runs that log to W&B.
"""

import math
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkd.errors import SettingError
from fedkd.report.folder import jsonable
from fedkd.report.report_settings import Report


def check_account(options: Report) -> None:
    """Raise SettingError if the run logs online and W&B knows no account. It never prompts."""
    if options.wandb != "online":
        return
    import wandb

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
        id_file = folder / "wandb_id"  # so that a resumed run continues the same W&B run
        if not id_file.exists():
            id_file.write_text(uuid.uuid4().hex[:8])
        self._run = wandb.init(
            id=id_file.read_text(),
            resume="allow" if options.wandb == "online" else None,
            project=options.project,
            group=options.group or name,
            name=folder.name,
            tags=list(options.tags) or None,
            config=dict(jsonable(_infinity_as_text(config))),
            dir=str(folder),
            mode=options.wandb,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )

    def round(self, row: Mapping[str, Any]) -> None:
        """Log the figures of a round."""
        numbers = {k: v for k, v in jsonable(row).items() if isinstance(v, int | float)}
        self._run.log(numbers, step=row["round"])

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
        self._run.finish(exit_code=status)


def _infinity_as_text(value: Any) -> Any:
    """Return settings with infinity as text.

    JSON has no infinity, and ``epsilon=inf`` must not become ``epsilon=null``.
    """
    if isinstance(value, Mapping):
        return {key: _infinity_as_text(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_infinity_as_text(v) for v in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
