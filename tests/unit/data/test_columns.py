"""Columns of one's own files: what kind of data they are, and one clear line for a bad value."""

import re
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
        SettingError,
        match=r"test\.csv, row 2, column 'smokes': no training row has the category 'rarely';",
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


STEPS = pd.DataFrame(
    {
        "device": ["b", "a", "a", "b", "c", "c"],
        "day": ["2024-01-10", "2024-01-9", "2024-01-08", "2024-01-09", "2024-1-1", "2024-1-2"],
        "heat": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "volt": [10, 20, 30, 40, 50, 60],
        "room": ["x", "y", "y", "x", "x", "x"],
        "outcome": ["ill", "well", "well", "ill", "ill", "ill"],
    }
)
LONG: dict[str, Any] = {"series_id": "device", "time": "day", "inputs": ("heat", "volt")}


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_rows_of_time_steps_become_series_in_the_sequence_of_time(
    tmp_path: Path, form: str
) -> None:
    found = source(tmp_path, STEPS, form, **LONG)
    rows = prepare(found)
    assert isinstance(rows, PreparedSeries)
    assert found.task == "series"
    assert rows.values[:, 0].tolist() == [[4, 1], [3, 2], [5, 6]]
    assert rows.values[:, 1].tolist() == [[40, 10], [30, 20], [50, 60]]
    assert rows.labels.tolist() == [0, 1, 0]
    assert {name: v.tolist() for name, v in rows.columns.items()} == {
        "device": ["b", "a", "c"],
        "room": ["x", "y", "x"],
    }
    unsorted = source(tmp_path, STEPS, form, **{**LONG, "time": None}).load()
    assert unsorted.values[:, 0].tolist() == [[1, 4], [2, 3], [5, 6]]


def test_a_series_is_of_one_file(tmp_path: Path) -> None:
    STEPS.to_csv(tmp_path / "train.csv", index=False)
    STEPS.iloc[:4].to_csv(tmp_path / "test.csv", index=False)
    rows = COLUMN_DATA["csv"](path=str(tmp_path), target="outcome", **LONG).load()
    assert (rows.train_size, rows.values.shape) == (3, (5, 2, 2))


@pytest.mark.parametrize(
    ("changes", "settings", "said"),
    [
        ({"device": list("baabca")}, {}, "column 'device': series a has 3 steps, and b has 2; cut"),
        ({"device": list("abcdef")}, {}, "column 'device': every series has one step"),
        ({"device": ["b", "a", "a", None, "c", "c"]}, {}, "row 4, column 'device': no id"),
        ({"day": [1, 2, 2, 3, 4, 5]}, {}, "row 3, column 'day': the series has this time in anot"),
        ({"day": [1, 2, 3, "soon", 5, 6]}, {}, "row 4, column 'day': 'soon' is no time"),
        ({"day": [1, 2, None, 4, 5, 6]}, {}, "row 3, column 'day': no time of this step"),
        ({"heat": [1, 2, "hot", 4, 5, 6]}, {}, "row 3, column 'heat': 'hot' is no number, as"),
        ({"heat": [1, 2, None, 4, 5, 6]}, {}, "row 3, column 'heat': nan; series have no missing"),
        ({"outcome": ["ill"] * 2 + ["well"] * 4}, {}, "'outcome': .*a series has one class"),
        ({}, {"inputs": ("heat", "room")}, "column 'room': a channel of a series is numbers"),
        ({}, {"inputs": ("heat", "day")}, "data.inputs has 'day', which is data.time"),
        ({}, {"series_id": "devise"}, "data.series_id: t.csv: .*did you mean 'device'"),
        ({}, {"series_id": None}, "time=day would do nothing without series_id"),
        ({}, {"kind": "tables"}, "data.series_id would do nothing: these are tables"),
    ],
)
def test_steps_that_make_no_series_are_named(
    tmp_path: Path, changes: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingError, match=said):
        source(tmp_path, STEPS.assign(**changes), **{**LONG, **settings}).load()


def test_the_files_of_n_baiot_become_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code of docs/howto/data.md, on files as the UCI repository has them."""
    page = (Path(__file__).parents[3] / "docs" / "howto" / "data.md").read_text()
    code = re.findall(r"`make_nbaiot\.py`.*?```python\n(.*?)```", page, re.DOTALL)[0]
    for device in ("Danmini_Doorbell", "Ennio_Doorbell"):
        for name in ("benign_traffic", "gafgyt_attacks/combo"):
            file = tmp_path / "nbaiot" / device / f"{name}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame({"MI_dir_L5_weight": np.arange(100.0)}).to_csv(file, index=False)
    (tmp_path / "nbaiot" / "demonstrate_structure.csv").write_text("a,b\n1,2\n")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    found = COLUMN_DATA["parquet"](path="nbaiot.parquet", target="attack", leave_out=("device",))
    table = found.load()
    assert found.task == "tables"
    assert table.class_names == ("benign_traffic", "gafgyt_attacks/combo")
    assert set(table.columns["device"]) == {"Danmini_Doorbell", "Ennio_Doorbell"}
    assert len(table.labels) == 2 * 2 * 2
