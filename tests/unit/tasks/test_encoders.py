"""Values as inputs of models: what is fitted to which rows, and what no public row has."""

import numpy as np
import pytest

from fedkd.data.prepared_series import PreparedSeries
from fedkd.data.prepared_tables import PreparedTable, TableSchema
from fedkd.errors import SettingError
from fedkd.settings.conditions import RunConditions
from fedkd.tasks.encoders import Preprocessing, SeriesEncoder, TableEncoder

TABLE = PreparedTable(
    key="t",
    numbers=np.array([[0.0], [2.0], [np.nan], [10.0]]),
    codes=np.array([[0], [1], [2], [-1]], dtype=np.int32),
    schema=TableSchema(("age",), ("ward",), (("a", "b", "c"),)),
    labels=np.zeros(4, dtype=np.int64),
    train_size=4,
    class_names=("x", "y"),
    others={},
)
PUBLIC = np.array([0, 1, 2])


def test_numbers_are_filled_in_and_scaled_by_the_rows_that_are_fitted_to() -> None:
    encoder = TableEncoder(TABLE, PUBLIC, PUBLIC, Preprocessing())
    found = encoder.encode(TABLE, np.arange(4))
    assert encoder.input_shape == (4,)
    spread = np.sqrt(2 / 3)  # of 0, 2 and their median, 1
    assert found[:, 0] == pytest.approx([-1 / spread, 1 / spread, 0, 9 / spread])
    assert found[:, 1:].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert encoder.facts()["center"] == [1.0]


def test_ones_own_rows_scale_numbers_and_public_rows_say_the_categories() -> None:
    encoder = TableEncoder(TABLE, np.array([3]), PUBLIC[:2], Preprocessing(fit="own"))
    found = encoder.encode(TABLE, np.arange(4))
    assert found[:, 0].tolist() == [-10, -8, 0, 0]  # less 10, and one row has no spread
    assert found[:, 1:].tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]


def test_channels_of_series_are_scaled_apart() -> None:
    values = np.stack([np.arange(6), 100 * np.arange(6)])[None].astype(np.float32)
    series = PreparedSeries("s", values, np.zeros(1, np.int64), 1, ("x", "y"), {})
    encoder = SeriesEncoder(series, np.array([0]), PUBLIC, Preprocessing(scaling="min_max"))
    assert np.allclose(encoder.encode(series, np.array([0])), np.arange(6) / 5)


def test_private_rows_are_fitted_to_only_where_nobody_claims_otherwise() -> None:
    own, tables = Preprocessing(fit="own"), {"data_kind": "tables"}
    assert own.conflict(RunConditions(**tables)) is None
    for wrong in ({"pooled_data": True}, {"hides_single_records": True}):
        assert "preprocessing.fit=own" in str(own.conflict(RunConditions(**tables, **wrong)))
    audited = RunConditions(**tables, components={"audit": "members"})
    assert "see them differently" in str(own.conflict(audited))
    assert "would do nothing" in str(own.conflict(RunConditions(data_kind="images")))


def test_a_public_table_has_the_columns_of_the_private_one() -> None:
    other = TABLE.like(TABLE, "public_data")
    assert (other.codes == TABLE.codes).all()
    for schema, said in {
        TableSchema(("age",), (), ()): "has no column ward",
        TableSchema(("ward",), ("age",), (("a", "b", "c"),)): "column 'age' holds categories",
    }.items():
        codes = TABLE.codes[:, : len(schema.categories)]
        with pytest.raises(SettingError, match=said):
            TABLE.like(PreparedTable("o", TABLE.numbers, codes, schema, *_rest()), "public_data")


def _rest() -> tuple[np.ndarray, int, tuple[str, ...], dict[str, np.ndarray]]:
    return TABLE.labels, 4, TABLE.class_names, {}
