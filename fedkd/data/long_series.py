"""Series in long format, a row for each time step, gathered to a row for each series.

Not for: what a series is checked for otherwise (``fedkd.data.column_kinds``).
"""

from dataclasses import replace

import numpy as np

from fedkd.data.named_columns import Chosen, ColumnChoice, Columns, choose, odd_text
from fedkd.errors import SettingError, unknown_name


def choose_long(columns: Columns, choice: ColumnChoice, series_id: str, time: str | None) -> Chosen:
    """Return the rows of each series as one, with a list of its steps for each input.

    Of other columns stay those that have one value in each series. Raises SettingError with the
    file, the row and the column of what cannot be gathered.

    Args:
        columns: A row for each time step.
        choice: Which columns are what.
        series_id: The column that says which series a step is of.
        time: The column that says when it is; None takes the sequence in the file.
    """
    apart = (series_id,) if time is None else (series_id, time)
    for setting, name in zip(("series_id", "time"), apart, strict=False):
        if name not in columns.values:
            error = unknown_name("column", name, columns.values)
            raise SettingError(f"data.{setting}: {columns.origins[0][0]}: {error}")
        if name in (choice.inputs or ()):
            raise SettingError(f"data.inputs has {name!r}, which is data.{setting}; leave it out")
    if choice.inputs is None:
        choice = replace(choice, leave_out=(*choice.leave_out, *apart))
    chosen = choose(columns, choice)
    codes, origins = _series_of(columns, series_id)
    steps = _steps(columns, codes, series_id, time)
    values = {name: _listed(chosen, name, steps) for name in chosen.inputs}
    for name, column in columns.values.items():
        if name not in values and (first := _shared(chosen, name, column, steps)) is not None:
            values[name] = first
    gathered = replace(
        columns, values=values, train_size=origins[0][1] if origins else 0, origins=origins
    )
    return replace(chosen, columns=gathered)


def _series_of(columns: Columns, series_id: str) -> tuple[np.ndarray, tuple[tuple[str, int], ...]]:
    """Return the number of each step's series, and how many series each file has.

    Series are counted from 0 as they first appear; a series is of one file.
    """
    import pandas as pd

    ids = columns.values[series_id]
    if ids.ndim != 1:
        raise columns.wrong_column(series_id, "it holds arrays, expected the id of a series")
    missing = pd.isna(ids)
    if missing.any():
        raise columns.wrong(int(np.argmax(missing)), series_id, "no id of a series")
    codes, origins, at, begun = np.zeros(len(ids), dtype=np.int64), [], 0, 0
    for file, count in columns.origins:
        found, names = pd.factorize(ids[at : at + count])
        codes[at : at + count] = found + begun
        origins.append((file, len(names)))
        at, begun = at + count, begun + len(names)
    return codes, tuple(origins)


def _steps(columns: Columns, codes: np.ndarray, series_id: str, time: str | None) -> np.ndarray:
    """Return the rows of each series in the sequence of its time [series, steps].

    Args:
        columns: A row for each time step.
        codes: The number of each row's series.
        series_id: The column of their ids.
        time: That of times.
    """
    lengths = np.bincount(codes)
    rows = np.argsort(codes, kind="stable")
    begins = np.cumsum(lengths) - lengths
    differing = lengths != lengths[0]
    if differing.any():
        first, other = (columns.values[series_id][rows[begins[i]]] for i in (0, differing.argmax()))
        raise columns.wrong_column(
            series_id,
            f"series {other!s} has {lengths[differing.argmax()]} steps, and {first!s} has"
            f" {lengths[0]}; cut them alike",
        )
    if lengths[0] == 1:
        raise columns.wrong_column(
            series_id, "every series has one step; name the column of series"
        )
    if time is None:
        return rows.reshape(len(lengths), lengths[0])
    times = _times(columns, time)
    steps = np.lexsort((times, codes)).reshape(len(lengths), lengths[0])
    times = times[steps]
    again = times[:, 1:] == times[:, :-1]
    if again.any():
        series, step = np.argwhere(again)[0]
        row = int(steps[series, step + 1])
        raise columns.wrong(row, time, "the series has this time in another row too")
    return steps


def _times(columns: Columns, time: str) -> np.ndarray:
    """Return times as numbers: they are numbers, or dates as text."""
    import pandas as pd

    values = columns.values[time]
    listed = pd.Series(values.tolist())
    numbers = pd.to_numeric(listed, errors="coerce")
    found: np.ndarray
    if numbers.notna().mean() > 0.5:
        found, broken = numbers.to_numpy(), (numbers.isna() | listed.isna()).to_numpy()
    else:
        dates = pd.to_datetime(listed, errors="coerce", format="mixed", utc=True)
        stamps = dates.dt.tz_convert(None).to_numpy("datetime64[ns]")
        found, broken = stamps.astype(np.int64), np.isnat(stamps)
    if broken.any():
        row = int(np.argmax(broken))
        if listed.isna()[row]:
            raise columns.wrong(row, time, "no time of this step")
        raise columns.wrong(row, time, f"{values[row]!r} is no time, neither a number nor a date")
    return found


def _listed(chosen: Chosen, name: str, steps: np.ndarray) -> np.ndarray:
    """Return an input as a list of numbers for each series."""
    values, columns = chosen.input(name), chosen.columns
    if values.ndim != 1 or values.dtype.kind not in "iufb":
        if (row := odd_text(values)) is not None:
            raise columns.wrong(row, name, f"{values[row]!r} is no number, as most others are")
        raise columns.wrong_column(
            name, "a channel of a series is numbers, one a time step; leave it out"
        )
    broken = ~np.isfinite(values.astype(np.float64))
    if broken.any():
        row = int(np.argmax(broken))
        raise columns.wrong(
            row, name, f"{values[row]}; series have no missing values: fill them in"
        )
    found = np.empty(len(steps), dtype=object)
    for series, rows in enumerate(steps):
        found[series] = values[rows]
    return found


def _shared(chosen: Chosen, name: str, values: np.ndarray, steps: np.ndarray) -> np.ndarray | None:
    """Return a column's value of each series; None where it changes within one.

    Raises SettingError for a target that changes.

    Args:
        chosen: Which columns are what.
        name: The column.
        values: Its values.
        steps: The rows of each series.
    """
    if values.ndim != 1:
        return None
    import pandas as pd

    codes = pd.factorize(values)[0][steps]
    changing = (codes != codes[:, :1]).any(axis=1)
    if not changing.any():
        first: np.ndarray = values[steps[:, 0]]
        return first
    if name != chosen.target:
        return None
    series = int(changing.argmax())
    row = int(steps[series, int((codes[series] != codes[series, 0]).argmax())])
    raise chosen.columns.wrong(
        row,
        name,
        f"{values[row]!s}, and {values[steps[series, 0]]!s} in the first step: a series has one"
        " class",
    )
