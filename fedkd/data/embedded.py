"""Embedded tables and series: scikit-learn's, so that nothing is downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkd.data.prepared_series import SeriesRows
from fedkd.data.prepared_tables import TableRows, TableSchema


@dataclass(frozen=True, kw_only=True)
class BreastCancer:
    """scikit-learn's breast cancer: 569 tumors by 30 numbers, malignant or benign; no download.

    From the Wisconsin diagnostic data set of the UCI repository (Wolberg et al. 1995).
    """

    task: ClassVar[str] = "tables"

    def content_key(self) -> str:
        """Return a constant key: the data never changes."""
        return "breast-cancer-1"

    def load(self) -> TableRows:
        """Return the rows; there is one split, of which the test set is taken."""
        from sklearn.datasets import load_breast_cancer

        found = load_breast_cancer()
        return _of_numbers(found.data, found.target, found.feature_names, found.target_names)


@dataclass(frozen=True, kw_only=True)
class Wine:
    """scikit-learn's wine: 178 wines of three cultivars by 13 numbers; no download.

    From the UCI repository (Aeberhard & Forina 1991).
    """

    task: ClassVar[str] = "tables"

    def content_key(self) -> str:
        """Return a constant key: the data never changes."""
        return "wine-1"

    def load(self) -> TableRows:
        """Return the rows; there is one split, of which the test set is taken."""
        from sklearn.datasets import load_wine

        found = load_wine()
        return _of_numbers(found.data, found.target, found.feature_names, found.target_names)


def _of_numbers(
    numbers: np.ndarray, labels: np.ndarray, names: Sequence[str], classes: Sequence[str]
) -> TableRows:
    schema = TableSchema(tuple(str(name).replace(" ", "_") for name in names), (), ())
    return TableRows(
        np.asarray(numbers, dtype=np.float64),
        np.zeros((len(numbers), 0), dtype=np.int32),
        schema,
        labels.astype(np.int64),
        len(labels),
        tuple(map(str, classes)),
        {},
    )


@dataclass(frozen=True, kw_only=True)
class DigitSeries:
    """scikit-learn's digits as series: 8 channels, an image's rows, over 8 steps; no download.

    Made of ``digits``, 1,797 handwritten digits of 8 x 8: as a scanner would read them, a column of
    the image at a time.
    """

    task: ClassVar[str] = "series"

    def content_key(self) -> str:
        """Return a constant key: the data never changes."""
        return "digit-series-1"

    def load(self) -> SeriesRows:
        """Return the rows; there is one split, of which the test set is taken."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        values, labels = digits.images.astype(np.float32), digits.target.astype(np.int64)
        return SeriesRows(values, labels, len(labels), tuple(map(str, range(10))), {})


EMBEDDED_DATA: dict[str, type] = {
    "breast_cancer": BreastCancer,
    "wine": Wine,
    "digit_series": DigitSeries,
}
"""Embedded tables and series by name."""
