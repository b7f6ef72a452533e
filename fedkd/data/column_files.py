"""Columns from files: CSV, Parquet, JSON lines, NumPy's npz; and from data sets of the hub.

A path is one file, whose rows the test set is taken from as well, or a folder with ``train`` and
perhaps ``test`` files of that type. Not for: what columns mean (``fedkd.data.named_columns``).
"""

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedkd.data.hub_splits import open_splits
from fedkd.data.named_columns import TARGETS, Columns
from fedkd.errors import SettingError, one_line
from fedkd.settings.validators import user_path


def find_files(path: str, test_path: str | None, ending: str) -> list[Path]:
    """Return the file of the training split, and that of the test split if there is one.

    Raises SettingError where they are not there.

    Args:
        path: A file, or a folder with train and test files.
        test_path: The file of the test split; None looks for it in the folder.
        ending: How such files end, without the dot.
    """
    given = user_path(path, "data.path")
    if given.is_dir():
        train, test = given / f"train.{ending}", given / f"test.{ending}"
        if not train.is_file():
            raise SettingError(
                f"data.path={path}: the folder has no train.{ending}; name the file itself, or put"
                f" train.{ending} (and perhaps test.{ending}) there"
            )
        if test_path is not None:
            raise SettingError(
                f"data.test_path={test_path} would do nothing: data.path is a folder, whose"
                f" test.{ending} is taken; name the training file in data.path"
            )
        return [train, test] if test.is_file() else [train]
    files = [("path", path)] + ([("test_path", test_path)] if test_path is not None else [])
    for setting, text in files:
        if not user_path(text, f"data.{setting}").is_file():
            raise SettingError(
                f"data.{setting}={text}: no such file; give a .{ending} file, or a folder with"
                f" train.{ending} and test.{ending}"
            )
    return [user_path(text, f"data.{setting}") for setting, text in files]


def read_files(files: Sequence[Path], read: Callable[[Path], Mapping[str, np.ndarray]]) -> Columns:
    """Return the columns of the training file, then those of the test file.

    Raises SettingError for a file that cannot be read, is empty, or has other columns than the
    first. ``read`` returns those of one file.
    """
    parts = []
    for file in files:
        try:
            part = read(file)
        except SettingError:
            raise
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise SettingError(f"data: {file.name} cannot be read: {one_line(error)}") from error
        if not part or not len(next(iter(part.values()))):
            raise SettingError(f"data: {file.name} has no rows")
        parts.append(part)
    return joined(parts, [file.name for file in files])


def joined(parts: Sequence[Mapping[str, np.ndarray]], names: Sequence[str]) -> Columns:
    """Return columns of a training split and perhaps a test split as one.

    Raises SettingError where they do not have the same. ``names`` are what the parts are called.
    """
    first = parts[0]
    for part, name in zip(parts, names, strict=True):
        lengths = {key: len(values) for key, values in part.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{key} {length}" for key, length in lengths.items())
            raise SettingError(f"data: {name}: all must have as many rows, but they have {shown}")
        differing = [key for key in first if key not in part] + [k for k in part if k not in first]
        if differing:
            raise SettingError(
                f"data: {name} and {names[0]} must have the same columns; {differing[0]!r} is in"
                " one of them only"
            )
        for key, values in part.items():
            if values.shape[1:] != first[key].shape[1:]:
                raise SettingError(
                    f"data: {key} is of shape {list(values.shape[1:])} a row in {name}, and of"
                    f" {list(first[key].shape[1:])} in {names[0]}"
                )
    whole = {key: np.concatenate([part[key] for part in parts]) for key in first}
    sizes = [len(next(iter(part.values()))) for part in parts]
    return Columns(whole, sizes[0], tuple(zip(names, sizes, strict=True)))


def read_csv(file: Path, separator: str) -> dict[str, np.ndarray]:
    """Return the columns of a CSV file."""
    import pandas as pd

    frame = pd.read_csv(file, sep=separator, low_memory=False)
    if len(frame.columns) == 1:
        (header,) = map(str, frame.columns)
        for other in (";", "\t", ",", "|"):
            if other in header:
                raise SettingError(
                    f"data: {file.name} has one column only, {header[:40]!r}; say"
                    f" data.separator='{other}'"
                )
    return of_frame(frame)


def read_parquet(file: Path) -> dict[str, np.ndarray]:
    """Return the columns of a Parquet file."""
    import pandas as pd

    return of_frame(pd.read_parquet(file))


def read_json_lines(file: Path) -> dict[str, np.ndarray]:
    """Return the columns of a file with a JSON object a line."""
    import pandas as pd

    rows = []
    with file.open(encoding="utf-8") as stream:
        for at, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise SettingError(f"data: {file.name}, line {at}: {error}") from error
            if not isinstance(row, dict):
                raise SettingError(
                    f"data: {file.name}, line {at}: expected an object, as in"
                    ' {"age": 31, "label": "yes"}'
                )
            rows.append(row)
    return of_frame(pd.DataFrame(rows))


def of_frame(frame: Any) -> dict[str, np.ndarray]:
    """Return the columns of a data frame by name."""
    found = {}
    for name in frame.columns:
        column = frame[name]
        dtype = column.dtype
        if getattr(dtype, "name", "") == "category":
            column = column.astype(object)
        if getattr(dtype, "kind", "O") in "iufb" and not hasattr(column.array, "_mask"):
            found[str(name)] = column.to_numpy()
        elif getattr(dtype, "kind", "O") in "iufb":  # pandas' own numbers, some of them missing
            found[str(name)] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            found[str(name)] = column.to_numpy(dtype=object)
    return found


def read_npz(files: Sequence[Path]) -> Columns:
    """Return the arrays of npz files as columns (``split_arrays``, ``spread``)."""
    if len(files) == 1:
        return split_arrays(_arrays_of(files[0]), files[0].name)

    def spread_all(file: Path) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for name, values in _arrays_of(file).items():
            found |= spread(name, values)
        return found

    return read_files(files, spread_all)


def _arrays_of(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise SettingError(f"data: {file.name} cannot be read: {one_line(error)}") from error


def split_arrays(arrays: Mapping[str, np.ndarray], file: str) -> Columns:
    """Return the arrays of one npz file as columns.

    ``x_train``, ``y_train``, ``x_test``, ``y_test`` are two splits of ``x`` and ``y``. An array [n,
    columns] becomes a column each. ``file`` is its name.
    """
    splits: dict[str, dict[str, np.ndarray]] = {"train": {}, "test": {}}
    has_test = any(name.lower().endswith("_test") for name in arrays)
    for name, values in arrays.items():
        stem, _, split = name.rpartition("_")
        role = split.lower() if has_test and split.lower() in splits else ""
        if has_test and not role:
            raise SettingError(
                f"data: {file}: array {name!r} is of no split; others end in _train or _test"
            )
        splits[role or "train"] |= spread(stem if role else name, np.asarray(values))
    parts = [part for part in splits.values() if part]
    return joined(parts, [file, f"{file} (test)"][: len(parts)])


def spread(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Return an array [n, columns] as a column each, and another as it is."""
    if values.ndim == 0:
        raise SettingError(f"data: array {name!r} is a single value, expected one a row")
    if values.ndim != 2:
        return {name: values}
    if values.shape[1] == 1 and name.lower() in TARGETS:
        return {name: values[:, 0]}
    return {f"{name}_{i}": values[:, i] for i in range(values.shape[1])}


def open_hub(path: str, train_split: str, test_split: str | None) -> dict[str, Any]:
    """Return splits as ``datasets`` reads them, training first.

    Args:
        path: The hub id, or a folder in its layout.
        train_split: The name of the training split.
        test_split: The name of the test split, or None.
    """
    return open_splits(path, train_split, test_split, "scikit-learn/iris", "train.csv, train.jsonl")


def picture_columns(path: str, train_split: str, test_split: str | None) -> list[str]:
    """Return the columns of pictures of a data set of the hub. The arguments are ``open_hub``'s."""
    from datasets import Image

    features = open_hub(path, train_split, test_split)["train"].features
    return [name for name, feature in features.items() if isinstance(feature, Image)]


def read_hub(path: str, train_split: str, test_split: str | None) -> Columns:
    """Return the columns of a data set of the hub. The arguments are ``open_hub``'s."""
    splits = open_hub(path, train_split, test_split)
    parts = [of_frame(split.to_pandas()) for split in splits.values()]
    columns = joined(parts, [f"{path} ({split})" for split in splits])
    features = splits["train"].features
    named = {
        name: tuple(feature.names)
        for name, feature in features.items()
        if getattr(feature, "names", None) is not None
    }
    return replace(columns, class_names=named)
