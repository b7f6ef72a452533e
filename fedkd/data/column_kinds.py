"""Kinds of data that columns can be, each with the rows that are made of them.

A kind is found from the columns, or said by ``data.kind``. A new kind is one entry of ``KINDS``:
whether columns look like it, what rows they become, and the name of its task.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedkd.data.image_arrays import checked_images
from fedkd.data.named_columns import Chosen, classes_of, odd_text
from fedkd.data.prepare import LoadedRows
from fedkd.data.prepared_series import SeriesRows
from fedkd.data.sources import Rows
from fedkd.data.table_columns import table_rows
from fedkd.data.texts import TextRows
from fedkd.errors import SettingError, unknown_name


@dataclass(frozen=True)
class ColumnKind:
    """One kind of data."""

    task: str
    """The name of its task (``fedkd.tasks.find_task``)."""
    suits: Callable[[Chosen], bool]
    """Whether columns look like it, where nobody says their kind."""
    rows: Callable[[Chosen], LoadedRows]
    """Makes rows of them, or raises SettingError with the file, the row and the column."""


def find_kind(chosen: Chosen, said: str | None) -> ColumnKind:
    """Return the kind of columns: the one that is said, or the first that suits."""
    check_kind(said)
    if said is not None:
        return KINDS[said]
    for kind in KINDS.values():
        if kind.suits(chosen):
            return kind
    raise SettingError(
        f"data: the columns {', '.join(chosen.inputs[:8])} are of no kind that fedkd can tell; say"
        f" data.kind, of {', '.join(KINDS)}, or choose some by data.inputs"
    )


def check_kind(said: str | None) -> None:
    """Raise SettingError for a kind that there is not."""
    if said is not None and said not in KINDS:
        raise unknown_name("kind", said, KINDS)


def _is_images(chosen: Chosen) -> bool:
    if len(chosen.inputs) != 1:
        return False
    values = chosen.input(chosen.inputs[0])
    return values.ndim == 4 or (values.ndim == 3 and values.dtype == np.uint8)


def _image_rows(chosen: Chosen) -> Rows:
    name = _only_input(chosen, "images")
    images = checked_images(chosen.input(name), name)
    labels, names = classes_of(chosen)
    return Rows(images, labels, chosen.columns.train_size, names, chosen.others)


def _is_series(chosen: Chosen) -> bool:
    values = [chosen.input(name) for name in chosen.inputs]
    if len(values) == 1 and values[0].ndim == 3:
        return True
    return all(_holds_lists(one) for one in values)


def _series_rows(chosen: Chosen) -> SeriesRows:
    labels, names = classes_of(chosen)
    values = _series_values(chosen)
    wrong = ~np.isfinite(values)
    if wrong.any():
        row, channel, step = np.argwhere(wrong)[0]
        column = chosen.inputs[min(channel, len(chosen.inputs) - 1)]
        if chosen.input(column).ndim == 1 and not _holds_lists(chosen.input(column)):
            column = chosen.inputs[step]
        raise chosen.columns.wrong(
            int(row),
            column,
            f"{values[row, channel, step]} in channel {channel}, step {step}; series have no"
            " missing values: fill them in, or leave the row out",
        )
    return SeriesRows(values, labels, chosen.columns.train_size, names, chosen.others)


def _series_values(chosen: Chosen) -> np.ndarray:
    """Return values [n, channels, length]."""
    columns = [chosen.input(name) for name in chosen.inputs]
    if len(columns) == 1 and columns[0].ndim == 3:
        if columns[0].dtype.kind not in "iufb":
            raise chosen.columns.wrong_column(chosen.inputs[0], "expected an array of numbers")
        return columns[0].astype(np.float32)
    if all(_holds_lists(values) for values in columns):
        channels = [_stacked(chosen, name) for name in chosen.inputs]
        lengths = {name: c.shape[1] for name, c in zip(chosen.inputs, channels, strict=True)}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise SettingError(f"data: channels of series must be of one length, but are {shown}")
        return np.stack(channels, axis=1)
    for name, values in zip(chosen.inputs, columns, strict=True):
        if values.ndim != 1 or values.dtype.kind not in "iufb":
            if not _holds_lists(values) and (row := odd_text(values)) is not None:
                raise chosen.columns.wrong(
                    row, name, f"{values[row]!r} is no number, as most others are; mend it"
                )
            raise chosen.columns.wrong_column(
                name,
                "a series is columns of numbers, one a step (one channel), or columns of lists,"
                " one a channel; this column is neither; choose some by data.inputs",
            )
    return np.stack(columns, axis=1).astype(np.float32)[:, None, :]


def _stacked(chosen: Chosen, name: str) -> np.ndarray:
    """Return a column of lists as an array [n, length]."""
    length, rows = None, []
    for row, one in enumerate(chosen.input(name)):
        try:
            values = np.asarray(one, dtype=np.float32)
        except (TypeError, ValueError):
            raise chosen.columns.wrong(row, name, "expected a list of numbers") from None
        if values.ndim != 1:
            raise chosen.columns.wrong(row, name, "expected a list of numbers")
        length = len(values) if length is None else length
        if len(values) != length:
            raise chosen.columns.wrong(
                row, name, f"{len(values)} steps, and {length} in the first row; cut them alike"
            )
        rows.append(values)
    return np.stack(rows)


def _holds_lists(values: np.ndarray) -> bool:
    return values.ndim == 1 and len(values) > 0 and isinstance(values[0], list | np.ndarray)


def _is_tables(chosen: Chosen) -> bool:
    return all(chosen.input(name).ndim == 1 for name in chosen.inputs) and not any(
        _holds_lists(chosen.input(name)) for name in chosen.inputs
    )


def _is_never(chosen: Chosen) -> bool:
    return False


def _is_labeled_texts(chosen: Chosen) -> bool:
    """Return whether the one input is text of several words, and mostly another in every row."""
    if len(chosen.inputs) != 1:
        return False
    values = chosen.input(chosen.inputs[0])
    texts = [one for one in values.tolist() if isinstance(one, str)] if values.ndim == 1 else []
    several = sum(" " in text.strip() for text in texts)
    return several > len(values) / 2 and len(set(texts)) > len(values) / 2


def text_rows(chosen: Chosen) -> TextRows:
    """Return the texts of the one input column. Raises SettingError for an empty one."""
    name = _only_input(chosen, "labeled_texts")
    labels, names = classes_of(chosen)
    texts = []
    for row, text in enumerate(chosen.input(name)):
        if not isinstance(text, str) or not text.strip():
            is_missing = isinstance(text, str) or text is None or text != text
            what = "the text is empty" if is_missing else f"{text!r} is no text"
            raise chosen.columns.wrong(row, name, f"{what}; leave such rows out of the file")
        texts.append(text)
    return TextRows(tuple(texts), labels, chosen.columns.train_size, names, chosen.others)


def _only_input(chosen: Chosen, kind: str) -> str:
    if len(chosen.inputs) != 1:
        raise SettingError(
            f"data.kind={kind} takes one column of inputs, and there are {len(chosen.inputs)}:"
            f" {', '.join(chosen.inputs[:8])}; name it by data.inputs=[COLUMN]"
        )
    return chosen.inputs[0]


KINDS: dict[str, ColumnKind] = {
    "images": ColumnKind("images", _is_images, _image_rows),
    "series": ColumnKind("series", _is_series, _series_rows),
    "labeled_texts": ColumnKind("labeled_texts", _is_labeled_texts, text_rows),
    "texts": ColumnKind("texts", _is_never, text_rows),
    "tables": ColumnKind("tables", _is_tables, table_rows),
}
"""Kinds by name, in the sequence in which they are tried; ``texts`` are learned by next tokens, and
have to be said."""
