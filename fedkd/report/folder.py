"""Write and read the run folder: every file of a run but the pictures.

Lines are written as they come; nothing is overwritten. What was written has checksums: those of the
files that grow in each checkpoint, those of all files beside them once the run ends.
"""

import contextlib
import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from fedkd.errors import Damaged, RunError, SettingError, StorageError
from fedkd.federation.round_records import ClientRecord, RoundRecord
from fedkd.report.record_rows import client_record, figures_by_others, metrics_in
from fedkd.report.run_checksums import GROWING, PLAN, WEIGHTS, begin_checksums, write_checksums
from fedkd.settings.metric_names import MetricName
from fedkd.storage.atomic_files import digest_of, discard_partial, write_whole
from fedkd.storage.growing_files import Extent, GrowingArray, GrowingFile

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

TABLES = GROWING[1:]
NOTHING: Extent = (0, digest_of(b""))
"""The extent of a file that was not begun."""
LONGEST_LINE = 1 << 26
"""The most bytes that a round's line can have."""
RUNNING = {"status": "running"}
"""The summary until a run ends, and for good where its process was killed."""
FILES = ("config.yaml", PLAN, *GROWING, "summary.json", WEIGHTS)


class RunFolder:
    """One run's folder, claimed for it alone.

    Everything up to the last finished round is on disk at any moment: ``rounds.jsonl`` and the
    tables ``clients.csv`` and ``teacher_by_class.csv`` grow each round, and so does ``weights.npy``
    [rounds so far, K, K]. ``summary.json`` says ``running`` until the run ends.
    """

    def __init__(self, path: Path, held: IO[str] | None) -> None:
        """Describe a run's folder, with the lock on it; ``create`` or ``reopen`` makes it ready."""
        self.path = path
        self._lock = held
        self._columns: dict[str, Sequence[str]] = {}
        self._growing = {name: GrowingFile(path / name) for name in GROWING}
        self._weights = GrowingArray(path / WEIGHTS)

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
            with (path / "config.yaml").open("x", encoding="utf-8") as file:
                file.write(config)
            folder = cls(path, lock(path))
            folder._begin()
            return folder
        except FileExistsError as error:
            raise SettingError(
                f"run_dir={path} is a file, or another run has just claimed it; name another folder"
            ) from error
        except OSError as error:
            raise SettingError(
                f"run_dir={path} cannot be written: {error.strerror}; name another folder"
            ) from error
        except StorageError as error:
            raise SettingError(f"run_dir: {error}; name another folder") from error

    def reopen(self, extents: Mapping[str, Extent]) -> None:
        """Go on with a run, whose folder ``claimed`` holds.

        Its files are cut to the ``extents`` that they had at the checkpoint. Raises RunError where
        one is not as it was then.
        """
        try:
            for name, file in self._files().items():
                file.cut(extents.get(name, NOTHING))
            self._begin()
            for name in TABLES:
                if (self.path / name).exists():
                    self._continue_table(name)
        except OSError as error:
            what = error.filename or self.path
            raise RunError(f"{what} cannot be written: {error.strerror}") from error

    def _begin(self) -> None:
        """Write what says that the run is going on, without what killed writers left."""
        discard_partial(self.path)
        begin_checksums(self.path)
        (self.path / "rounds.jsonl").touch()
        self._write_summary(RUNNING)

    def _files(self) -> dict[str, GrowingFile | GrowingArray]:
        return {**self._growing, WEIGHTS: self._weights}

    def extents(self) -> dict[str, Extent]:
        """Return the lengths and digests of the files that grow."""
        return {name: file.extent() for name, file in self._files().items()}

    def check(self, extents: Mapping[str, Extent]) -> None:
        """Raise Damaged where a file that grows is not as it was at a checkpoint."""
        for name, file in self._files().items():
            file.check(extents.get(name, NOTHING))

    def _continue_table(self, name: str) -> None:
        """Go on with a table that has its first line."""
        with (self.path / name).open(newline="", encoding="utf-8") as file:
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
        for file in self._growing.values():
            file.mark()
        try:
            line = json.dumps(jsonable(row), allow_nan=False) + "\n"
            self._growing["rounds.jsonl"].append(line.encode())
            self._add_rows("clients.csv", clients)
            self._add_rows("teacher_by_class.csv", teachers)
            if weights is not None:
                self._weights.put(int(row["round"]) - 1, weights)
        except OSError as error:
            for file in self._growing.values():
                with contextlib.suppress(OSError):
                    file.take_back()
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
        self._growing[name].append(text.getvalue().encode())

    def finish(self, summary: Mapping[str, Any], *, quietly: bool = False) -> None:
        """Write the summary, complete or not at all, and the checksums; let the folder go.

        Raises RunError where the disk does not take it, unless ``quietly``: then something else has
        failed before.
        """
        try:
            self._write_summary(summary)
            write_checksums(self.path, {n: f.extent() for n, f in self._growing.items()})
        except RunError:
            if not quietly:
                raise
        finally:
            if self._lock is not None:
                self._lock.close()

    def _write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, complete or not at all. Raises StorageError."""
        write_summary(self.path, summary)


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the summary of a run's folder, complete or not at all. Raises StorageError."""
    content = json.dumps(jsonable(summary), indent=2, allow_nan=False) + "\n"
    write_whole(path / "summary.json", [content.encode()])


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
    try:
        file = (path / "config.yaml").open("a", encoding="utf-8")
    except OSError as error:
        raise SettingError(f"run_dir={path} cannot be written: {error.strerror}") from error
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
    """Return how many rounds of a run were finished, whether a checkpoint has them or not.

    Raises Damaged where the file of rounds is none.
    """
    file, count, since = path / "rounds.jsonl", 0, 0
    if not file.exists():
        return 0
    if not file.is_file():
        raise Damaged(f"{file} is a folder where a file of the run belongs; move it away")
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            lines = block.count(b"\n")
            count, since = count + lines, 0 if lines else since + len(block)
            if since > LONGEST_LINE:
                raise Damaged(f"{file} is damaged: a line has more than {LONGEST_LINE:,} bytes")
    return count


def stored_records(path: Path, rounds: int) -> list[RoundRecord]:
    """Return the records of a run's first rounds, read from its files."""
    lines = (path / "rounds.jsonl").read_text(encoding="utf-8").splitlines()[:rounds]
    by_class = _teachers_by_class(path / "teacher_by_class.csv")
    clients: dict[int, list[ClientRecord]] = {}
    asked = tuple[MetricName, ...]()
    with (path / "clients.csv").open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        asked = metrics_in(table.fieldnames or ())
        for cells in table:
            round_number = int(cells["round"])
            if round_number <= rounds:
                record = client_record(cells, by_class.get((round_number, int(cells["client"]))))
                clients.setdefault(round_number, []).append(record)
    weights = np.load(path / WEIGHTS, mmap_mode="r") if (path / WEIGHTS).exists() else np.zeros(0)
    return [
        RoundRecord(
            round=row["round"],
            clients=tuple(clients[row["round"]]),
            seconds=row["seconds"],
            weights=_weights_of(weights, row["round"]),
            knowledge_sha256=row["knowledge_sha256"],
            asked=asked,
            exposure=row.get("exposure"),
            metrics=figures_by_others(row)["metrics"],
            own=figures_by_others(row)["own"],
        )
        for row in map(json.loads, lines)
    ]


def _teachers_by_class(path: Path) -> dict[tuple[int, int], tuple[float, ...]]:
    """Return ``teacher_by_class`` by round and client; an empty cell is NaN."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        return {
            (int(round_number), int(client)): tuple(float(c) if c else math.nan for c in cells)
            for round_number, client, *cells in rows
        }


def _weights_of(stored: np.ndarray, round_number: int) -> torch.Tensor | None:
    if len(stored) < round_number or np.isnan(stored[round_number - 1]).all():
        return None
    return torch.from_numpy(np.array(stored[round_number - 1]))


def jsonable(value: Any) -> Any:
    """Return plain values with NaN and infinity as null, which JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: jsonable(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
