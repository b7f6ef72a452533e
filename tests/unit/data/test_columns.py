"""Columns of one's own files: what kind of data they are, and one clear line for a bad value."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedkd.data.column_sources import COLUMN_DATA, ColumnSource
from fedkd.data.named_columns import ColumnChoice, Columns, choose, classes_of
from fedkd.data.prepare import prepare
from fedkd.data.prepared_series import PreparedSeries
from fedkd.data.prepared_tables import PreparedTable
from fedkd.errors import SettingError

FRAME = pd.DataFrame(
    {
        "age": [31.0, None, 40.0, 28.0],
        "smokes": ["yes", "no", None, "no"],
        "fit": [True, False, True, True],
        "outcome": ["ill", "well", "ill", "well"],
    }
)
WRITERS: dict[str, Any] = {
    "csv": lambda frame, file: frame.to_csv(file, index=False),
    "parquet": lambda frame, file: frame.to_parquet(file, index=False),
    "jsonl": lambda frame, file: frame.to_json(file, orient="records", lines=True),
}


def source(folder: Path, frame: pd.DataFrame, form: str = "csv", **settings: Any) -> ColumnSource:
    """Return the source of a frame that is written into a file."""
    file = folder / f"t.{form}"
    WRITERS[form](frame, file)
    made: ColumnSource = COLUMN_DATA[form](path=str(file), **{"target": "outcome", **settings})
    return made


@pytest.mark.parametrize("form", WRITERS)
def test_a_table_is_the_same_from_every_kind_of_file(tmp_path: Path, form: str) -> None:
    found = source(tmp_path, FRAME, form)
    table = prepare(found)
    assert found.task == "tables"
    assert isinstance(table, PreparedTable)
    assert (table.schema.numbers, table.schema.categories) == (("age", "fit"), ("smokes",))
    assert table.schema.values == (("no", "yes"),)
    assert np.array_equal(table.numbers[:, 0], [31, np.nan, 40, 28], equal_nan=True)
    assert table.codes[:, 0].tolist() == [1, 0, -1, 0]
    assert (table.class_names, table.labels.tolist()) == (("ill", "well"), [0, 1, 0, 1])
    assert table.columns["smokes"].tolist() == ["yes", "no", "", "no"]


@pytest.mark.parametrize(
    ("column", "values", "settings", "said"),
    [
        (
            "outcome",
            ["ill", "well", None, "ill"],
            {},
            "row 3, column 'outcome': the target is miss",
        ),
        ("outcome", ["ill"] * 4, {}, "column 'outcome': all training rows are of class 'ill'"),
        ("outcome", [0.5, 1, 2, 3], {}, "row 1, column 'outcome': 0.5 is no class but a number"),
        ("age", [1, 2, float("inf"), 3], {}, "row 3, column 'age': inf is no finite number"),
        ("age", ["1", "2", "3", "old"], {}, "row 4, column 'age': 'old' is no number"),
        ("age", [None] * 4, {}, "column 'age': it has no values; leave it out"),
        ("age", [1, 2, 3, 4], {"target": "outcom"}, "data.target: t.csv: .*did you mean .outcome"),
        ("age", [1, 2, 3, 4], {"inputs": ("wages",)}, "data.inputs: t.csv"),
        ("age", [1, 2, 3, 4], {"kind": "maps"}, "unknown kind 'maps'"),
        ("text", ["a b", "c d", " ", "d e"], {"inputs": ("text",)}, "row 3.*is empty"),
    ],
)
def test_a_bad_value_is_named_with_file_row_and_column(
    tmp_path: Path, column: str, values: list[Any], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingError, match=said):
        source(tmp_path, FRAME.assign(**{column: values}), **settings).load()


@pytest.mark.parametrize(("count", "rows", "refused"), [(50, 60, False), (51, 60, True)])
def test_a_target_of_very_many_values_is_taken_for_no_classes(
    count: int, rows: int, refused: bool
) -> None:
    """50, or a tenth of the rows where that is more: prices in whole numbers are no classes."""
    values = np.arange(rows) % count
    columns = Columns({"age": values, "outcome": values}, rows, (("t.csv", rows),))
    chosen = choose(columns, ColumnChoice(target="outcome"))
    if not refused:
        assert len(classes_of(chosen)[1]) == count
        return
    said = r"t\.csv, column 'outcome': 51 different values in 60 rows are no classes; name another"
    with pytest.raises(SettingError, match=said):
        classes_of(chosen)


def test_what_only_test_rows_have_is_refused(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "train.csv", index=False)
    folder = {"path": str(tmp_path), "target": "outcome"}
    FRAME.assign(smokes=["yes", "rarely", "no", "no"]).to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(
        SettingError, match=r"test\.csv, row 2, column 'smokes': no training row has"
    ):
        COLUMN_DATA["csv"](**folder).load()
    table = COLUMN_DATA["csv"](**folder, unseen="missing").load()
    assert table.codes[:, 0].tolist() == [1, 0, -1, 0, 1, -1, 0, 0]
    assert table.train_size == 4
    FRAME.assign(outcome=["ill", "dead", "ill", "well"]).to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(
        SettingError, match=r"test\.csv, row 2, column 'outcome': class 'dead' is in"
    ):
        COLUMN_DATA["csv"](**folder).load()


def test_series_are_an_array_or_a_list_for_each_channel(tmp_path: Path) -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    np.savez(tmp_path / "s.npz", x_train=x, y_train=[0, 1, 0, 1], x_test=x[:2], y_test=[0, 1])
    arrays = COLUMN_DATA["npz"](path=str(tmp_path / "s.npz"))
    series = prepare(arrays)
    assert (arrays.task, series.train_size, series.class_names) == ("series", 4, ("0", "1"))
    assert isinstance(series, PreparedSeries)
    assert (series.values == np.concatenate([x, x[:2]])).all()
    lists = pd.DataFrame(
        {"a": [*x[:, 0].tolist()], "b": [*x[:, 1].tolist()], "outcome": list("abab")}
    )
    found = source(tmp_path, lists, "jsonl")
    assert found.task == "series"
    assert (found.load().values == x).all()
    lists["b"] = [[1, 2, 3], [1, 2], [1, 2, 3], [1, 2, 3]]
    with pytest.raises(SettingError, match="row 2, column 'b': 2 steps, and 3 in the first row"):
        source(tmp_path, lists, "jsonl").load()
