"""The run folder: every file of a run but the pictures. Lines are flushed as they come; nothing is overwritten."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from fedkd.errors import RunError, SettingError

FILES = ("config.yaml", "rounds.jsonl", "clients.csv", "summary.json", "weights.npy")


class RunFolder:
    """One run's folder, claimed for it alone.

    Everything up to the last finished round is on disk at any moment: ``rounds.jsonl`` and ``clients.csv`` are
    flushed each round, and ``weights.npy`` [rounds, K, K] is a memory map (NaN in the rounds still to come).
    """

    def __init__(self, path: Path, config: str) -> None:
        self.path = path
        self._clients: csv.DictWriter[str] | None = None
        self._weights: np.memmap[Any, Any] | None = None
        self._open: list[IO[str]] = []
        try:
            path.mkdir(parents=True, exist_ok=True)
            present = [name for name in FILES if (path / name).exists()]
            if present:
                raise SettingError(
                    f"run_dir={path} already holds a run ({', '.join(present)}); name another folder, or move that one"
                )
            with (path / "config.yaml").open("x") as file:  # claims the folder, also against a run beside this one
                file.write(config)
            self._rounds = self._stream("rounds.jsonl")
        except FileExistsError as error:
            raise SettingError(
                f"run_dir={path} is a file, or another run has just claimed it; name another folder"
            ) from error
        except OSError as error:
            raise SettingError(f"run_dir={path} cannot be written: {error.strerror}; name another folder") from error

    def _stream(self, name: str) -> IO[str]:
        stream = (self.path / name).open("x", newline="")
        self._open.append(stream)
        return stream

    def add_round(
        self, row: Mapping[str, Any], clients: Sequence[Mapping[str, Any]], weights: np.ndarray | None, rounds: int
    ) -> None:
        """Write a finished round. Raises RunError where the disk does not take it."""
        try:
            self._rounds.write(json.dumps(jsonable(row), allow_nan=False) + "\n")
            self._rounds.flush()
            if self._clients is None:
                self._table = self._stream("clients.csv")
                self._clients = csv.DictWriter(self._table, fieldnames=list(clients[0]))
                self._clients.writeheader()
            self._clients.writerows(clients)
            self._table.flush()
            if weights is not None:
                self._add_weights(int(row["round"]), weights, rounds)
        except OSError as error:
            raise RunError(
                f"{self.path} can no longer be written ({error.strerror}); what was written before round"
                f" {row['round']} is there"
            ) from error

    def _add_weights(self, number: int, weights: np.ndarray, rounds: int) -> None:
        if self._weights is None:
            self._weights = np.lib.format.open_memmap(
                self.path / "weights.npy", mode="w+", dtype=np.float32, shape=(rounds, *weights.shape)
            )
            self._weights[:] = np.nan
        self._weights[number - 1] = weights
        self._weights.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, complete or not at all, and close every file."""
        partial = self.path / "summary.json.partial"
        partial.write_text(json.dumps(jsonable(summary), indent=2, allow_nan=False) + "\n")
        partial.rename(self.path / "summary.json")
        for stream in self._open:
            stream.close()


def jsonable(value: Any) -> Any:
    """Return plain values with NaN and infinity as null, which JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: jsonable(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
