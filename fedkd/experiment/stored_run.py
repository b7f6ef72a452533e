"""Read a run's folder as Python values: tables, arrays, models, pictures.

What a folder holds is read when it is asked for. Not for: several runs (``fedkd.cli.stored_runs``).
"""

import json
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from fedkd.errors import Damaged, RunError, SettingError
from fedkd.report.comparison.run_reader import status
from fedkd.report.folder import RUNNING, recorded_rounds, stored_records
from fedkd.report.run_checksums import WEIGHTS, check_run
from fedkd.scenario.scenario import Scenario, check_names
from fedkd.scenario.trust import check_trust
from fedkd.settings.validators import user_path
from fedkd.storage.client_states import DiskStore

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from torch import nn

    from fedkd.experiment.build import Experiment
    from fedkd.federation.round_records import RoundRecord


class StoredRun:
    """A run in its folder: finished, stopped, interrupted or going on.

    ``fedkd.run`` and ``fedkd.resume`` return one, and ``fedkd.load`` reads one. Files are read when
    they are asked for; one that is not what the run wrote raises ``fedkd.errors.Damaged``.
    """

    folder: Path
    """Where the run lies."""

    def __init__(self, folder: str | Path, *, trust: bool = False) -> None:
        """Describe a run's folder.

        Args:
            folder: The folder.
            trust: Whether what the run names and is not fedkd's may be imported, to build models.

        Raises:
            SettingError: It is no run's.
        """
        self.folder = user_path(str(folder), "folder")
        self._trust = trust
        if not any((self.folder / name).is_file() for name in ("config.yaml", "summary.json")):
            raise SettingError(
                f"{self.folder}: no run's folder (it has neither config.yaml nor summary.json)"
            )

    def __repr__(self) -> str:
        try:
            config = self.config
            return (
                f"StoredRun({str(self.folder)!r}: strategy {config['strategy']['name']}, seed"
                f" {config['seed']}, {self.status}, {recorded_rounds(self.folder)} of"
                f" {config['rounds']} rounds)"
            )
        except Exception as error:  # a representation never raises
            return f"StoredRun({str(self.folder)!r}: {error})"

    @property
    def status(self) -> str:
        """How it ended: completed, stopped (by a callback), interrupted, failed; or running."""
        return status(self.folder) or "running"

    @property
    def config(self) -> dict[str, Any]:
        """All settings, as ``config.yaml`` has them."""
        check_run(self.folder, "config.yaml")
        try:
            found: dict[str, Any] = yaml.safe_load((self.folder / "config.yaml").read_bytes())
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise Damaged(f"{self.folder / 'config.yaml'} cannot be read: {error}") from error
        if not isinstance(found, dict):
            raise Damaged(f"{self.folder / 'config.yaml'} holds no settings")
        return found

    @property
    def summary(self) -> dict[str, Any]:
        """The final figures, claims and versions, as ``summary.json`` has them."""
        if not (self.folder / "summary.json").is_file():  # it has just begun
            return dict(RUNNING)
        check_run(self.folder, "summary.json")
        found: dict[str, Any] = json.loads(self._text("summary.json"))
        return found

    @property
    def rounds(self) -> "pandas.DataFrame":
        """A row a round: the columns of ``rounds.jsonl`` (docs/columns.md), and ``own/...``."""
        import pandas

        check_run(self.folder, "rounds.jsonl")
        rows = [json.loads(line) for line in self._text("rounds.jsonl").splitlines()]
        return pandas.DataFrame(rows)

    @property
    def clients(self) -> "pandas.DataFrame":
        """A row a client and round: the columns of ``clients.csv`` (docs/columns.md)."""
        import pandas

        check_run(self.folder, "clients.csv")
        path = self.folder / "clients.csv"
        if not path.is_file():
            return pandas.DataFrame()
        try:
            return pandas.read_csv(
                path, keep_default_na=False, na_values=[""], float_precision="round_trip"
            )
        except (OSError, ValueError) as error:
            raise Damaged(f"{path} cannot be read: {error}") from error

    @property
    def weights(self) -> np.ndarray | None:
        """[rounds, K, K]: how much client j (last axis) taught client i in each round.

        NaN where nothing was fused; None where the run recorded none.
        """
        check_run(self.folder, WEIGHTS)
        path, rounds = self.folder / WEIGHTS, recorded_rounds(self.folder)
        if not path.is_file():
            return None
        try:
            found: np.ndarray = np.load(path)[:rounds]
        except (OSError, ValueError) as error:
            raise Damaged(f"{path} cannot be read: {error}") from error
        missing = np.full((rounds - len(found), *found.shape[1:]), np.nan, found.dtype)
        return np.concatenate([found, missing])

    @cached_property
    def scenario(self) -> Scenario:
        """The run's checked settings. Raises SettingError where they would import what is foreign.

        ``fedkd.load(folder, trust=True)`` vouches for them.
        """
        stored = self.config
        check_trust(stored, str(self.folder), trust=self._trust)
        check_names(stored, f"the run in {self.folder}")
        return Scenario.parse(stored)

    def model(self, client: int) -> "nn.Module":
        """Return a client's model with its last stored weights, in evaluation mode.

        Each call returns a new module. A client that never took part has its initial weights.

        Args:
            client: Its number, from 0.

        Raises:
            SettingError: There is no such client, or the run kept no states.
        """
        context = self.experiment.context
        clients = len(context.architectures)
        if not isinstance(client, int | np.integer) or not 0 <= client < clients:
            raise SettingError(f"client must be from 0 to {clients - 1}, got {client!r}")
        client = int(client)
        return context.own_model(client, self._states()).eval()

    @property
    def models(self) -> list["nn.Module"]:
        """All clients' models, as ``model`` returns them."""
        return [self.model(client) for client in range(len(self.experiment.context.architectures))]

    def plot(self, name: str) -> "Figure":
        """Return a picture of the run: accuracy, partition, weights or gain.

        Raises SettingError for another name, or where the run has no data for it.
        """
        from fedkd.report.pages.run_facts import stored_baseline
        from fedkd.report.plots import draw, drawings_of

        records = self._records()
        if not records:
            raise SettingError(f"{self.folder} has no finished round to draw")
        drawings = drawings_of(self.experiment.plan, records, stored_baseline(records))
        return shown_in_notebooks(draw(name, drawings))

    @cached_property
    def experiment(self) -> "Experiment":
        """The objects of the run, built again: its task, its clients' architectures, its plan."""
        from fedkd.experiment.build import build

        return build(self.scenario, threading.Event())

    def _records(self) -> "Sequence[RoundRecord]":
        check_run(self.folder, "rounds.jsonl", "clients.csv")
        return stored_records(self.folder, recorded_rounds(self.folder))

    def _states(self) -> DiskStore:
        """Return the stored states of clients. Raises SettingError where none were kept."""
        states = DiskStore(self.folder / "states")
        if not states.client_ids():
            config = self.config
            if config["checkpoint"]["every"] == 0 and config["client_store"] == "memory":
                raise SettingError(
                    f"{self.folder} kept no models: it ran with checkpoint.every=0; run with"
                    " checkpoint.every=1 (the default) to keep them"
                )
            raise SettingError(f"{self.folder} has no models: its folder 'states' is empty or gone")
        return states

    def _text(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise RunError(f"{self.folder / name} cannot be read: {error}") from error


def shown_in_notebooks(figure: "Figure") -> "Figure":
    """Return a figure that a notebook shows as a picture, without pyplot."""
    import io

    def as_png() -> bytes:
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=100)
        return content.getvalue()

    figure._repr_png_ = as_png  # type: ignore[attr-defined]
    return figure
