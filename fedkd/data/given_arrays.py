"""From data in memory to a data set: arrays, data frames, dictionaries, for training and test.

The rows go into the cache under their hash, and a scenario names them ``data=arrays`` with it: a
run on them is repeated for as long as the cache has them. Not for: data sets by name or of one's
own class (``fedkd.data.sources``).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from fedkd.data.column_files import joined, of_frame, spread
from fedkd.data.column_kinds import find_kind
from fedkd.data.named_columns import TARGETS, ColumnChoice, choose
from fedkd.data.prepare import LoadedRows, store_rows
from fedkd.data.sources import Arrays
from fedkd.errors import SettingError

POSSIBLE = (
    "expected (X, y), a data frame with a column of classes, a dictionary of columns, or a pair of"
    " such for training and test"
)
CHOICES = ("target", "inputs", "leave_out", "categories", "unseen", "kind")
"""The settings of a file's columns that data in memory have too."""


def hold_data(
    given: object, said: Mapping[str, Any] | None = None, *, labeled: bool = True
) -> Arrays:
    """Return the data set of data in memory, whose rows are put into the cache.

    ``given`` is ``(X, y)``, a data frame with a column of classes, ``(frame, "column of classes")``
    or ``(frame, y)``, a dictionary of columns, or a pair of such (or a dictionary with ``train``
    and ``test``) for training and test. Raises SettingError.

    ``said`` are settings as a file of columns has them: ``target``, ``inputs``, ``leave_out``,
    ``categories``, ``unseen``, ``kind``. ``labeled`` says whether there must be classes.
    """
    choice = {name: _tupled(value) for name, value in (said or {}).items()}
    kind = choice.pop("kind", None)
    train, test = _parts(given)
    parts = [part for part in (train, test) if part is not None]
    names = ["the data given" if test is None else "training data", "test data"]
    columns = [_columns(part, name) for part, name in zip(parts, names, strict=False)]
    for target in {target for _, target in columns if target is not None}:
        choice.setdefault("target", target)
    whole = joined([values for values, _ in columns], names[: len(parts)])
    is_found = "target" in choice or not labeled
    if not is_found and not any(name.lower() in TARGETS for name in whole.values):
        raise SettingError(
            f"data: the columns are {', '.join(list(whole.values)[:8])}, and none is called"
            f' {", ".join(TARGETS)}; name that of the classes, as in data=(frame, "species")'
        )
    chosen = choose(whole, ColumnChoice(**choice))
    found = find_kind(chosen, kind)
    rows = found.rows(chosen)
    source = Arrays(sha256=_hash(rows), kind=found.task)
    store_rows(source, rows)
    return source


def is_data(value: object) -> bool:
    """Return whether a mapping holds columns, or splits, and no settings."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(not isinstance(one, str) and hasattr(one, "__len__") for one in value.values())
    )


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _hash(rows: LoadedRows) -> str:
    """Return the SHA-256 of rows, with their shapes and the names of their classes."""
    arrays = {f.name: getattr(rows, f.name) for f in fields(rows)}
    if (images := arrays.pop("images", None)) is not None and not rows.columns:
        about = (images.shape, rows.train_size, rows.class_names)
        digest = hashlib.sha256(repr(about).encode())
        digest.update(images.tobytes())
        digest.update(rows.labels.tobytes())
        return digest.hexdigest()
    digest = hashlib.sha256(type(rows).__name__.encode())
    if images is not None:
        arrays["images"] = images
    for name, value in [*arrays.items(), *arrays.pop("columns").items()]:
        if isinstance(value, np.ndarray):
            digest.update(f"{name} {value.dtype} {value.shape} ".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        elif not isinstance(value, Mapping):
            digest.update(f"{name} {value!r} ".encode())
    return digest.hexdigest()


def _parts(given: object) -> tuple[object, object | None]:
    """Return what is for training, and what for test or None."""
    if isinstance(given, Mapping) and {"train"} <= given.keys() <= {"train", "test"}:
        return given["train"], given.get("test")
    if isinstance(given, tuple | list) and len(given) == 2:
        first, second = given
        if _is_frame(second) and not _is_frame(first):
            raise SettingError(f"data: a data frame is the second of two; {POSSIBLE}")
        if _is_frame(second) and len(second.columns) > 1:
            return first, second
        is_pair = isinstance(second, tuple | list) and len(second) == 2 and _is_inputs(second[0])
        if is_pair or (is_data(first) and is_data(second)):
            return first, second
    return given, None


def _is_inputs(value: object) -> bool:
    """Return whether a value is a frame, or an array of inputs."""
    try:
        return _is_frame(value) or np.ndim(np.asarray(value)) >= 2
    except ValueError:  # lists of several lengths
        return False


def _is_frame(value: object) -> bool:
    return hasattr(value, "columns") and hasattr(value, "iloc")


def _columns(given: Any, name: str) -> tuple[dict[str, np.ndarray], str | None]:
    """Return the columns of one split, and which is the target, where that is said.

    ``name`` is what it is called in messages.
    """
    if hasattr(given, "to_pandas"):
        given = given.to_pandas()
    if _is_frame(given):
        return _of_frame(given, name), None
    if isinstance(given, Mapping) and is_data(given):
        found: dict[str, np.ndarray] = {}
        for key, values in given.items():
            found |= spread(str(key), _array(values, str(key)))
        return found, None
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise SettingError(f"data: a {type(given).__name__} was given, {POSSIBLE}")
    inputs, target = given
    if hasattr(inputs, "to_pandas"):
        inputs = inputs.to_pandas()
    if _is_frame(inputs):
        columns = _of_frame(inputs, name)
        if isinstance(target, str):
            if target not in columns:
                raise SettingError(
                    f"data: the data frame has no column {target!r}, its columns are"
                    f" {', '.join(list(columns)[:8])}"
                )
            return columns, target
        return {**columns, "y": _classes(target, len(inputs))}, "y"
    x = _array(inputs, "X")
    if x.ndim == 0:
        raise SettingError(f"data: X is a {type(inputs).__name__}; {POSSIBLE}")
    return {**spread("X", x), "y": _classes(target, len(x))}, "y"


def _of_frame(frame: Any, name: str) -> dict[str, np.ndarray]:
    """Return the columns of a data frame, those of arrays stacked."""
    columns = of_frame(frame)
    for key, values in columns.items():
        if len(values) and np.ndim(values[0]) >= 2:
            shapes = {np.shape(value) for value in values}
            if len(shapes) > 1:
                raise SettingError(
                    f"data: column {key!r} of {name} holds arrays of {len(shapes)} shapes, expected"
                    " one; make them alike"
                )
            columns[key] = np.stack([np.asarray(value) for value in values])
    return columns


def _array(value: Any, name: str) -> np.ndarray:
    """Return an array or tensor as an array. Raises SettingError for what is neither."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "toarray"):  # SciPy's sparse ones
        value = value.toarray()
    try:
        found = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise SettingError(f"data: {name} is no array: {error}") from error
    if found.dtype.kind in "UST":
        return found.astype(object)
    is_text = found.ndim == 1 and all(isinstance(one, str) for one in found)
    if found.dtype.kind == "O" and name == "X" and not is_text:
        raise SettingError(f"data: X is no array of numbers, but of {type(value).__name__}")
    return found


def _classes(target: Any, size: int) -> np.ndarray:
    """Return classes [n]. Raises SettingError for another shape."""
    found = np.asarray(_array(target, "y"))
    if found.shape == (size, 1):
        found = found[:, 0]
    if found.shape != (size,):
        raise SettingError(
            f"data: y is of shape {list(found.shape)}, expected [{size}], a class for each row of X"
        )
    return found
