"""Write and read the run folder: every file of a run but the pictures.

Lines are flushed as they come; nothing is overwritten.
"""

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from fedkd.errors import RunError, SettingError
from fedkd.federation.round_records import ClientRecord, RoundRecord
from fedkd.report.record_rows import client_record, strategy_figures

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

TABLES = ("clients.csv", "teacher_by_class.csv")
GROWING = ("rounds.jsonl", *TABLES)
RUNNING = {"status": "running"}
"""The summary until a run ends, and for good where its process was killed."""
FILES = ("config.yaml", *GROWING, "summary.json", "weights.npy")


class RunFolder:
    """One run's folder, claimed for it alone.

    Everything up to the last finished round is on disk at any moment: ``rounds.jsonl`` and the
    tables ``clients.csv`` and ``teacher_by_class.csv`` are flushed each round, and ``weights.npy``
    [rounds so far, K, K] grows by one. ``summary.json`` says ``running`` until the run ends.
    """

    def __init__(self, path: Path, held: IO[str] | None, weighed: int = 0) -> None:
        """Open the files of a folder that ``create`` or ``reopen`` has made ready.

        Args:
            path: The folder.
            held: The lock on it.
            weighed: Rounds in ``weights.npy``.
        """
        self.path = path
        self._lock, self._weighed = held, weighed
        self._columns: dict[str, Sequence[str]] = {}
        (path / "rounds.jsonl").touch()
        self._write_summary(RUNNING)

    @classmethod
    def create(cls, path: Path, config: str) -> "RunFolder":
        """Return the folder of a new run with its configuration.

        Raises SettingError where there is a run already, or nothing can be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            present = [name for name in FILES if (path / name).exists()]
            if present:
                raise SettingError(
                    f"run_dir={path} already holds a run ({', '.join(present)}); name another"
                    " folder, or move that one"
                )
            # This claims the folder, also against a run that begins at the same moment.
            with (path / "config.yaml").open("x") as file:
                file.write(config)
            return cls(path, lock(path))
        except FileExistsError as error:
            raise SettingError(
                f"run_dir={path} is a file, or another run has just claimed it; name another folder"
            ) from error
        except OSError as error:
            raise SettingError(
                f"run_dir={path} cannot be written: {error.strerror}; name another folder"
            ) from error

    @classmethod
    def reopen(cls, path: Path, sizes: Mapping[str, int], rounds: int) -> "RunFolder":
        """Return the folder of a run that goes on after ``rounds``, which ``claimed`` holds.

        Its files are cut to the ``sizes`` that they had then. Raises RunError where one is shorter.
        """
        try:
            weighed = _cut_weights(path / "weights.npy", rounds)
            for name in GROWING:
                _cut(path / name, sizes.get(name, 0))
            folder = cls(path, None, weighed)
            for name in TABLES:
                if (path / name).exists():
                    folder._continue_table(name)
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror}") from error
        return folder

    def sizes(self) -> dict[str, int]:
        """Return the length in bytes of the files that grow."""
        return {
            name: (self.path / name).stat().st_size
            for name in GROWING
            if (self.path / name).exists()
        }

    def _append(self, name: str, text: str) -> None:
        """Write to the end of a file. Nothing waits in a buffer, to be written after a failure."""
        rest = memoryview(text.encode())
        with (self.path / name).open("ab", buffering=0) as file:
            while rest:
                rest = rest[file.write(rest) :]

    def _continue_table(self, name: str) -> None:
        """Go on with a table that has its first line."""
        with (self.path / name).open(newline="") as file:
            self._columns[name] = next(csv.reader(file))

    def add_round(
        self,
        row: Mapping[str, Any],
        clients: Sequence[Mapping[str, Any]],
        weights: np.ndarray | None,
        teachers: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Write a finished round.

        Args:
            row: Its row of ``rounds.jsonl``.
            clients: Its rows of ``clients.csv``.
            weights: Its weights [K, K]; None where nothing was fused.
            teachers: Its rows of ``teacher_by_class.csv``.

        Raises RunError where the disk does not take it; earlier rounds are whole then.
        """
        before = self.sizes()
        try:
            self._append("rounds.jsonl", json.dumps(jsonable(row), allow_nan=False) + "\n")
            self._add_rows("clients.csv", clients)
            self._add_rows("teacher_by_class.csv", teachers)
            if weights is not None:
                self._add_weights(int(row["round"]), weights)
        except OSError as error:
            for name in GROWING:
                with contextlib.suppress(OSError):
                    os.truncate(self.path / name, before.get(name, 0))
            raise RunError(
                f"{self.path} can no longer be written ({error.strerror}); what was written before"
                " round"
                f" {row['round']} is there"
            ) from error

    def _add_rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows into a table, which begins with its first one."""
        if not rows:
            return
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, fieldnames=self._columns.get(name, list(rows[0])))
        if name not in self._columns:
            self._columns[name] = list(rows[0])
            table.writeheader()
        table.writerows(rows)
        self._append(name, text.getvalue())

    def _add_weights(self, round_number: int, weights: np.ndarray) -> None:
        """Write a round's weights, then the header that says that there is one round more.

        Plain writes, not a memory map: a full disk would end a process that writes to a map.
        """
        path = self.path / "weights.npy"
        header = _npy_header((round_number, *weights.shape))
        with path.open("r+b" if path.exists() else "xb") as file:
            if self._weighed == 0:
                file.write(_npy_header((0, *weights.shape)))
            file.seek(len(header) + self._weighed * weights.nbytes)
            for _ in range(self._weighed, round_number - 1):  # rounds in which nothing was fused
                file.write(np.full(weights.shape, np.nan, "<f4").tobytes())
            file.write(np.ascontiguousarray(weights, dtype="<f4").tobytes())
            file.flush()
            file.seek(0)
            file.write(header)
        self._weighed = round_number

    def finish(self, summary: Mapping[str, Any], *, quietly: bool = False) -> None:
        """Write the summary, complete or not at all, and close every file.

        Raises RunError where the disk does not take it, unless ``quietly``: then something else has
        failed before.
        """
        try:
            self._write_summary(summary)
        except OSError as error:
            if not quietly:
                raise RunError(
                    f"{self.path / 'summary.json'} cannot be written: {error.strerror}"
                ) from error
        finally:
            if self._lock is not None:
                self._lock.close()

    def _write_summary(self, summary: Mapping[str, Any]) -> None:
        partial = self.path / "summary.json.partial"
        try:
            partial.write_text(json.dumps(jsonable(summary), indent=2, allow_nan=False) + "\n")
            partial.replace(self.path / "summary.json")
        except OSError:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold a run's folder while it goes on.

    Raises SettingError where it is no run's, or another process holds it.
    """
    if not (path / "config.yaml").is_file():
        raise SettingError(f"resume={path}: this is no run's folder (it has no config.yaml)")
    held = lock(path)
    try:
        yield
    finally:
        if held is not None:
            held.close()


def lock(path: Path) -> IO[str] | None:
    """Return a lock on a run's folder that ends with this process.

    None where the file system has no locks.
    """
    if fcntl is None:
        return None
    file = (path / "config.yaml").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise SettingError(
            f"run_dir={path}: another process is running this run; wait for it, or end it"
        ) from error
    except OSError:  # no locks here, as on some network file systems
        file.close()
        return None
    return file


def recorded_rounds(path: Path) -> int:
    """Return how many rounds of a run were finished, whether a checkpoint has them or not."""
    return (
        (path / "rounds.jsonl").read_bytes().count(b"\n") if (path / "rounds.jsonl").exists() else 0
    )


def stored_records(path: Path, rounds: int) -> list[RoundRecord]:
    """Return the records of a run's first rounds, read from its files."""
    lines = (path / "rounds.jsonl").read_text().splitlines()[:rounds]
    by_class = _teachers_by_class(path / "teacher_by_class.csv")
    clients: dict[int, list[ClientRecord]] = {}
    with (path / "clients.csv").open(newline="") as file:
        for cells in csv.DictReader(file):
            round_number = int(cells["round"])
            if round_number <= rounds:
                record = client_record(cells, by_class.get((round_number, int(cells["client"]))))
                clients.setdefault(round_number, []).append(record)
    weights = (
        np.load(path / "weights.npy", mmap_mode="r")
        if (path / "weights.npy").exists()
        else np.zeros(0)
    )
    return [
        RoundRecord(
            round=row["round"],
            clients=tuple(clients[row["round"]]),
            seconds=row["seconds"],
            weights=_weights_of(weights, row["round"]),
            knowledge_sha256=row["knowledge_sha256"],
            exposure=row.get("exposure"),
            metrics=strategy_figures(row),
        )
        for row in map(json.loads, lines)
    ]


def _teachers_by_class(path: Path) -> dict[tuple[int, int], tuple[float, ...]]:
    """Return ``teacher_by_class`` by round and client; an empty cell is NaN."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = csv.reader(file)
        next(rows)
        return {
            (int(round_number), int(client)): tuple(float(c) if c else math.nan for c in cells)
            for round_number, client, *cells in rows
        }


def _cut(path: Path, size: int) -> None:
    """Cut a file to a size in bytes, and delete one of which nothing is left."""
    present = path.stat().st_size if path.exists() else 0
    if present < size:
        raise RunError(f"{path} is shorter than its checkpoint says; the run cannot go on")
    if size:
        os.truncate(path, size)
    else:
        path.unlink(missing_ok=True)


def _cut_weights(path: Path, rounds: int) -> int:
    """Cut stored weights to so many rounds, if there are more, and return how many there are."""
    if not path.exists():
        return 0
    stored: np.ndarray = np.load(path, mmap_mode="r")
    remaining = min(rounds, len(stored))
    shape = (remaining, *stored.shape[1:])
    del stored
    header = _npy_header(shape)
    with path.open("r+b") as file:
        file.write(header)  # first: a header never promises more than there is
        file.truncate(len(header) + 4 * math.prod(shape))
    return remaining


def _weights_of(stored: np.ndarray, round_number: int) -> torch.Tensor | None:
    if len(stored) < round_number or np.isnan(stored[round_number - 1]).all():
        return None
    return torch.from_numpy(np.array(stored[round_number - 1]))


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """Return the header of a float32 array file; as long for any number of rounds below 10^20."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return out.getvalue()


def jsonable(value: Any) -> Any:
    """Return plain values with NaN and infinity as null, which JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: jsonable(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
