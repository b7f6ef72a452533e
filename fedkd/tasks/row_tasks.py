"""Tables and series as tasks."""

from typing import Any, ClassVar

import numpy as np

from fedkd.data.prepared_series import PreparedSeries
from fedkd.data.prepared_tables import PreparedTable
from fedkd.tasks.encoded_rows import EncodedRowsTask
from fedkd.tasks.encoders import Encoder, Preprocessing, SeriesEncoder, TableEncoder


class TableTask(EncodedRowsTask):
    """Rows of numbers and categories; a model's input is [N, features]."""

    data_kind: ClassVar[str] = "tables"
    prepared_form: ClassVar[type] = PreparedTable

    @classmethod
    def fit(
        cls, prepared: Any, rows: np.ndarray, public: np.ndarray, settings: Preprocessing
    ) -> Encoder:
        """Return an encoder of tables that is fitted to some rows."""
        return TableEncoder(prepared, rows, public, settings)


class SeriesTask(EncodedRowsTask):
    """Series of several channels; a model's input is [N, channels, length]."""

    data_kind: ClassVar[str] = "series"
    prepared_form: ClassVar[type] = PreparedSeries

    @classmethod
    def fit(
        cls, prepared: Any, rows: np.ndarray, public: np.ndarray, settings: Preprocessing
    ) -> Encoder:
        """Return an encoder of series that is fitted to some rows."""
        return SeriesEncoder(prepared, rows, settings)
