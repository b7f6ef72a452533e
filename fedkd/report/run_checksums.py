"""The checksums of a run's folder: ``checksums.json``, beside the files that it is about.

It is begun with the scenario and written again whenever a run or an audit ends. What reads a run's
files compares them with it. A run of before there were checksums has none, and is read as it is.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedkd.storage.atomic_files import file_digest
from fedkd.storage.checked_json import MANIFEST, check_file, read_manifest, write_json
from fedkd.storage.growing_files import Extent

GROWING = ("rounds.jsonl", "clients.csv", "teacher_by_class.csv")
"""The files that are appended to each round."""
WEIGHTS = "weights.npy"
PLAN = "plan.json"
OTHERS = ("config.yaml", PLAN, WEIGHTS, "summary.json")
STORED = ("truth/truth.npz", "view/index.json")
"""What a run stores for its audit; the messages themselves have their digests in the index."""
AUDITED = (*STORED, "lab/index.json")
"""What an audit reads."""
OF = "a run"


def begin_checksums(folder: Path) -> None:
    """Write the checksums of a run that goes on: that of its scenario. Raises StorageError."""
    _write(folder, {"config.yaml": file_digest(folder / "config.yaml")})


def write_checksums(folder: Path, growing: Mapping[str, Extent]) -> None:
    """Write the checksums of a run that has ended.

    Args:
        folder: The run's folder.
        growing: Those of the files that grew, as they were written.

    Raises:
        StorageError: The disk does not take them.
    """
    found = {name: extent for name, extent in growing.items() if extent[0]}
    _write(folder, {**_those_of(folder, (*OTHERS, *STORED)), **found})


def check_run(folder: Path, *names: str) -> None:
    """Raise Damaged, which names the file, where one of a run's files is not what was written."""
    if not (folder / MANIFEST).exists():
        return
    expected = read_manifest(folder, OF)
    for name in names:
        if name in expected:
            check_file(folder / name, expected[name])


@contextlib.contextmanager
def amended(folder: Path) -> Iterator[None]:
    """Write the checksums again of what an audit adds to a run that has ended.

    In between they do not name what is being written, so that a run that is ended there is not
    taken for damaged. Raises StorageError.
    """
    if not (folder / MANIFEST).exists():
        yield
        return
    changing = ("summary.json", *AUDITED)
    others = {n: found for n, found in read_manifest(folder, OF).items() if n not in changing}
    _write(folder, others)
    yield
    _write(folder, {**others, **_those_of(folder, changing)})


@contextlib.contextmanager
def amended_scenario(folder: Path) -> Iterator[None]:
    """Write the checksum again of the scenario of a run that goes on as another says.

    In between there is none, as in ``amended``. Raises StorageError.
    """
    _write(folder, {})
    yield
    begin_checksums(folder)


def _those_of(folder: Path, names: tuple[str, ...]) -> dict[str, Extent]:
    return {name: file_digest(folder / name) for name in names if (folder / name).is_file()}


def _write(folder: Path, files: Mapping[str, Extent]) -> None:
    write_json(folder / MANIFEST, {"of": OF, "files": files})
