"""Weights & Biases, at its edge: metrics each round, tables and pictures at the end. Imported only
when asked for.
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
    """Raise SettingError where the run is to be logged online and no account is known, without
    asking for one.
    """
    if options.wandb != "online":
        return
    import wandb

    try:
        known = wandb.login(prompt=False)
    except Exception as error:  # whatever W&B raises, nothing has run yet and the user must choose
        raise SettingError(
            f"report.wandb=online: W&B does not let us in: {' '.join(str(error).split())}"
        ) from error
    if not known:
        raise SettingError(
            "report.wandb=online needs an account: run `wandb login`, or use report.wandb=offline"
        )


class WandbReport:
    """One W&B run. Offline runs are written into the run folder; ``wandb sync`` uploads them
    later.
    """

    def __init__(self, options: Report, name: str, config: Mapping[str, Any], folder: Path) -> None:
        import wandb

        self._wandb = wandb
        named = folder / "wandb_id"  # a run that is resumed goes on in the same run there
        if not named.exists():
            named.write_text(uuid.uuid4().hex[:8])
        self._run = wandb.init(
            id=named.read_text(),
            resume="allow" if options.wandb == "online" else None,
            project=options.project,
            group=options.group or name,
            name=folder.name,
            tags=list(options.tags) or None,
            config=dict(jsonable(_infinite_in_words(config))),
            dir=str(folder),
            mode=options.wandb,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )

    def round(self, row: Mapping[str, Any]) -> None:
        """Log a round's numbers."""
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
        """Log the final figures, tables and pictures; then close.

        Tables: the clients of the last round; ``spent``, each client's epsilon by round; what the
        run claims.
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


def _infinite_in_words(value: Any) -> Any:
    """Return settings with infinity as text, which JSON has no number for: ``epsilon=inf`` is not
    ``epsilon=null``.
    """
    if isinstance(value, Mapping):
        return {key: _infinite_in_words(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_infinite_in_words(v) for v in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
