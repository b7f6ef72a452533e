"""From columns to a table: which hold numbers, which categories, and what is refused."""

from collections.abc import Iterable

import numpy as np

from fedkd.data.named_columns import Chosen, classes_of
from fedkd.data.prepared_tables import MISSING, TableRows, TableSchema

FEW = 50
"""So many categories a column may have in any table."""


def table_rows(chosen: Chosen) -> TableRows:
    """Return the table of chosen columns.

    Numbers and truth values are numbers, text is categories. Raises SettingError with the file, the
    row and the column of what is neither.
    """
    labels, class_names = classes_of(chosen)
    numbers: dict[str, np.ndarray] = {}
    codes: dict[str, np.ndarray] = {}
    values: dict[str, tuple[str, ...]] = {}
    for name in chosen.inputs:
        column = None if name in chosen.choice.categories else _as_numbers(chosen, name)
        if column is not None:
            numbers[name] = column
        else:
            codes[name], values[name] = _as_categories(chosen, name)
    count = chosen.columns.size
    return TableRows(
        _side_by_side(numbers.values(), count, np.float64),
        _side_by_side(codes.values(), count, np.int32),
        TableSchema(tuple(numbers), tuple(codes), tuple(values.values())),
        labels,
        chosen.columns.train_size,
        class_names,
        chosen.others,
    )


def _side_by_side(columns: Iterable[np.ndarray], count: int, dtype: type) -> np.ndarray:
    listed = list(columns)
    return np.stack(listed, axis=1).astype(dtype) if listed else np.zeros((count, 0), dtype)


def _as_numbers(chosen: Chosen, name: str) -> np.ndarray | None:
    """Return a column as numbers, NaN where one is missing; None for one of categories."""
    import pandas as pd

    values, columns = chosen.input(name), chosen.columns
    if values.ndim != 1:
        raise columns.wrong_column(
            name, f"it holds arrays of shape {list(values.shape[1:])}, expected one value a row"
        )
    missing = pd.isna(values)
    if missing.all():
        raise columns.wrong_column(name, "it has no values; leave it out by data.leave_out")
    if values.dtype.kind not in "iufb":
        first = int(np.argmin(missing))
        if isinstance(values[first], str | bytes):
            _check_text(chosen, name, values, missing)
            return None
        if not isinstance(values[first], bool | int | float | np.number | np.bool_):
            raise columns.wrong(
                first,
                name,
                f"a {type(values[first]).__name__} is neither a number nor a category; make a"
                " number of it, or leave the column out by data.leave_out",
            )
        if (strings := np.array([isinstance(v, str) for v in values])).any():
            row = int(np.argmax(strings))
            raise columns.wrong(row, name, f"{values[row]!r} is no number, as others are; mend it")
    found: np.ndarray = pd.to_numeric(pd.Series(values)).to_numpy(dtype=np.float64)
    infinite = np.isinf(found)
    if infinite.any():
        row = int(np.argmax(infinite))
        raise columns.wrong(
            row, name, f"{found[row]} is no finite number; leave it empty if it is missing"
        )
    return found


def _check_text(chosen: Chosen, name: str, values: np.ndarray, missing: np.ndarray) -> None:
    """Raise SettingError for text that is mostly numbers, or nearly always another."""
    import pandas as pd

    present = pd.Series(values[~missing]).astype(str)
    parsed = pd.to_numeric(present, errors="coerce").isna().to_numpy()
    if parsed.any() and parsed.mean() < 0.5:
        row = int(np.flatnonzero(~missing)[np.argmax(parsed)])
        raise chosen.columns.wrong(
            row,
            name,
            f"{values[row]!r} is no number, as most others are; mend it, or leave it empty for a"
            " missing value",
        )
    different = present.nunique()
    if different > FEW and different > len(present) / 2:
        raise chosen.columns.wrong_column(
            name,
            f"{different} different values in {len(present)} rows are no categories; leave it out"
            " by data.leave_out, or say what the data are by data.kind",
        )


def _as_categories(chosen: Chosen, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the codes of a column of categories, and its values in training rows, sorted."""
    import pandas as pd

    values, train = chosen.input(name), chosen.columns.train_size
    missing = pd.isna(values)
    text = np.where(missing, "", values.astype(str))
    missing = missing | (text == "")
    known = sorted(set(text[:train][~missing[:train]].tolist()))
    codes = np.searchsorted(np.array(known, dtype=str), text) if known else np.zeros(len(text), int)
    codes = np.clip(codes, 0, max(0, len(known) - 1))
    unseen = ~missing & (np.array([*known, ""])[codes] != text)
    if unseen.any() and chosen.choice.unseen == "refuse":
        row = int(np.argmax(unseen))
        raise chosen.columns.wrong(
            row,
            name,
            f"no training row has the category {str(text[row])!r}; say data.unseen=missing to take"
            " such for missing",
        )
    return np.where(missing | unseen, MISSING, codes).astype(np.int32), tuple(known)
