"""Data sets by name that others fetch: tables of scikit-learn's fetchers, texts of the hub."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkd.data.column_sources import HubColumns
from fedkd.data.prepared_tables import TableRows, TableSchema
from fedkd.data.sources import Named
from fedkd.errors import SettingError
from fedkd.settings.validators import user_path

NUMBERS = 10
"""The columns of numbers of Covertype, before those of its two categories."""
AREAS = 4
TREES = (
    *("spruce_fir", "lodgepole_pine", "ponderosa_pine", "cottonwood_willow", "aspen"),
    *("douglas_fir", "krummholz"),
)


@dataclass(frozen=True, kw_only=True)
class Covertype:
    """Forest cover type: 581,012 patches by ten numbers, wilderness area and soil type, 7 classes.

    From the UCI repository (Blackard 1998), fetched by scikit-learn, which keeps it.
    """

    task: ClassVar[str] = "tables"

    path: str | None = None
    """Folder in which scikit-learn keeps what it fetched; null is its own."""

    def content_key(self) -> str:
        """Return a constant key: the data never changes."""
        return "covertype-1"

    def load(self) -> TableRows:
        """Return the rows; there is one split, of which the test set is taken."""
        from sklearn.datasets import fetch_covtype

        home = None if self.path is None else str(user_path(self.path, "data.path"))
        try:
            found = fetch_covtype(data_home=home, n_retries=1)
        except OSError as error:  # no network, or no room
            raise SettingError(
                f"data=covertype: scikit-learn cannot fetch it: {error}; fetch it elsewhere by"
                " sklearn.datasets.fetch_covtype, and say data.path=FOLDER where it keeps it"
            ) from error
        values = np.asarray(found.data)
        hot = values[:, NUMBERS:] > 0
        codes = np.stack([hot[:, :AREAS].argmax(axis=1), hot[:, AREAS:].argmax(axis=1)], axis=1)
        names = [str(name).lower() for name in found.feature_names[:NUMBERS]]
        kinds = (AREAS, hot.shape[1] - AREAS)
        schema = TableSchema(
            tuple(names),
            ("wilderness_area", "soil_type"),
            tuple(tuple(str(i) for i in range(kind)) for kind in kinds),
        )
        labels = np.asarray(found.target, dtype=np.int64) - 1
        numbers = values[:, :NUMBERS].astype(np.float64)
        return TableRows(numbers, codes.astype(np.int32), schema, labels, len(labels), TREES, {})


FETCHED_DATA: dict[str, type | Named] = {
    "covertype": Covertype,
    "ag_news_topics": Named(
        HubColumns, {"path": "fancyzhx/ag_news", "target": "label", "kind": "labeled_texts"}
    ),
}
"""Fetched data sets by name."""
