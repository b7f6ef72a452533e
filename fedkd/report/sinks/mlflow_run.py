"""The sink of MLflow: metrics each round, settings as parameters, files at the end.

Written by MLflow's client, so that nothing of a user's own active run is touched.
"""

import contextlib
import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedkd.errors import RunError
from fedkd.report.report_settings import PROJECT, Report
from fedkd.report.sinks.sink import (
    LOCAL_ONLY,
    Ending,
    SinkRound,
    SinkRun,
    infinity_as_text,
    reason,
)
from fedkd.settings.optional_libraries import not_installed
from fedkd.settings.schema import flat
from fedkd.storage.atomic_files import write_whole

LONGEST_VALUE = 500
"""Letters that every version of MLflow takes as a parameter."""
AT_ONCE = 100
"""Parameters that MLflow takes in one call."""
FILES = ("config.yaml", "summary.json")
ID_FILE = "mlflow_id"


def check(options: Report) -> None:
    """Raise SettingError where the package is missing."""
    try:
        import mlflow  # noqa: F401
    except ImportError as error:
        raise not_installed(f"report.mlflow={options.mlflow}", "mlflow") from error


def begin(options: Report, run: SinkRun) -> "MlflowRun":
    """Return the MLflow run of a run that begins or goes on. Raises RunError."""
    return MlflowRun(options, run)


def _name(text: str) -> str:
    """Return a name with those letters alone that MLflow takes."""
    return re.sub(r"[^\w./ -]", "_", text)


class MlflowRun:
    """One run in MLflow."""

    title = "MLflow"

    def __init__(self, options: Report, run: SinkRun) -> None:
        """Start the run at the tracking URI, or continue it if the run is resumed."""
        self._uri, self._folder = str(options.mlflow), run.folder
        try:
            from mlflow.tracking import MlflowClient

            for name in ("mlflow", "alembic"):  # they tell of tables that they make
                logging.getLogger(name).setLevel(logging.ERROR)
            self._client = MlflowClient(tracking_uri=self._uri)
            self._id = self._known(run.folder / ID_FILE) or self._start(options, run)
        except Exception as error:  # the disk, the network, or MLflow
            raise RunError(
                f"report.mlflow={self._uri}: MLflow cannot begin the run: {reason(error)};"
                " report.mlflow=null leaves it out"
            ) from error

    def _known(self, path: Path) -> str | None:
        """Return the id of a run that goes on; None where there is none at this URI."""
        with contextlib.suppress(Exception):  # there is no file, or it is of another URI
            found = str(self._client.get_run(path.read_text(encoding="utf-8")).info.run_id)
            self._client.update_run(found, status="RUNNING")
            return found
        return None

    def _start(self, options: Report, run: SinkRun) -> str:
        project = options.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = self._client.get_experiment_by_name(project)
        experiment = (
            self._client.create_experiment(project) if found is None else found.experiment_id
        )
        tags = {
            "scenario": options.group or run.scenario,
            "strategy": options.job_type or run.strategy,
            "folder": str(run.folder.absolute()),
            "mlflow.note.content": options.notes or run.description,
            **dict(_as_pair(tag) for tag in options.tags),
        }
        made = self._client.create_run(experiment, run_name=run.name, tags=tags)
        run_id = str(made.info.run_id)
        write_whole(run.folder / ID_FILE, [run_id.encode()])
        self._log_settings(run_id, run.settings)
        return run_id

    def _log_settings(self, run_id: str, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        found = [
            Param(_name(key), str(value)[:LONGEST_VALUE])
            for key, value in flat(infinity_as_text(settings)).items()
        ]
        for start in range(0, len(found), AT_ONCE):
            self._client.log_batch(run_id, params=found[start : start + AT_ONCE])

    def round(self, row: SinkRound) -> None:
        """Log the figures of a round, and beside them those of the local-only baseline."""
        from mlflow.entities import Metric

        alone = {f"{name}{LOCAL_ONLY}": value for name, value in row.figures_alone().items()}
        now = int(1000 * time.time())
        metrics = [
            Metric(_name(name), float(value), now, row.round_number)
            for name, value in {**row.figures(), **alone}.items()
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def tell(self, ending: Ending) -> None:
        """Log the summary's numbers as the run's, the settings, the summary and the pictures."""
        from mlflow.entities import Metric

        now, last = int(1000 * time.time()), len(ending.rounds)
        numbers = {
            name: value
            for name, value in ending.summary.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        metrics = [
            Metric(f"summary/{_name(name)}", float(value), now, last)
            for name, value in numbers.items()
        ]
        self._client.log_batch(self._id, metrics=metrics)
        for name in FILES:
            if (self._folder / name).exists():
                self._client.log_artifact(self._id, str(self._folder / name))
        for path in ending.pictures:
            self._client.log_artifact(self._id, str(path), "plots")

    def close(self, status: int) -> None:
        """End the run."""
        self._client.set_terminated(self._id, "FAILED" if status else "FINISHED")

    def lines(self) -> list[str]:
        """Return where the run is."""
        return [f"MLflow: run {self._id} at {self._uri}"]


def _as_pair(tag: str) -> tuple[str, str]:
    """Return a tag as a name and a value.

    >>> _as_pair("privacy.epsilon=4"), _as_pair("mine")
    (('privacy.epsilon', '4'), ('mine', 'true'))
    """
    name, equals, value = tag.partition("=")
    return _name(name), value if equals else "true"
