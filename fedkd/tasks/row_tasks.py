"""Tables and series as tasks."""

from typing import ClassVar

from fedkd.data.prepared_series import PreparedSeries
from fedkd.data.prepared_tables import PreparedTable
from fedkd.tasks.encoded_rows import EncodedRowsTask
from fedkd.tasks.encoders import EncoderMaker, SeriesEncoder, TableEncoder


class TableTask(EncodedRowsTask):
    """Rows of numbers and categories; a model's input is [N, features]."""

    data_kind: ClassVar[str] = "tables"
    prepared_form: ClassVar[type] = PreparedTable
    fit: ClassVar[EncoderMaker] = TableEncoder


class SeriesTask(EncodedRowsTask):
    """Series of several channels; a model's input is [N, channels, length]."""

    data_kind: ClassVar[str] = "series"
    prepared_form: ClassVar[type] = PreparedSeries
    fit: ClassVar[EncoderMaker] = SeriesEncoder
